//! The whole path to a real OpenSSH sshd behind the emulator.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a helper of a test may fail it"
)]

mod support;

use std::time::Duration;

use adit_emulator::Emulator;
use support::ssh::{exec, first_line, handshake, log_in, new_key, push_key, run, try_login};
use support::sshd::{Sshd, USER};
use support::{eventually, scenarios};

async fn start(sshd: &Sshd) -> Emulator {
    Emulator::start(sshd.settings()).await.unwrap()
}

macro_rules! scenario {
    ($($name:ident),* $(,)?) => {
        $(
            #[tokio::test]
            async fn $name() {
                let sshd = Sshd::start().await;
                let emulator = start(&sshd).await;
                let connection = log_in(&emulator, USER).await;
                scenarios::$name(&connection).await;
                drop(connection);
                support::soon("the stop", emulator.stop()).await;
            }
        )*
    };
}

scenario!(
    output_on_both_streams_and_exit_status,
    a_command_of_any_bytes_but_nul_arrives,
    term_ends_the_whole_process_group,
    a_signal_death_is_named,
    stdin_is_echoed_and_half_closes,
    a_program_that_does_not_read_stdin_stalls_nobody,
    the_eleventh_session_is_refused_and_a_freed_slot_taken,
    a_background_process_keeps_its_session_open,
    a_closed_channel_kills_nothing,
    a_command_too_long_for_the_system_fails_like_one,
    other_requests_are_refused,
);

#[tokio::test]
async fn a_key_works_for_its_user_and_lifetime_and_not_after() {
    let sshd = Sshd::start().await;
    let mut settings = sshd.settings();
    // sshd goes by real time and whole seconds, so this test has to wait: two lifetimes, no more.
    settings.key_lifetime = Duration::from_secs(2);
    let emulator = Emulator::start(settings).await.unwrap();
    let (first, second) = (new_key(), new_key());
    push_key(&emulator, USER, &first).await;
    push_key(&emulator, USER, &second).await;
    let path = sshd.keys.join(USER);
    assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 2);
    let mut connection = handshake(&emulator).await;
    assert!(try_login(&mut connection, USER, &second).await);
    assert!(!try_login(&mut handshake(&emulator).await, "root", &first).await);

    // The later of the two: when it has expired, so has the other.
    eventually("the key has expired", async || {
        !try_login(&mut handshake(&emulator).await, USER, &second).await
    })
    .await;
    assert!(!try_login(&mut handshake(&emulator).await, USER, &first).await);
    push_key(&emulator, USER, &new_key()).await;
    assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 1);
    assert_eq!(std::fs::read_dir(&sshd.keys).unwrap().count(), 1);
    // A login that happened outlives its key.
    assert_eq!(run(&connection, "echo hi").await.stdout, b"hi\n");
}

#[tokio::test]
async fn a_lost_connection_kills_nothing() {
    let sshd = Sshd::start().await;
    let emulator = start(&sshd).await;
    let connection = log_in(&emulator, USER).await;
    let mut channel = exec(&connection, "echo $$; exec sleep 1000").await;
    let process: u32 = first_line(&mut channel).await.parse().unwrap();
    assert_eq!(emulator.cut_tunnels(support::requests::INSTANCE), 1);
    eventually("the client noticed", async || connection.is_closed()).await;
    assert!(scenarios::is_running(process));
    let again = log_in(&emulator, USER).await;
    assert_eq!(run(&again, &format!("kill {process}")).await.status, Some(0));
}
