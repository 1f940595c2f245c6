//! The real binary: `adit dev` as a child process, and the commands that are typed beside it.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use super::wait;

/// A running `adit dev`. Killed by its process id when dropped before [`Dev::terminate`].
pub(crate) struct Dev {
    process: Child,
    printed: Arc<Mutex<String>>,
    environment: BTreeMap<String, String>,
}

impl Dev {
    /// Starts it on a free port and waits until it answers.
    pub(crate) async fn start(data_directory: &Path) -> Self {
        let environment_file = data_directory.join("dev.env");
        let mut process = Command::new(program())
            .args(["dev", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(data_directory)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let printed = Arc::<Mutex<String>>::default();
        keep(process.stdout.take().unwrap(), Arc::clone(&printed));
        keep(process.stderr.take().unwrap(), Arc::clone(&printed));
        let mut dev = Self {
            process,
            printed,
            environment: BTreeMap::new(),
        };
        wait::until_true("`adit dev` prints what to type", async || {
            dev.curl_line().is_some()
        })
        .await;
        dev.environment = read_environment(&environment_file);
        dev
    }

    /// What it has printed and logged so far.
    pub(crate) fn printed(&self) -> String {
        self.printed.lock().unwrap().clone()
    }

    /// The first curl command that it says to type.
    pub(crate) fn curl_line(&self) -> Option<String> {
        self.printed()
            .lines()
            .map(str::trim)
            .find(|line| line.starts_with("curl "))
            .map(str::to_owned)
    }

    /// A variable of its environment file.
    pub(crate) fn variable(&self, name: &str) -> &str {
        &self.environment[name]
    }

    /// Another `adit` with the environment file's variables, and nothing on its stdin.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program());
        command
            .args(arguments)
            .envs(&self.environment)
            .stdin(Stdio::null());
        command
    }

    /// Runs it to its end.
    pub(crate) fn adit(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
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

    /// Sends it SIGTERM and gives its exit code.
    pub(crate) async fn terminate(mut self) -> Option<i32> {
        let process = rustix::process::Pid::from_child(&self.process);
        rustix::process::kill_process(process, rustix::process::Signal::TERM).unwrap();
        let status = wait::until("`adit dev` ends after SIGTERM", async || {
            self.process.try_wait().unwrap()
        })
        .await;
        status.code()
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        self.process.kill().ok();
        self.process.wait().ok();
        if std::thread::panicking() {
            eprintln!(
                "--- output of `adit dev` ---\n{}--- end of the output ---",
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

fn read_environment(file: &Path) -> BTreeMap<String, String> {
    fs::read_to_string(file)
        .unwrap()
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}
