//! What must be so behind every instance: the in-process one and a real OpenSSH alike.

use std::path::Path;

use russh::client::Handle;
use russh::{ChannelOpenFailure, Sig};

use super::eventually;
use super::ssh::{Client, exec, finish, first_line, run};

pub(crate) async fn output_on_both_streams_and_exit_status(connection: &Handle<Client>) {
    let outcome = run(connection, "echo out; echo err >&2; exit 7").await;
    assert_eq!(outcome.stdout, b"out\n");
    assert_eq!(outcome.stderr, b"err\n");
    assert_eq!(outcome.status, Some(7));
    assert_eq!(outcome.signal, None);
    assert!(outcome.eof);
}

pub(crate) async fn a_command_of_any_bytes_but_nul_arrives(connection: &Handle<Client>) {
    let text: String = (1..=127u8)
        .filter(|byte| *byte != b'\'')
        .map(char::from)
        .collect::<String>()
        + "äß\u{1F980}";
    let outcome = run(connection, &format!("printf %s '{text}'")).await;
    assert_eq!(String::from_utf8(outcome.stdout).unwrap(), text);
}

pub(crate) async fn term_ends_the_whole_process_group(connection: &Handle<Client>) {
    let mut channel = exec(connection, "sleep 1000 & echo $$ $!; exec sleep 1000").await;
    let line = first_line(&mut channel).await;
    let processes: Vec<u32> = line.split(' ').map(|word| word.parse().unwrap()).collect();
    assert_eq!(processes.len(), 2);
    channel.signal(Sig::TERM).await.unwrap();
    let outcome = finish(channel).await;
    assert_eq!(outcome.signal.as_deref(), Some("TERM"));
    assert_eq!(outcome.status, None);
    for process in processes {
        eventually("the group is gone", async || !is_running(process)).await;
    }
}

/// Whether a process is there and not a zombie that its parent (in a container perhaps not a reaper) left.
pub(crate) fn is_running(process: u32) -> bool {
    let Ok(stat) = std::fs::read_to_string(Path::new("/proc").join(process.to_string()).join("stat")) else {
        return false;
    };
    stat.rsplit_once(") ")
        .is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

pub(crate) async fn a_signal_death_is_named(connection: &Handle<Client>) {
    for (signal, name) in [("KILL", "KILL"), ("SEGV", "SEGV"), ("USR2", "Custom(\"USR2\")")] {
        let outcome = run(connection, &format!("ulimit -c 0; kill -{signal} $$")).await;
        assert_eq!(outcome.signal.as_deref(), Some(name));
    }
}

pub(crate) async fn stdin_is_echoed_and_half_closes(connection: &Handle<Client>) {
    let channel = exec(connection, "cat; echo end").await;
    let sent: Vec<u8> = (0..1_000_000u32).map(|number| number.to_le_bytes()[0]).collect();
    let (mut read, write) = channel.split();
    let sending = async {
        write.data(sent.as_slice()).await.unwrap();
        write.eof().await.unwrap();
    };
    let mut received = Vec::new();
    let receiving = async {
        while let Some(message) = read.wait().await {
            match message {
                russh::ChannelMsg::Data { data } => received.extend_from_slice(&data),
                russh::ChannelMsg::Close => return,
                _ => {}
            }
        }
    };
    super::soon("the echo", async { tokio::join!(sending, receiving) }).await;
    assert_eq!(received.len(), sent.len() + 4);
    assert_eq!(&received[..sent.len()], &sent);
    assert_eq!(&received[sent.len()..], b"end\n");
}

pub(crate) async fn a_program_that_does_not_read_stdin_stalls_nobody(connection: &Handle<Client>) {
    let deaf = exec(connection, "echo ready; sleep 1000").await;
    // More than a pipe holds, and as much as fits the window that the server opened with.
    deaf.data(vec![b'x'; 1024 * 1024].as_slice()).await.unwrap();
    assert_eq!(run(connection, "echo hi").await.stdout, b"hi\n");
    deaf.signal(Sig::KILL).await.unwrap();
    assert_eq!(finish(deaf).await.signal.as_deref(), Some("KILL"));
}

pub(crate) async fn the_eleventh_session_is_refused_and_a_freed_slot_taken(connection: &Handle<Client>) {
    let mut sessions = Vec::new();
    for _ in 0..10 {
        sessions.push(exec(connection, "read line").await);
    }
    let refused = connection.channel_open_session().await.unwrap_err();
    assert!(
        matches!(
            refused,
            russh::Error::ChannelOpenFailure(ChannelOpenFailure::ConnectFailed)
        ),
        "{refused:?}"
    );
    let first = sessions.remove(0);
    first.eof().await.unwrap();
    finish(first).await;
    eventually("a slot is free again", async || {
        connection.channel_open_session().await.is_ok()
    })
    .await;
    for session in sessions {
        session.signal(Sig::KILL).await.unwrap();
        finish(session).await;
    }
}

pub(crate) async fn a_background_process_keeps_its_session_open(connection: &Handle<Client>) {
    let mut channel = exec(connection, "sleep 1000 & echo $!; exit 3").await;
    // Under sshd too, the status may come before the output.
    let (mut text, mut status) = (String::new(), None);
    while status.is_none() || !text.ends_with('\n') {
        match super::soon("the output and the status", channel.wait()).await {
            Some(russh::ChannelMsg::ExitStatus { exit_status }) => status = Some(exit_status),
            Some(russh::ChannelMsg::Data { data }) => text.push_str(&String::from_utf8_lossy(&data)),
            Some(russh::ChannelMsg::Close | russh::ChannelMsg::Eof) | None => {
                panic!("ended before its process")
            }
            Some(_) => {}
        }
    }
    assert_eq!(status, Some(3));
    let background: u32 = text.trim_end().parse().unwrap();
    assert!(is_running(background));
    assert_eq!(
        run(connection, &format!("kill {background}")).await.status,
        Some(0)
    );
    assert!(finish(channel).await.eof);
}

pub(crate) async fn a_closed_channel_kills_nothing(connection: &Handle<Client>) {
    let mut channel = exec(connection, "echo $$; exec sleep 1000").await;
    let process: u32 = first_line(&mut channel).await.parse().unwrap();
    channel.close().await.unwrap();
    drop(channel);
    // A command after the close is served, so the close has arrived.
    assert_eq!(run(connection, "true").await.status, Some(0));
    assert!(is_running(process));
    assert_eq!(run(connection, &format!("kill {process}")).await.status, Some(0));
}

pub(crate) async fn a_command_too_long_for_the_system_fails_like_one(connection: &Handle<Client>) {
    let longest = 131_071;
    let fits = format!("true {}", "x".repeat(longest - 5));
    assert_eq!(fits.len(), longest);
    assert_eq!(run(connection, &fits).await.status, Some(0));
    let outcome = run(connection, &(fits + "x")).await;
    assert_eq!(outcome.status, Some(1));
    let text = String::from_utf8(outcome.stderr).unwrap();
    assert!(text.ends_with(": Argument list too long\n"), "{text}");
}

pub(crate) async fn other_requests_are_refused(connection: &Handle<Client>) {
    let mut channel = connection.channel_open_session().await.unwrap();
    channel.set_env(true, "NAME", "value").await.unwrap();
    loop {
        match super::soon("the answer to env", channel.wait()).await {
            Some(russh::ChannelMsg::Failure) => break,
            Some(russh::ChannelMsg::WindowAdjusted { .. }) => {}
            other => panic!("env was answered by {other:?}"),
        }
    }
    channel.exec(true, "echo still here").await.unwrap();
    assert_eq!(finish(channel).await.stdout, b"still here\n");
}
