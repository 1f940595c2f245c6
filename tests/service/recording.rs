//! A store that can't be written: what can't be recorded does not run.

use adit_actors::exec::{Exec, Outcome, Ran};
use serde_json::json;

use crate::support::{TestApp, wait};

over_every_instance!(what_cannot_be_recorded_is_not_run);
over_postgres!(what_cannot_be_recorded_is_not_run);

async fn what_cannot_be_recorded_is_not_run(app: &TestApp) {
    // The login that runs the command is another user.
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(
        directory.path(),
        std::os::unix::fs::PermissionsExt::from_mode(0o777),
    )
    .unwrap();
    let mark = |name: &str| directory.path().join(name);
    let body = |name: &str| json!({"cmd": ["touch", mark(name)]});
    // With a tunnel that is open nothing but the row is between the request and the program.
    assert_eq!(app.run(body("before")).await.exec().exit_code, Some(0));
    assert!(mark("before").exists());

    let held = app.store().hold_writers().await;
    let (json, stream) = tokio::join!(app.run(body("json")), app.stream(body("stream")));
    let refused: Vec<Exec> = [json, stream]
        .iter()
        .map(|answer| {
            let wait: u64 = answer.header("retry-after").unwrap().parse().unwrap();
            assert!(wait > 0);
            answer.exec_of_problem(503, "audit_unavailable")
        })
        .collect();
    for exec in &refused {
        assert_eq!(
            (exec.ran, exec.outcome, exec.audit.committed),
            (Ran::No, Some(Outcome::Failed), false),
            "{exec:?}"
        );
    }
    held.let_go().await;

    // On the same tunnel, so that the refused ones would have run before it. Until it is found out that the store is back,
    // every exec is refused at once.
    let after = wait::until("the store is written again", async || {
        let after = app.run(body("after")).await;
        (after.status != 503).then_some(after)
    })
    .await;
    assert_eq!(after.exec().exit_code, Some(0));
    assert_eq!(after.json()["tunnel"], "warm");
    let marks = ["before", "json", "stream", "after"].map(|name| mark(name).exists());
    assert_eq!(marks, [true, false, false, true]);
    // A begin of which nobody knows whether it was written is settled later; one that surely was not leaves no row.
    let rows = app.rows().await;
    for exec in &refused {
        let rows: Vec<_> = rows.iter().filter(|row| row.id == exec.exec_id).collect();
        assert!(rows.len() <= 1, "{rows:?}");
        assert!(
            rows.iter()
                .all(|row| row.response_body.as_ref().is_none_or(|body| body["ran"] == "no")),
            "{rows:?}"
        );
    }
}
