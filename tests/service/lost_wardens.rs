//! A warden that dies on the instance: what its execs have started is ended by the next one.

use adit_actors::exec::Outcome;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::streaming::Streaming;
use crate::support::{Backend, TestApp, processes, wait};

/// Ends the wardens of the tunnel over which a process with this argument was started.
fn kill_wardens_of(argument: &str) {
    let marks: Vec<String> = processes::with_argument(argument)
        .into_iter()
        .filter_map(|process| processes::value_in(process, "ADIT_TUNNEL"))
        .collect();
    let wardens = processes::with_argument(&marks[0]);
    assert!(!wardens.is_empty(), "none carries {marks:?}");
    for warden in wardens {
        let warden = Pid::from_raw(warden.try_into().unwrap()).unwrap();
        kill_process(warden, Signal::KILL).unwrap();
    }
}

over_every_shell!(what_a_dead_warden_leaves_is_ended_by_the_next);

async fn what_a_dead_warden_leaves_is_ended_by_the_next(app: &TestApp) {
    let argument = processes::unique_sleep();
    // Neither TERM nor a signal to the group of the exec ends it.
    let script = "trap '' TERM; setsid sleep $1 <&- >&- 2>&- & echo up; exec sleep $1";
    let body = json!({"cmd": ["sh", "-c", script, "sh", argument]});
    let streaming = Streaming::begin(app, &body, "up").await;
    app.until_wardens_are("ready").await;
    kill_wardens_of(&argument);

    let workspace = app.seed.workspace();
    let path = format!("/workspaces/{}/exec/{}", workspace.id, streaming.exec_id());
    let answer = app.api.call("DELETE", &path, Some(&workspace.token), None).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    let exec = streaming.rest().await.frames().exit();
    assert_eq!(exec.outcome, Some(Outcome::Cancelled), "{exec:?}");
    // The next warden is there after a second, and has four left.
    let is_confirmed = exec.kill.as_ref().unwrap().confirmed;
    let left = processes::with_argument(&argument);
    assert!(!is_confirmed || left.is_empty(), "{left:?} of {exec:?}");
    wait::until_true("nothing is left", async || {
        processes::with_argument(&argument).is_empty()
    })
    .await;
    assert_eq!(app.run(json!({"cmd": ["true"]})).await.exec().exit_code, Some(0));
}

/// Over a real sshd, which goes on when the service has ended.
#[actix_rt::test]
async fn a_stop_waits_for_the_next_warden() {
    let app = TestApp::start(Backend::OpenSshDash).await;
    let argument = processes::unique_sleep();
    let script = "trap '' TERM; setsid sleep $1 <&- >&- 2>&- & echo up";
    let body = json!({"cmd": ["sh", "-c", script, "sh", argument]});
    assert_eq!(app.run(body).await.exec().exit_code, Some(0));
    app.until_wardens_are("ready").await;
    kill_wardens_of(&argument);
    app.until_wardens_are("starting").await;
    app.stop_under_way().await;
    wait::until_true("nothing is left", async || {
        processes::with_argument(&argument).is_empty()
    })
    .await;
}
