//! Ctrl-C, whatever `adit exec` is busy with.

use std::io::{PipeReader, PipeWriter, Write, pipe};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use rustix::io::ioctl_fionread;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::background::keep;
use super::program::Dev;
use super::terminal::Terminal;
use super::{rows, wait};

/// How it begins what it says where no answer tells how the exec ended.
pub(super) const NOT_KNOWN: &str =
    "adit: interrupted; whether the exec was cancelled is not known, look at `GET /workspaces/";

/// An `adit exec` under way. Killed by its process id when dropped before its end.
pub(super) struct Exec(pub(super) Child);

impl Exec {
    fn start(dev: &Dev, arguments: &[&str], stdin: Stdio, stdout: Stdio, stderr: Stdio) -> Self {
        let mut command = dev.command(&["exec", "--timeout", "120"]);
        command.args(arguments).env("TERM", "xterm");
        command.stdin(stdin).stdout(stdout).stderr(stderr);
        Self(command.spawn().unwrap())
    }

    /// With what it prints on each stream, kept.
    pub(super) fn keeping(command: &mut Command) -> (Self, Arc<Mutex<String>>, Arc<Mutex<String>>) {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut exec = Self(command.spawn().unwrap());
        let (printed, said) = (Arc::default(), Arc::default());
        keep(exec.0.stdout.take().unwrap(), Arc::clone(&printed));
        keep(exec.0.stderr.take().unwrap(), Arc::clone(&said));
        (exec, printed, said)
    }

    pub(super) fn interrupt(&self) {
        kill_process(Pid::from_child(&self.0), Signal::INT).unwrap();
    }

    /// Waits until it takes SIGINT for itself: before that, the signal would end it by default.
    async fn listens(&self) {
        let status = format!("/proc/{}/status", self.0.id());
        wait::until_true("SIGINT is caught", async || {
            let status = std::fs::read_to_string(&status).unwrap();
            let caught = status
                .lines()
                .find_map(|line| line.strip_prefix("SigCgt:"))
                .unwrap();
            // Signal 2 is the second bit (proc(5)).
            u64::from_str_radix(caught.trim(), 16).unwrap() & 0b10 != 0
        })
        .await;
    }

    pub(super) async fn end(&mut self) -> Option<i32> {
        let ended = async || self.0.try_wait().unwrap();
        wait::until("`adit exec` ends", ended).await.code()
    }
}

impl Drop for Exec {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Waits until all that was printed is read, and gives it.
pub(super) async fn all_of(kept: Arc<Mutex<String>>) -> String {
    wait::until_true("the pipe is read to its end", async || {
        Arc::strong_count(&kept) == 1
    })
    .await;
    kept.lock().unwrap().clone()
}

/// What a new pipe holds, pipe(7).
const PIPE_CAPACITY: u64 = 65_536;

/// A pipe that takes nothing more.
fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, mut writer) = pipe().unwrap();
    writer.write_all(&[b'x'; PIPE_CAPACITY as usize]).unwrap();
    (reader, writer)
}

/// The only exec was cancelled: because its client had gone, or by its client's word. Gives what its row says of it.
async fn the_only_row(data_directory: &Path, ended_by: &[&str]) -> Value {
    let mut rows = wait::until("the row is final", async || {
        let rows = rows::all(&data_directory.join("adit.db")).await;
        rows.iter().all(|row| row.status != "running").then_some(rows)
    })
    .await;
    assert_eq!(rows.len(), 1, "{rows:?}");
    let exec = rows.remove(0).response_body.unwrap();
    assert_eq!(exec["outcome"], "cancelled", "{exec}");
    assert!(ended_by.contains(&exec["ended_by"].as_str().unwrap()), "{exec}");
    exec
}

/// What is said of an exec whose row says `exec`.
fn told(exec: &Value) -> String {
    let how = match exec["kill"]["confirmed"].as_bool() {
        Some(true) => "everything it started is gone",
        _ => "whether everything it started is gone is not known",
    };
    format!("adit: cancelled; {how}\n")
}

#[tokio::test]
async fn while_the_command_runs() {
    let directory = tempfile::tempdir().unwrap();
    let dev = Dev::start(directory.path()).await;
    let script = ["--", "sh", "-c", "echo runs; exec sleep 100"];
    let (mut exec, printed, said) = Exec::keeping(dev.command(&["exec", "--timeout", "120"]).args(script));
    wait::until_true("the command runs", async || !printed.lock().unwrap().is_empty()).await;
    exec.interrupt();
    assert_eq!(exec.end().await, Some(130));
    let row = the_only_row(directory.path(), &["delete"]).await;
    assert_eq!(all_of(said).await, told(&row));
    assert_eq!(dev.terminate().await, Some(0));
}

#[tokio::test]
async fn while_standard_input_is_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    let dev = Dev::start(directory.path()).await;
    let arguments = ["--stdin", "-", "--", "cat"];
    let mut exec = Exec::start(&dev, &arguments, Stdio::piped(), Stdio::null(), Stdio::piped());
    let held_open = exec.0.stdin.take().unwrap();
    let said = Arc::default();
    keep(exec.0.stderr.take().unwrap(), Arc::clone(&said));
    exec.listens().await;
    exec.interrupt();
    assert_eq!(exec.end().await, Some(130));
    assert_eq!(all_of(said).await, "adit: interrupted; nothing was run\n");
    drop(held_open);
    assert!(rows::all(&directory.path().join("adit.db")).await.is_empty());
    assert_eq!(dev.terminate().await, Some(0));
}

#[tokio::test]
async fn while_nobody_reads_the_output() {
    let directory = tempfile::tempdir().unwrap();
    let dev = Dev::start(directory.path()).await;
    let (unread, writer) = pipe().unwrap();
    let mut exec = Exec::start(&dev, &["--", "yes"], Stdio::null(), writer.into(), Stdio::piped());
    let said = Arc::default();
    keep(exec.0.stderr.take().unwrap(), Arc::clone(&said));
    wait::until_true("the pipe is full", async || {
        ioctl_fionread(&unread).unwrap() == PIPE_CAPACITY
    })
    .await;
    exec.interrupt();
    assert_eq!(exec.end().await, Some(130));
    let row = the_only_row(directory.path(), &["delete"]).await;
    assert_eq!(all_of(said).await, told(&row));
    drop(unread);
    assert_eq!(dev.terminate().await, Some(0));
}

#[tokio::test]
async fn again_while_nobody_reads_the_message() {
    let directory = tempfile::tempdir().unwrap();
    let dev = Dev::start(directory.path()).await;
    let (unread, full) = full_pipe();
    let arguments = ["--", "sleep", "100"];
    let mut exec = Exec::start(&dev, &arguments, Stdio::null(), Stdio::null(), full.into());
    is_running(directory.path()).await;
    // Two signals that come together count as one, so more than two may be needed.
    wait::until("`adit exec` ends", async || {
        exec.interrupt();
        exec.0.try_wait().unwrap()
    })
    .await;
    drop(unread);
    the_only_row(directory.path(), &["delete", "client_gone"]).await;
    assert_eq!(dev.terminate().await, Some(0));
}

/// The service is still killing it: a second Ctrl-C does not wait for that.
#[tokio::test]
async fn again_while_the_command_is_stopped() {
    let directory = tempfile::tempdir().unwrap();
    let dev = Dev::start(directory.path()).await;
    let stubborn = "trap '' TERM; echo runs; while :; do sleep 1; done";
    let script = ["--", "sh", "-c", stubborn];
    let (mut exec, printed, said) = Exec::keeping(dev.command(&["exec", "--timeout", "120"]).args(script));
    wait::until_true("the command runs", async || !printed.lock().unwrap().is_empty()).await;
    wait::until("`adit exec` ends", async || {
        exec.interrupt();
        exec.0.try_wait().unwrap()
    })
    .await;
    assert_eq!(exec.end().await, Some(130));
    let said = all_of(said).await;
    assert!(said.is_empty() || said.starts_with(NOT_KNOWN), "{said}");
    the_only_row(directory.path(), &["delete", "client_gone"]).await;
    assert_eq!(dev.terminate().await, Some(0));
}

#[tokio::test]
async fn while_one_object_is_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    let dev = Dev::start(directory.path()).await;
    let script = ["--json", "--", "sh", "-c", "echo runs; exec sleep 100"];
    let (terminal, stderr) = Terminal::open();
    let mut exec = Exec::start(&dev, &script, Stdio::null(), Stdio::piped(), stderr);
    let printed = Arc::default();
    keep(exec.0.stdout.take().unwrap(), Arc::clone(&printed));
    // The line stands there as soon as the id of the exec is known.
    terminal.shows("waiting for the end").await;
    exec.interrupt();
    assert_eq!(exec.end().await, Some(130));
    let row = the_only_row(directory.path(), &["delete"]).await;
    terminal.shows(told(&row).trim_end()).await;
    let object: Value = serde_json::from_str(&all_of(printed).await).unwrap();
    assert_eq!(object["stdout"], "runs\n", "{object}");
    for member in ["exec_id", "outcome", "ended_by", "kill"] {
        assert_eq!(object[member], row[member], "{member}");
    }
    assert!(object["kill"]["sent"].is_array(), "{object}");
    assert_eq!(dev.terminate().await, Some(0));
}

async fn is_running(data_directory: &Path) {
    wait::until_true("the exec has its row", async || {
        !rows::all(&data_directory.join("adit.db")).await.is_empty()
    })
    .await;
}
