//! What runs when the service itself is gone.

use serde_json::json;

use crate::support::processes;
use crate::support::site::Site;
use crate::support::store::TestStore;
use crate::support::wait;

const EXECS: usize = 20;

/// Nobody is left to end them but the wardens on the instance, which see their tunnels end.
#[tokio::test]
async fn a_killed_service_leaves_no_process_on_the_instance() {
    let site = Site::start_over_sshd(TestStore::sqlite()).await;
    let service = site.serve().await;
    let (workspace, token) = (site.seed.workspace().id, site.seed.workspace().token.clone());
    let arguments: Vec<String> = (0..EXECS).map(|_| processes::unique_sleep()).collect();
    let callers: Vec<_> = arguments
        .iter()
        .map(|argument| {
            let script = "trap '' TERM; setsid sleep $1 & sleep $1; sleep $1";
            let body = json!({"cmd": ["sh", "-c", script, "sh", argument], "timeout_s": 120});
            let (api, token) = (service.api.clone(), token.clone());
            tokio::spawn(async move { api.exec_json(workspace, &token, &body).await })
        })
        .collect();
    wait::until_true("all of it runs, and every tunnel has its warden", async || {
        let are_up = arguments
            .iter()
            .all(|argument| processes::with_argument(argument).len() >= 2);
        let instances = service.tunnels().await;
        let mut tunnels = instances
            .iter()
            .flat_map(|instance| instance["tunnels"].as_array().unwrap());
        are_up && tunnels.all(|tunnel| tunnel["warden"] == "ready")
    })
    .await;

    for caller in &callers {
        caller.abort();
    }
    service.kill().await;
    wait::until_true("nothing is left on the instance", async || {
        arguments
            .iter()
            .all(|argument| processes::with_argument(argument).is_empty())
    })
    .await;
    site.emulator.stop().await;
}
