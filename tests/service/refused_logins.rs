//! An sshd that refuses the key, or the address: it is asked so seldom that it has no reason to lock the address out.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use adit_actors::exec::{Outcome, Ran};
use adit_emulator::{Faults, InstanceBackend, Times};
use serde_json::json;
use tokio::time::Instant;

use crate::support::api::Answer;
use crate::support::{Backend, INSTANCE, TestApp, wait};

/// Asks, one at a time and as fast as answers come, and checks that each is refused with this. Gives each answer's
/// Retry-After in seconds.
async fn press(app: &TestApp, time: Duration, status: u16, code: &str) -> Vec<u64> {
    let mut waits = Vec::new();
    let start = Instant::now();
    while start.elapsed() < time {
        let answer: Answer = app.run(json!({"cmd": ["true"]})).await;
        let exec = answer.exec_of_problem(status, code);
        assert_eq!(
            (exec.outcome, exec.ran),
            (Some(Outcome::Failed), Ran::No),
            "{exec:?}"
        );
        let retry_after = answer.header("retry-after").expect("a time to come back at");
        waits.push(retry_after.parse().unwrap());
    }
    waits
}

/// The back-off alone would let some four tries through in this time.
const PRESSING: Duration = Duration::from_secs(10);

#[actix_rt::test]
async fn two_refused_logins_reach_the_instance_in_process() {
    let app = TestApp::start_with(Backend::InProcess, |setup| {
        setup.emulator.instances[0].faults.refused_logins = Times::Always;
    })
    .await;
    let waits = press(&app, PRESSING, 502, "login_refused").await;
    let counters = app.emulator.counters();
    assert_eq!(
        (counters.login_attempts, counters.logins_refused),
        (2, 2),
        "of {} asks",
        waits.len()
    );
    assert_eq!(counters.pushes, 2, "a key that was refused is not tried again");
    assert_eq!(counters.tunnels_opened, 2, "nor is sshd probed without a login");
    app.finish().await;
}

/// The keys come to where this sshd does not look, as on an instance without EC2 Instance Connect's
/// `AuthorizedKeysCommand`.
#[actix_rt::test]
async fn two_refused_logins_reach_the_instance_with_openssh() {
    let elsewhere = tempfile::tempdir().unwrap();
    std::fs::set_permissions(elsewhere.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let app = TestApp::start_with(Backend::OpenSshDash, |setup| {
        match &mut setup.emulator.instances[0].backend {
            InstanceBackend::External {
                authorized_keys_dir, ..
            } => *authorized_keys_dir = elsewhere.path().to_owned(),
            InstanceBackend::InProcess { .. } => panic!("the instance has a real sshd"),
        }
    })
    .await;
    let waits = press(&app, PRESSING, 502, "login_refused").await;
    assert_eq!(app.emulator.counters().pushes, 2);
    let log = app.sshd_log();
    assert_eq!(
        (
            log.matches("Connection from ").count(),
            log.matches("Failed publickey for adit-dash ").count()
        ),
        (2, 2),
        "of {} asks:\n{log}",
        waits.len()
    );
    app.finish().await;
}

/// Longer than the first pause after any other failure.
const MEANWHILE: Duration = Duration::from_secs(5);

/// The emulator says what OpenSSH 9.8 says: the sshd of these tests may be older, and penalises nobody.
#[actix_rt::test]
async fn a_penalised_address_is_left_alone() {
    let app = TestApp::start_with(Backend::InProcess, |setup| {
        setup.emulator.instances[0].faults.penalised_connections = Times::Always;
    })
    .await;
    let waits = press(&app, MEANWHILE, 503, "login_penalised").await;
    // sshd's shortest penalty is 15 s; of those, the key push beside the connection may have taken some.
    assert!(waits[0] > 10, "{waits:?}");
    assert!(waits.is_sorted_by(|earlier, later| later <= earlier), "{waits:?}");
    let counters = app.emulator.counters();
    assert_eq!(
        (counters.tunnels_opened, counters.push_attempts),
        (1, 1),
        "nothing is dialled meanwhile: {counters:?}"
    );
    let instance = app.tunnels().await["data"][0].clone();
    assert_eq!(instance["last_error"]["code"], "login_penalised", "{instance}");
    assert!(instance["retry_in_s"].is_f64(), "{instance}");

    assert!(app.emulator.set_faults(INSTANCE, Faults::default()));
    wait::until_true("the pause is over", async || {
        app.tunnels().await["data"][0]["retry_in_s"].is_null()
    })
    .await;
    assert_eq!(app.run(json!({"cmd": ["true"]})).await.exec().exit_code, Some(0));
    assert_eq!(app.emulator.counters().tunnels_opened, 2);
    app.finish().await;
}
