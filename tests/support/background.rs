//! The real binary as a child process that goes on while the test does something else.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use rustix::process::{Pid, Signal, kill_process};

use super::wait;

/// A running `adit`. Killed by its process id when dropped before [`Background::ended`].
pub(crate) struct Background {
    pub(crate) process: Child,
    printed: Arc<Mutex<String>>,
}

impl Background {
    /// Starts it with nothing on its standard input, and keeps all that it prints.
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut process = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let printed = Arc::<Mutex<String>>::default();
        keep(process.stdout.take().unwrap(), Arc::clone(&printed));
        keep(process.stderr.take().unwrap(), Arc::clone(&printed));
        Self { process, printed }
    }

    /// What it has printed and logged so far.
    pub(crate) fn printed(&self) -> String {
        self.printed.lock().unwrap().clone()
    }

    /// The most memory it has ever held, in bytes.
    pub(crate) fn peak_memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))
            .unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).unwrap();
    }

    /// Waits until it has ended, and gives its exit code; none when a signal ended it.
    pub(crate) async fn ended(&mut self) -> Option<i32> {
        let status = wait::until("`adit` ends", async || self.process.try_wait().unwrap()).await;
        status.code()
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        self.process.kill().ok();
        self.process.wait().ok();
        if std::thread::panicking() {
            eprintln!(
                "--- output of `adit` ---\n{}--- end of the output ---",
                self.printed()
            );
        }
    }
}

/// The binary under test.
pub(crate) fn program() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_adit"))
}

/// Reads to the end on a thread of its own: a pipe that nobody reads would stop the program.
pub(crate) fn keep(stream: impl std::io::Read + Send + 'static, kept: Arc<Mutex<String>>) {
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            let mut kept = kept.lock().unwrap();
            kept.push_str(&line);
            kept.push('\n');
        }
    });
}
