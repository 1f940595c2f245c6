//! Host key pins: what an instance must show, and what an operator can do about it.

use adit_actors::exec::{Outcome, Ran};
use adit_emulator::HostKey;
use serde_json::{Value, json};

use crate::support::{Backend, INSTANCE, TestApp, wait};

fn path() -> String {
    format!("/admin/hostkeys/{INSTANCE}")
}

async fn shown(app: &TestApp) -> Value {
    let answer = app.admin("GET", &path(), None).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

async fn echo(app: &TestApp, word: &str) {
    let answer = app.run(json!({"cmd": ["echo", word]})).await;
    assert_eq!(answer.json()["stdout"], format!("{word}\n"), "{answer:?}");
}

over_every_instance!(
    the_first_login_pins_and_an_operator_sees_it,
    a_wrong_key_is_refused_until_an_operator_says_otherwise,
    a_forgotten_key_is_pinned_anew_at_once,
);

async fn the_first_login_pins_and_an_operator_sees_it(app: &TestApp) {
    app.admin("GET", &path(), None).await.problem(404, "not_found");
    echo(app, "one").await;
    let pin = shown(app).await;
    assert_eq!(pin["provenance"], "first_use", "{pin}");
    assert_eq!(pin["pinned_by"], Value::Null, "{pin}");
    assert_eq!(pin["region"], "us-east-1", "{pin}");
    assert_eq!(pin["key_type"], "ssh-ed25519", "{pin}");
    let fingerprint = pin["fingerprint"].as_str().unwrap();
    assert!(fingerprint.starts_with("SHA256:"), "{pin}");
    let listed = app.admin("GET", "/admin/hostkeys", None).await.json();
    assert_eq!(listed, json!({"data": [pin], "next_cursor": null}));

    // The operator confirms it: the same key by another provenance, and execs go on.
    let confirmed = app.admin("PUT", &path(), Some(&json!({"key": pin["key"]}))).await;
    assert_eq!(confirmed.status, 200, "{confirmed:?}");
    let confirmed = confirmed.json();
    assert_eq!(confirmed["replaced"], pin);
    assert_eq!(
        (&confirmed["pinned"]["key"], &confirmed["pinned"]["provenance"]),
        (&pin["key"], &json!("operator"))
    );
    echo(app, "two").await;
    assert_eq!(
        shown(app).await,
        confirmed["pinned"],
        "a login does not change it"
    );
}

async fn a_wrong_key_is_refused_until_an_operator_says_otherwise(app: &TestApp) {
    let wrong = HostKey::generate().public_openssh().unwrap();
    let pinned = app.admin("PUT", &path(), Some(&json!({"key": wrong}))).await;
    assert_eq!(pinned.status, 200, "{pinned:?}");
    let pin = pinned.json()["pinned"].clone();

    let marker = tempfile::tempdir().unwrap();
    let file = marker.path().join("it-ran");
    std::fs::set_permissions(marker.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let refused = app.run(json!({"cmd": ["touch", file]})).await;
    let exec = refused.exec_of_problem(502, "host_key_changed");
    assert_eq!(
        (exec.ran, exec.outcome),
        (Ran::No, Some(Outcome::Failed)),
        "{exec:?}"
    );
    assert_eq!(shown(app).await, pin, "the refusal changes no pin");
    let tunnels = app.tunnels().await;
    assert_eq!(
        tunnels["data"][0]["last_error"]["code"], "host_key_changed",
        "{tunnels}"
    );
    let counters = app.emulator.counters();
    assert_eq!(counters.commands_started, 0, "{counters:?}");
    assert!(!file.exists(), "no command was sent");

    let forgotten = app.admin("DELETE", &path(), None).await;
    assert_eq!(forgotten.status, 200, "{forgotten:?}");
    assert_eq!(forgotten.json()["forgotten"], pin);
    // At once: the refusal is not backed off from any more.
    echo(app, "trusted").await;
    let pinned_anew = shown(app).await;
    assert_eq!(pinned_anew["provenance"], "first_use", "{pinned_anew}");
    assert_ne!(pinned_anew["key"], pin["key"]);
}

async fn a_forgotten_key_is_pinned_anew_at_once(app: &TestApp) {
    echo(app, "one").await;
    let pin = shown(app).await;
    assert_eq!(app.admin("DELETE", &path(), None).await.status, 200);
    app.admin("DELETE", &path(), None).await.problem(404, "not_found");
    app.admin("GET", &path(), None).await.problem(404, "not_found");

    // The tunnel that there was had been checked against the old pin, so this exec gets another one.
    echo(app, "two").await;
    assert_eq!(app.emulator.counters().tunnels_opened, 2);
    let again = shown(app).await;
    assert_eq!(
        (&again["key"], &again["provenance"]),
        (&pin["key"], &json!("first_use"))
    );
    wait::until_true("the old tunnel has closed", async || {
        app.emulator.counters().tunnels_open == 1
    })
    .await;
}

/// The host platform's own view of an instance: a workspace's region is part of whose pin it is.
#[actix_rt::test]
async fn a_pin_of_another_region_is_another_instances() {
    let app = TestApp::start(Backend::InProcess).await;
    let wrong = HostKey::generate().public_openssh().unwrap();
    let elsewhere = format!("{}?region=us-west-2", path());
    let body = json!({"key": wrong});
    assert_eq!(app.admin("PUT", &elsewhere, Some(&body)).await.status, 200);
    echo(&app, "here").await;
    app.finish().await;
}

/// What was installed anew makes itself a new key. Nobody can tell that from somebody in between.
#[actix_rt::test]
async fn a_reinstalled_instance_is_refused_until_its_pin_is_forgotten() {
    let app = TestApp::start(Backend::InProcess).await;
    echo(&app, "one").await;
    let pin = shown(&app).await;
    let new = HostKey::generate();
    let new_line = new.public_openssh().unwrap();
    assert!(app.emulator.set_host_key(INSTANCE, new));
    assert_eq!(app.emulator.cut_tunnels(INSTANCE), 1);
    wait::until_true("the service knows that its tunnel is lost", async || {
        app.tunnels().await["data"][0]["tunnels"] == json!([])
    })
    .await;

    let before = app.emulator.counters().commands_started;
    // Whoever comes after the first, held back or not, is told the same.
    for _ in 0..2 {
        let refused = app.run(json!({"cmd": ["true"]})).await;
        let exec = refused.exec_of_problem(502, "host_key_changed");
        assert_eq!(
            (exec.ran, exec.outcome),
            (Ran::No, Some(Outcome::Failed)),
            "{exec:?}"
        );
    }
    let counters = app.emulator.counters();
    assert_eq!(counters.commands_started, before, "{counters:?}");
    assert_eq!(counters.login_attempts, 1, "no key is shown to it: {counters:?}");
    assert_eq!(shown(&app).await, pin, "the refusals change no pin");

    let forgotten = app.admin("DELETE", &path(), None).await;
    assert_eq!(forgotten.status, 200, "{forgotten:?}");
    assert_eq!(forgotten.json()["forgotten"], pin);
    // At once: the refusal is not backed off from any more.
    echo(&app, "trusted").await;
    let pinned_anew = shown(&app).await;
    assert_eq!(
        (&pinned_anew["key"], &pinned_anew["provenance"]),
        (&json!(new_line), &json!("first_use"))
    );
    let rows = app.rows().await;
    let statuses: Vec<&str> = rows.iter().map(|row| row.status.as_str()).collect();
    assert_eq!(statuses, ["ok", "error", "error", "ok"], "{rows:#?}");
    app.finish().await;
}
