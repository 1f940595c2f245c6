//! The faults of the in-process instance, which sees the steps of SSH, and the same cut in front of a real sshd.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a helper of a test may fail it"
)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use adit_emulator::{Cut, CutAt, Emulator, Faults, HostKey, HostKeyAlgorithm, Settings, Times};
use russh::client::{self, Handle};
use russh::{Channel, ChannelMsg, ChannelOpenFailure, Sig};
use support::requests::{INSTANCE, TUNNEL, credentials};
use support::ssh::{
    Client, byte_stream, dial, exec, finish, first_line, handshake, handshake_with_key, log_in, new_key,
    push_key, run, try_login,
};
use support::sshd::{Sshd, USER};
use support::{eventually, soon};

async fn start() -> Emulator {
    Emulator::start(Settings::new(credentials())).await.unwrap()
}

fn change(emulator: &Emulator, change: impl FnOnce(&mut Faults)) {
    assert!(emulator.update_faults(INSTANCE, change));
}

fn cut_at(emulator: &Emulator, at: CutAt) {
    change(emulator, |faults| faults.cut = Some(Cut::next(at)));
}

/// The connection is gone, and the next one works.
async fn assert_cut(emulator: &Emulator, connection: &Handle<Client>) {
    eventually("the client noticed", async || connection.is_closed()).await;
    assert_eq!(emulator.faults(INSTANCE).unwrap().cut, None);
    let again = log_in(emulator, "ec2-user").await;
    assert_eq!(run(&again, "echo hi").await.stdout, b"hi\n");
}

/// What came on a channel until its connection ended.
async fn read_to_loss(mut channel: Channel<client::Msg>) -> (Vec<u8>, Option<u32>, bool) {
    let (mut output, mut status, mut closed) = (Vec::new(), None, false);
    while let Some(message) = soon("the loss", channel.wait()).await {
        match message {
            ChannelMsg::Data { data } => output.extend_from_slice(&data),
            ChannelMsg::ExtendedData { data, .. } => output.extend_from_slice(&data),
            ChannelMsg::ExitStatus { exit_status } => status = Some(exit_status),
            ChannelMsg::Close => closed = true,
            _ => {}
        }
    }
    (output, status, closed)
}

#[tokio::test]
async fn a_cut_in_the_key_exchange_is_one_for_any_sshd() {
    let sshd = Sshd::start().await;
    let external = Emulator::start(sshd.settings()).await.unwrap();
    for (emulator, user) in [(start().await, "ec2-user"), (external, USER)] {
        cut_at(&emulator, CutAt::KeyExchange);
        let stream = byte_stream(dial(&emulator, TUNNEL).await);
        let client = Client {
            host_key: Arc::default(),
        };
        let host_key = Arc::clone(&client.host_key);
        let connecting = client::connect_stream(Arc::new(client::Config::default()), stream, client);
        assert!(soon("the end of the handshake", connecting).await.is_err());
        assert_eq!(*host_key.lock().unwrap(), None);
        log_in(&emulator, user).await;
    }
}

#[tokio::test]
async fn a_cut_at_the_login_comes_before_its_answer() {
    let emulator = start().await;
    let key = new_key();
    push_key(&emulator, "ec2-user", &key).await;
    let mut connection = handshake(&emulator).await;
    cut_at(&emulator, CutAt::Login);
    assert!(!try_login(&mut connection, "ec2-user", &key).await);
    let counters = emulator.counters();
    assert_eq!((counters.login_attempts, counters.logins_refused), (1, 0));
    assert_cut(&emulator, &connection).await;
}

#[tokio::test]
async fn a_cut_at_the_channel_open_comes_before_its_answer() {
    let emulator = start().await;
    let connection = log_in(&emulator, "ec2-user").await;
    cut_at(&emulator, CutAt::ChannelOpen);
    let opened = soon("the end of the open", connection.channel_open_session()).await;
    assert!(
        !matches!(opened, Ok(_) | Err(russh::Error::ChannelOpenFailure(_))),
        "{opened:?}"
    );
    assert_cut(&emulator, &connection).await;
}

#[tokio::test]
async fn a_cut_at_the_exec_request_runs_nothing() {
    let emulator = start().await;
    let connection = log_in(&emulator, "ec2-user").await;
    let mut channel = connection.channel_open_session().await.unwrap();
    cut_at(&emulator, CutAt::ExecRequest);
    channel.exec(true, "true").await.unwrap();
    while let Some(message) = soon("the loss", channel.wait()).await {
        assert!(!matches!(message, ChannelMsg::Success | ChannelMsg::Failure));
    }
    assert_eq!(emulator.counters().commands_started, 0);
    assert_cut(&emulator, &connection).await;
}

#[tokio::test]
async fn a_cut_in_the_output_lets_so_many_bytes_through() {
    let emulator = start().await;
    for (limit, command) in [
        (0, "sleep 1000"),
        (1, "echo out; sleep 1000"),
        (4, "echo out; sleep 1000"),
        (100_000, "exec cat /dev/zero"),
        (3, "echo error >&2; sleep 1000"),
    ] {
        let connection = log_in(&emulator, "ec2-user").await;
        cut_at(&emulator, CutAt::AfterBytesOfOutput(limit));
        let channel = exec(&connection, command).await;
        let (output, status, closed) = read_to_loss(channel).await;
        assert_eq!(u64::try_from(output.len()).unwrap(), limit, "{command}");
        assert_eq!((status, closed), (None, false), "{command}");
        assert_cut(&emulator, &connection).await;
    }
    soon("the stop", emulator.stop()).await;
}

#[tokio::test]
async fn a_cut_after_the_exit_status_comes_before_the_close() {
    let emulator = start().await;
    for round in 0..10 {
        let connection = log_in(&emulator, "ec2-user").await;
        cut_at(&emulator, CutAt::AfterExitStatus);
        let channel = exec(&connection, "echo out; exit 7").await;
        let (output, status, closed) = read_to_loss(channel).await;
        // As under sshd, the status may leave before the output.
        assert!(output.is_empty() || output == b"out\n", "{round}: {output:?}");
        assert_eq!((status, closed), (Some(7), false), "{round}");
        assert_cut(&emulator, &connection).await;
    }
}

#[tokio::test]
async fn logins_are_refused_as_often_as_told_and_counted() {
    let emulator = start().await;
    let key = new_key();
    push_key(&emulator, "ec2-user", &key).await;
    change(&emulator, |faults| faults.refused_logins = Times::Next(2));
    let mut connection = handshake(&emulator).await;
    for expected in [false, false, true] {
        assert_eq!(try_login(&mut connection, "ec2-user", &key).await, expected);
    }
    assert!(!try_login(&mut handshake(&emulator).await, "ec2-user", &new_key()).await);
    let counters = emulator.counters();
    assert_eq!((counters.login_attempts, counters.logins_refused), (4, 3));
}

fn is_open_failed(opened: Result<Channel<client::Msg>, russh::Error>) -> bool {
    matches!(
        opened,
        Err(russh::Error::ChannelOpenFailure(
            ChannelOpenFailure::ConnectFailed
        ))
    )
}

#[tokio::test]
async fn sessions_are_refused_as_told_and_counted() {
    let emulator = start().await;
    let connection = log_in(&emulator, "ec2-user").await;
    change(&emulator, |faults| faults.refused_sessions = Times::Next(1));
    assert!(is_open_failed(connection.channel_open_session().await));
    let kept = connection.channel_open_session().await.unwrap();
    change(&emulator, |faults| faults.max_sessions = Some(1));
    assert!(is_open_failed(connection.channel_open_session().await));
    change(&emulator, |faults| faults.max_sessions = Some(12));
    let mut more = Vec::new();
    for _ in 1..12 {
        more.push(connection.channel_open_session().await.unwrap());
    }
    assert!(is_open_failed(connection.channel_open_session().await));
    assert_eq!(emulator.counters().channel_opens_refused, 3);
    kept.exec(true, "echo hi").await.unwrap();
    assert_eq!(finish(kept).await.stdout, b"hi\n");
}

#[tokio::test]
async fn a_channel_open_stays_without_an_answer() {
    let emulator = start().await;
    let connection = log_in(&emulator, "ec2-user").await;
    change(&emulator, |faults| {
        faults.unanswered_channel_opens = Times::Next(1)
    });
    let silent = tokio::time::timeout(Duration::from_millis(200), connection.channel_open_session()).await;
    assert!(silent.is_err());
    assert_eq!(run(&connection, "echo hi").await.stdout, b"hi\n");
    assert_eq!(emulator.counters().sessions_open, 0);
}

#[tokio::test]
async fn an_exec_stays_without_an_answer_and_is_not_run() {
    let emulator = start().await;
    let connection = log_in(&emulator, "ec2-user").await;
    change(&emulator, |faults| faults.unanswered_execs = Times::Next(1));
    let mut channel = connection.channel_open_session().await.unwrap();
    channel.exec(true, "true").await.unwrap();
    assert_eq!(run(&connection, "echo hi").await.stdout, b"hi\n");
    while let Ok(message) = tokio::time::timeout(Duration::from_millis(100), channel.wait()).await {
        assert!(
            matches!(message, Some(ChannelMsg::WindowAdjusted { .. })),
            "{message:?}"
        );
    }
    assert_eq!(emulator.counters().commands_started, 1);
    assert_eq!(emulator.counters().sessions_open, 1);
    channel.close().await.unwrap();
    eventually("the slot is free", async || {
        emulator.counters().sessions_open == 0
    })
    .await;
}

#[tokio::test]
async fn signals_are_ignored_as_told() {
    let emulator = start().await;
    let connection = log_in(&emulator, "ec2-user").await;
    let mut channel = exec(
        &connection,
        "trap 'echo got; exit 0' TERM; echo ready; while :; do sleep 0.01; done",
    )
    .await;
    first_line(&mut channel).await;
    change(&emulator, |faults| faults.ignores_signals = true);
    channel.signal(Sig::TERM).await.unwrap();
    // Served after the signal, which is therefore done with.
    run(&connection, "sleep 0.2").await;
    change(&emulator, |faults| faults.ignores_signals = false);
    channel.signal(Sig::KILL).await.unwrap();
    let outcome = finish(channel).await;
    assert_eq!(outcome.signal.as_deref(), Some("KILL"));
    assert_eq!(outcome.stdout, b"");
}

#[tokio::test]
async fn a_reinstalled_instance_shows_another_host_key_of_any_kind() {
    let emulator = start().await;
    let connection = log_in(&emulator, "ec2-user").await;
    for (algorithm, name) in [
        (HostKeyAlgorithm::Ed25519, "ssh-ed25519 "),
        (HostKeyAlgorithm::EcdsaP256, "ecdsa-sha2-nistp256 "),
        (HostKeyAlgorithm::Rsa, "ssh-rsa "),
    ] {
        let host_key = HostKey::generate_as(algorithm).unwrap();
        let kept = HostKey::from_openssh(&host_key.to_openssh().unwrap()).unwrap();
        assert!(emulator.set_host_key(INSTANCE, host_key));
        let (_connection, shown) = handshake_with_key(&emulator).await;
        assert_eq!(shown, kept.public_openssh().unwrap());
        assert!(shown.starts_with(name), "{shown}");
    }
    // Who is past the key exchange does not notice.
    assert_eq!(run(&connection, "echo hi").await.stdout, b"hi\n");
    assert!(!emulator.set_host_key("i-0fffffffffffffff0", HostKey::generate()));
}

#[tokio::test]
async fn a_penalised_client_is_let_in_again() {
    let emulator = start().await;
    change(&emulator, |faults| faults.penalised_connections = Times::Next(1));
    let stream = byte_stream(dial(&emulator, TUNNEL).await);
    let client = Client {
        host_key: Arc::default(),
    };
    let connecting = client::connect_stream(Arc::new(client::Config::default()), stream, client);
    assert!(soon("the end of the handshake", connecting).await.is_err());
    log_in(&emulator, "ec2-user").await;
}
