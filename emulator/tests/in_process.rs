//! The whole path to the in-process instance: key push, signed tunnel, SSH, real processes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a helper of a test may fail it"
)]

mod support;

use std::time::Duration;

use adit_emulator::{Emulator, HostKey, Instance, InstanceBackend, Settings};
use support::requests::credentials;
use support::ssh::{
    exec, finish, first_line, handshake, handshake_with_key, log_in, new_key, push_key, run, try_login,
};
use support::{eventually, scenarios, soon};

async fn start() -> Emulator {
    Emulator::start(Settings::new(credentials())).await.unwrap()
}

macro_rules! scenario {
    ($($name:ident),* $(,)?) => {
        $(
            #[tokio::test]
            async fn $name() {
                let emulator = start().await;
                let connection = log_in(&emulator, "ec2-user").await;
                scenarios::$name(&connection).await;
                drop(connection);
                soon("the stop", emulator.stop()).await;
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
async fn the_host_key_is_the_one_given() {
    let host_key = HostKey::generate();
    let mut settings = Settings::new(credentials());
    settings.instances = vec![Instance {
        backend: InstanceBackend::InProcess {
            host_key: host_key.clone(),
        },
        ..Instance::default()
    }];
    let emulator = Emulator::start(settings).await.unwrap();
    let kept = HostKey::from_openssh(&host_key.to_openssh().unwrap()).unwrap();
    let (_connection, shown) = handshake_with_key(&emulator).await;
    assert_eq!(shown, kept.public_openssh().unwrap());
}

#[tokio::test]
async fn a_key_works_for_its_user_and_lifetime_and_not_after() {
    let mut settings = Settings::new(credentials());
    settings.key_lifetime = Duration::from_secs(60);
    let clock = settings.clock.clone();
    let emulator = Emulator::start(settings).await.unwrap();
    let (first, second) = (new_key(), new_key());
    push_key(&emulator, "alice", &first).await;
    push_key(&emulator, "alice", &second).await;

    let mut connection = handshake(&emulator).await;
    assert!(!try_login(&mut connection, "alice", &new_key()).await);
    assert!(!try_login(&mut connection, "bob", &first).await);
    assert!(try_login(&mut connection, "alice", &first).await);
    let mut other = handshake(&emulator).await;
    assert!(try_login(&mut other, "alice", &second).await);

    clock.advance(Duration::from_secs(61));
    let mut late = handshake(&emulator).await;
    assert!(!try_login(&mut late, "alice", &first).await);
    // A login that happened outlives its key.
    assert_eq!(run(&connection, "echo hi").await.stdout, b"hi\n");
}

#[tokio::test]
async fn commands_get_the_environment_of_sshd_and_not_the_emulators() {
    let emulator = start().await;
    let connection = log_in(&emulator, "ec2-user").await;
    let outcome = run(&connection, "pwd; exec env").await;
    let text = String::from_utf8(outcome.stdout).unwrap();
    let user = nix::unistd::User::from_uid(nix::unistd::Uid::current())
        .unwrap()
        .unwrap();
    assert_eq!(text.lines().next().unwrap(), user.dir.to_str().unwrap());
    for line in [
        format!("HOME={}", user.dir.display()),
        format!("USER={}", user.name),
        format!("LOGNAME={}", user.name),
        format!("SHELL={}", user.shell.display()),
        "SSH_CONNECTION=127.0.0.1 0 10.0.0.10 22".to_owned(),
    ] {
        assert!(text.lines().any(|given| given == line), "{line} is not in {text}");
    }
    assert!(text.contains("\nPATH=/"));
    assert!(!text.contains("CARGO"), "{text}");
}

#[tokio::test]
async fn an_unread_channel_stops_its_program_and_costs_no_memory() {
    let emulator = start().await;
    let connection = log_in(&emulator, "ec2-user").await;
    let before = resident_bytes();
    let mut channel = exec(&connection, "echo $$; exec cat /dev/zero").await;
    let process: u32 = first_line(&mut channel).await.parse().unwrap();
    let mut written = 0;
    eventually("the program is stopped by its full pipe", async || {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let now = bytes_written(process);
        let stopped = now == written && now > 0;
        written = now;
        stopped
    })
    .await;
    // Windows, pipes and socket buffers hold a few MiB; an unbounded queue would hold as much as cat writes.
    assert!(written < 64 << 20, "{written} bytes written");
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < 128 << 20, "{grown} bytes of memory");
    drop(channel);
    drop(connection);
    soon("the stop", emulator.stop()).await;
    assert!(!scenarios::is_running(process));
}

fn bytes_written(process: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{process}/io")).unwrap();
    text.lines()
        .find_map(|line| line.strip_prefix("wchar: "))
        .unwrap()
        .parse()
        .unwrap()
}

fn resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

#[tokio::test]
async fn a_lost_connection_kills_nothing_and_stop_leaves_nothing() {
    let emulator = start().await;
    let connection = log_in(&emulator, "ec2-user").await;
    let mut channel = exec(&connection, "echo $$; exec sleep 1000").await;
    let process: u32 = first_line(&mut channel).await.parse().unwrap();
    assert_eq!(emulator.cut_tunnels(support::requests::INSTANCE), 1);
    eventually("the tunnel is gone", async || {
        emulator.counters().tunnels_open == 0
    })
    .await;
    eventually("the client noticed", async || connection.is_closed()).await;
    assert!(scenarios::is_running(process));
    assert_eq!(emulator.counters().sessions_open, 1);
    soon("the stop", emulator.stop()).await;
    assert!(!scenarios::is_running(process));
}

#[tokio::test]
async fn a_nul_in_the_command_ends_the_connection() {
    let emulator = start().await;
    let connection = log_in(&emulator, "ec2-user").await;
    let channel = connection.channel_open_session().await.unwrap();
    channel.exec(true, b"echo a\0b".to_vec()).await.unwrap();
    eventually("the connection is closed", async || connection.is_closed()).await;
}

#[tokio::test]
async fn a_second_exec_on_a_channel_is_refused() {
    let emulator = start().await;
    let connection = log_in(&emulator, "ec2-user").await;
    let mut channel = exec(&connection, "read line; echo $line").await;
    channel.exec(true, "echo second").await.unwrap();
    loop {
        match soon("the answer to the second exec", channel.wait()).await {
            Some(russh::ChannelMsg::Failure) => break,
            Some(russh::ChannelMsg::WindowAdjusted { .. }) => {}
            other => panic!("answered by {other:?}"),
        }
    }
    channel.data(b"first\n".as_slice()).await.unwrap();
    assert_eq!(finish(channel).await.stdout, b"first\n");
}

#[tokio::test]
async fn counters_tell_what_happened() {
    let emulator = start().await;
    let connection = log_in(&emulator, "ec2-user").await;
    for _ in 0..3 {
        run(&connection, "true").await;
    }
    let counters = emulator.counters();
    assert_eq!(
        (counters.pushes, counters.tunnels_opened, counters.tunnels_peak),
        (1, 1, 1)
    );
    assert_eq!((counters.tunnels_open, counters.commands_started), (1, 3));
    drop(connection);
    eventually("the tunnel is gone", async || {
        emulator.counters().tunnels_open == 0
    })
    .await;
    eventually("the sessions are gone", async || {
        emulator.counters().sessions_open == 0
    })
    .await;
}
