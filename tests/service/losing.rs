//! A tunnel that is lost under an exec: the exec ends with it, and the next one gets another.

use std::os::unix::fs::PermissionsExt;

use adit_actors::exec::{EndedBy, Exec, Outcome, Ran};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::streaming::Streaming;
use crate::support::{INSTANCE, TestApp, processes, wait};

over_every_instance!(
    a_silent_exec_on_a_lost_tunnel_is_a_502,
    a_stream_on_a_lost_tunnel_ends_with_its_exit_frame,
);

/// A program that runs until it is let go: sshd ends none when its connection is lost.
pub(crate) struct Held {
    directory: TempDir,
}

impl Held {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        // The login that runs the command is another user.
        std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755)).unwrap();
        Self { directory }
    }

    fn path(&self) -> &str {
        self.directory.path().to_str().unwrap()
    }

    pub(crate) fn request(&self, first: &str) -> Value {
        let script = format!("{first}; while [ -d \"$1\" ]; do sleep 0.05; done");
        json!({"cmd": ["sh", "-c", script, "sh", self.path()], "timeout_s": 120})
    }

    pub(crate) async fn runs(&self) {
        wait::until_true("the program runs", async || {
            !processes::with_argument(self.path()).is_empty()
        })
        .await;
    }

    pub(crate) async fn let_go(self) {
        let argument = self.path().to_owned();
        self.directory.close().unwrap();
        wait::until_true("the program has ended", async || {
            processes::with_argument(&argument).is_empty()
        })
        .await;
    }
}

fn assert_lost(exec: &Exec) {
    assert_eq!(
        (exec.outcome, exec.ended_by, exec.exit_code, &exec.signal),
        (Some(Outcome::TunnelLost), Some(EndedBy::TunnelLost), None, &None),
        "{exec:?}"
    );
    assert_eq!(serde_json::to_value(&exec.error).unwrap()["code"], "tunnel_lost");
    assert!(exec.audit.committed, "{exec:?}");
}

/// Each of `execs` has one row, and the next exec gets a tunnel of its own.
async fn assert_recovered(app: &TestApp, mut execs: Vec<Exec>) {
    let mut rows = app.rows().await;
    rows.sort_by_key(|row| row.id);
    execs.sort_by_key(|exec| exec.exec_id);
    assert_eq!(rows.len(), execs.len(), "{rows:#?}");
    for (row, exec) in rows.iter().zip(&execs) {
        assert_eq!((row.id, row.status.as_str()), (exec.exec_id, "error"), "{row:?}");
        assert_eq!(row.response_body.as_ref().unwrap()["outcome"], "tunnel_lost");
        assert!(
            row.error_detail.as_ref().unwrap().contains("tunnel_lost"),
            "{row:?}"
        );
    }
    assert_eq!(app.emulator.counters().tunnels_opened, 1);
    let next = app.run(json!({"cmd": ["echo", "next"]})).await;
    assert_eq!(next.exec().exit_code, Some(0));
    assert_eq!(next.json()["stdout"], "next\n");
    assert_eq!(app.emulator.counters().tunnels_opened, 2);
    assert_eq!(app.rows().await.len(), execs.len() + 1);
}

async fn a_silent_exec_on_a_lost_tunnel_is_a_502(app: &TestApp) {
    let (first, second) = (Held::new(), Held::new());
    let cutting = async {
        first.runs().await;
        second.runs().await;
        assert_eq!(app.emulator.cut_tunnels(INSTANCE), 1);
    };
    let (json, stream, ()) = tokio::join!(
        app.run(first.request("true")),
        app.stream(second.request("true")),
        cutting
    );
    let execs: Vec<_> = [json, stream]
        .iter()
        .map(|answer| answer.exec_of_problem(502, "tunnel_lost"))
        .collect();
    for exec in &execs {
        assert_lost(exec);
        // The sign that it runs may have been cut off with the rest.
        assert!(matches!(exec.ran, Ran::Yes | Ran::Unknown), "{exec:?}");
    }
    assert_recovered(app, execs).await;
    first.let_go().await;
    second.let_go().await;
}

async fn a_stream_on_a_lost_tunnel_ends_with_its_exit_frame(app: &TestApp) {
    let held = Held::new();
    let streaming = Streaming::begin(app, &held.request("echo going >&2"), "going").await;
    assert_eq!(app.emulator.cut_tunnels(INSTANCE), 1);
    let frames = streaming.rest().await.frames();
    assert_eq!(frames.output("stderr"), b"going\n");
    let exec = frames.exit();
    assert_lost(&exec);
    assert_eq!(exec.ran, Ran::Yes, "{exec:?}");
    assert_recovered(app, vec![exec]).await;
    held.let_go().await;
}
