//! A store that can't be written: what can't be recorded does not run.

use adit::settings::Settings;
use adit_actors::exec::{Exec, Outcome, Ran};
use secrecy::ExposeSecret;
use serde_json::json;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions, Connection};

use crate::support::{Backend, TestApp};

#[actix_rt::test]
async fn what_cannot_be_recorded_is_not_run_in_process() {
    what_cannot_be_recorded_is_not_run(Backend::InProcess).await;
}

#[actix_rt::test]
async fn what_cannot_be_recorded_is_not_run_with_openssh() {
    what_cannot_be_recorded_is_not_run(Backend::OpenSshBash).await;
}

/// Takes the store's only right to write. Readers, such as authentication, go on.
async fn lock(settings: &str) -> SqliteConnection {
    let mut connection = SqliteConnectOptions::new()
        .filename(settings)
        .connect()
        .await
        .unwrap();
    sqlx::query("BEGIN EXCLUSIVE")
        .execute(&mut connection)
        .await
        .unwrap();
    connection
}

fn store_file(settings: &Settings) -> String {
    let url = settings.store.url.expose_secret();
    url.strip_prefix("sqlite://").unwrap().to_owned()
}

async fn what_cannot_be_recorded_is_not_run(backend: Backend) {
    let mut store = String::new();
    let app = TestApp::start_with(backend, |setup| store = store_file(&setup.settings)).await;
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

    let lock = lock(&store).await;
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
    lock.close().await.unwrap();

    // On the same tunnel, so that the refused ones would have run before it.
    let after = app.run(body("after")).await;
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
    app.finish().await;
}
