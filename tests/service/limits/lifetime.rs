//! Tunnels that end by their age under execs that go on.

use futures_util::future::join_all;
use serde_json::json;

use super::*;

/// As many callers as have an exec each at all times.
const CALLERS: usize = 4;

/// Tunnels of 20 s, and always four execs of 2 s with a timeout of 4 s, until the fourth tunnel. It takes little CPU and
/// half a minute, beside which the other tests run.
#[actix_rt::test]
async fn no_exec_is_lost_to_the_end_of_its_tunnels_life() {
    let app = start(Fleet::default(), |setup| {
        setup.settings.aws.max_tunnel_duration = Duration::from_secs(20);
    })
    .await;
    let callers = (0..CALLERS).map(async |caller| {
        let mut ran: usize = 0;
        while app.emulator.counters().tunnels_opened < 4 {
            let number = 1_000 * caller + ran;
            let script = format!("sleep 2; echo {number}");
            let answer = app
                .run(json!({"cmd": ["sh", "-c", script], "timeout_s": 4}))
                .await;
            assert_printed(&answer, number);
            ran += 1;
            assert!(ran < 100, "the tunnels are not replaced");
        }
        ran
    });
    let ran: usize = join_all(callers).await.into_iter().sum();
    assert!(
        app.emulator.counters().tunnels_peak <= 2,
        "{:?}",
        app.emulator.counters()
    );
    assert_all_served(&app, ran).await;
    app.finish().await;
}
