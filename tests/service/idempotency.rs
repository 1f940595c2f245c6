//! Idempotency-Key: whatever callers do with one key, its command runs once.

use std::path::{Path, PathBuf};

use adit_actors::exec::{Exec, Outcome, Ran};
use adit_emulator::InstanceState;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::api::Answer;
use crate::support::{INSTANCE, TestApp, wait};

over_the_emulator!(
    many_at_once_are_one_run,
    a_replay_is_the_stored_exec_in_either_form,
    a_replay_tells_of_a_bad_end_too,
    another_body_is_refused,
    a_key_is_its_workspaces_own,
    what_never_ran_runs_with_the_next_try,
    what_could_not_be_recorded_runs_with_the_next_try,
    a_caller_that_leaves_takes_its_run_along,
);
over_postgres!(
    many_at_once_are_one_run,
    a_replay_is_the_stored_exec_in_either_form,
    what_never_ran_runs_with_the_next_try,
);

/// Callers at once; fewer than one token may have in flight.
const CALLERS: usize = 24;

async fn run_under(app: &TestApp, key: &str, accept: &str, body: &Value) -> Answer {
    let workspace = app.seed.workspace();
    app.api
        .exec_under(key, accept, (workspace.id, &workspace.token), body)
        .await
}

async fn json_under(app: &TestApp, key: &str, body: &Value) -> Answer {
    run_under(app, key, "application/json", body).await
}

/// A command that leaves a line in a file each time it runs.
struct Runs {
    directory: TempDir,
}

impl Runs {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self { directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// `script` after the line.
    fn body(&self, script: &str) -> Value {
        json!({"cmd": ["sh", "-c", format!("echo ran >> {}; {script}", self.path("runs").display())]})
    }

    fn count(&self) -> usize {
        std::fs::read_to_string(self.path("runs")).map_or(0, |text| text.lines().count())
    }
}

fn until_exists(path: &Path) -> String {
    format!("while [ ! -e {} ]; do sleep 0.02; done", path.display())
}

/// What a row knows of an exec: all but the digests of its output.
fn as_stored(mut exec: Exec) -> Exec {
    exec.streams.stdout.sha256 = None;
    exec.streams.stderr.sha256 = None;
    exec
}

fn assert_is_replay(answer: &Answer, of: &Exec) {
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("idempotent-replayed"), Some("true"), "{answer:?}");
    assert_eq!(
        answer.header("adit-exec-id"),
        Some(of.exec_id.to_string().as_str())
    );
    assert_eq!(answer.header("cache-control"), Some("no-store, no-transform"));
    assert_eq!(answer.header("x-accel-buffering"), Some("no"));
}

async fn many_at_once_are_one_run(app: &TestApp) {
    let runs = Runs::new();
    let body = runs.body(&until_exists(&runs.path("go")));
    let mut answers: FuturesUnordered<_> = (0..CALLERS).map(|_| json_under(app, "k", &body)).collect();
    let mut refused = Vec::new();
    while refused.len() < CALLERS - 1 {
        refused.push(answers.next().await.unwrap());
    }
    // The one that runs can't have been answered: its program waits for this.
    std::fs::write(runs.path("go"), "").unwrap();
    let own = answers.next().await.unwrap();
    assert_eq!(own.header("idempotent-replayed"), None);
    let exec = own.exec();
    assert_eq!((exec.ran, exec.exit_code), (Ran::Yes, Some(0)));
    assert_eq!(exec.exec_id.get_version_num(), 5);
    for answer in &refused {
        let problem = answer.problem(409, "exec_in_progress");
        assert_eq!(problem["exec"]["exec_id"], exec.exec_id.to_string(), "{problem}");
        assert_eq!(problem["exec"]["state"], "running", "{problem}");
        assert_eq!(
            answer.header("adit-exec-id"),
            Some(exec.exec_id.to_string().as_str())
        );
        assert_eq!(answer.header("cache-control"), Some("no-store, no-transform"));
        let wait: u64 = answer.header("retry-after").unwrap().parse().unwrap();
        assert!(wait > 0);
    }
    // As many as may be at once, if each gives its place back.
    let replays = (0..CALLERS).map(|_| json_under(app, "k", &body));
    for answer in futures_util::future::join_all(replays).await {
        assert_is_replay(&answer, &exec);
    }
    assert_eq!(runs.count(), 1);
    assert_eq!(app.only_row().await.id, exec.exec_id);
}

async fn a_replay_is_the_stored_exec_in_either_form(app: &TestApp) {
    let runs = Runs::new();
    let mut body = runs.body("echo out; echo err >&2; exit 7");
    let first = json_under(app, "k", &body).await;
    let exec = first.exec();
    assert_eq!((exec.exit_code, exec.streams.stdout.bytes), (Some(7), 4));
    assert_eq!(first.json()["stdout"], "out\n");

    let replay = json_under(app, "k", &body).await;
    assert_is_replay(&replay, &exec);
    assert_eq!(replay.exec(), as_stored(exec.clone()));
    assert_eq!(replay.json().get("stdout"), None);
    assert_eq!(replay.json().get("aws_request_ids"), None);

    // How the answer is to look is not what is asked for.
    for announce in [false, true] {
        body["announce"] = json!(announce);
        let replay = run_under(app, "k", "*/*", &body).await;
        assert_is_replay(&replay, &exec);
        assert_eq!(replay.frames().types(), ["exit"]);
        assert_eq!(replay.frames().exit(), as_stored(exec.clone()));
    }
    assert_eq!(runs.count(), 1);
    assert_eq!(app.only_row().await.id, exec.exec_id);
}

async fn a_replay_tells_of_a_bad_end_too(app: &TestApp) {
    let body = json!({"cmd": ["sleep", "100"], "timeout_s": 1});
    let exec = json_under(app, "k", &body)
        .await
        .exec_of_problem(504, "exec_timeout");
    let replay = json_under(app, "k", &body).await;
    assert_is_replay(&replay, &exec);
    assert_eq!(replay.exec(), as_stored(exec));
}

async fn another_body_is_refused(app: &TestApp) {
    let exec = json_under(app, "k", &json!({"cmd": ["true"]})).await.exec();
    for other in [
        json!({"cmd": ["true", ""]}),
        json!({"cmd": ["true"], "timeout_s": 31}),
        json!({"cmd": ["true"], "stdin": "x"}),
    ] {
        let answer = json_under(app, "k", &other).await;
        answer.problem(422, "idempotency_mismatch");
        assert_eq!(
            answer.header("adit-exec-id"),
            Some(exec.exec_id.to_string().as_str())
        );
    }
    let another = json_under(app, "K", &json!({"cmd": ["true"]})).await;
    assert_eq!(another.header("idempotent-replayed"), None);
    assert_ne!(another.exec().exec_id, exec.exec_id);
    assert_eq!(app.rows().await.len(), 2);
}

async fn a_key_is_its_workspaces_own(app: &TestApp) {
    let body = json!({"cmd": ["true"]});
    let mut ids = Vec::new();
    for workspace in &app.seed.tiers[2..] {
        // Its own token and its org's: a key is not a token's.
        for token in [&workspace.token, &app.seed.org_token] {
            let answer = app
                .api
                .exec_under("k", "application/json", (workspace.id, token), &body)
                .await;
            ids.push(answer.exec().exec_id);
        }
    }
    assert_eq!((ids[0], ids[2]), (ids[1], ids[3]));
    assert_ne!(ids[0], ids[2]);
    assert_eq!(app.rows().await.len(), 2);
}

async fn what_never_ran_runs_with_the_next_try(app: &TestApp) {
    let runs = Runs::new();
    let body = runs.body("true");
    app.emulator.set_instance_state(INSTANCE, InstanceState::Stopped);
    let mut failed = Vec::new();
    for _ in 0..5 {
        let exec = json_under(app, "k", &body)
            .await
            .exec_of_problem(409, "instance_not_running");
        assert_eq!(exec.ran, Ran::No);
        failed.push(exec.exec_id);
    }
    app.emulator.set_instance_state(INSTANCE, InstanceState::Running);
    // The pool may back off still, which is a failed attempt as well.
    let exec = wait::until("it runs", async || {
        let answer = json_under(app, "k", &body).await;
        if answer.status == 200 {
            return Some(answer.exec());
        }
        failed.push(answer.exec_of_problem(409, "instance_not_running").exec_id);
        None
    })
    .await;
    assert_eq!(exec.exit_code, Some(0));
    assert_is_replay(&json_under(app, "k", &body).await, &exec);
    assert_eq!(runs.count(), 1);
    let rows = app.rows().await;
    failed.push(exec.exec_id);
    let ids: Vec<_> = rows.iter().map(|row| row.id).collect();
    assert_eq!(ids, failed, "each attempt has its own row");
    json_under(app, "k", &json!({"cmd": ["false"]}))
        .await
        .problem(422, "idempotency_mismatch");
}

async fn what_could_not_be_recorded_runs_with_the_next_try(app: &TestApp) {
    let runs = Runs::new();
    let body = runs.body("true");
    let held = app.store().hold_writers().await;
    let refused = json_under(app, "k", &body)
        .await
        .exec_of_problem(503, "audit_unavailable");
    assert_eq!((refused.ran, refused.outcome), (Ran::No, Some(Outcome::Failed)));
    held.let_go().await;
    // Until it is found out that the store is back it goes on so. Whether the first attempt has a row, and when it is settled, is
    // the store's to say.
    let exec = wait::until("it runs", async || {
        let answer = json_under(app, "k", &body).await;
        if answer.status == 200 {
            return Some(answer.exec());
        }
        match answer.status {
            503 => answer.problem(503, "audit_unavailable"),
            _ => answer.problem(409, "exec_in_progress"),
        };
        None
    })
    .await;
    assert_eq!(exec.exit_code, Some(0));
    assert_eq!(runs.count(), 1);
    assert_is_replay(&json_under(app, "k", &body).await, &exec);
}

async fn a_caller_that_leaves_takes_its_run_along(app: &TestApp) {
    let runs = Runs::new();
    let body = runs.body("sleep 100");
    {
        let mut leaving = Box::pin(json_under(app, "k", &body));
        let has_run = wait::until_true("it runs", async || runs.count() == 1);
        tokio::select! {
            _ = &mut leaving => panic!("it has ended"),
            () = has_run => {}
        }
    }
    let replay = wait::until("it has ended", async || {
        let answer = json_under(app, "k", &body).await;
        (answer.status == 200).then_some(answer)
    })
    .await;
    let exec = replay.exec();
    assert_eq!((exec.ran, exec.outcome), (Ran::Yes, Some(Outcome::Cancelled)));
    assert_eq!(runs.count(), 1);
}
