//! `adit dev` as a child process, and the commands that are typed beside it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use rustix::process::Signal;

use super::background::{Background, program};
use super::wait;

/// A running `adit dev`. Killed when dropped before [`Dev::terminate`].
pub(crate) struct Dev {
    process: Background,
    environment: BTreeMap<String, String>,
}

impl Dev {
    /// Starts it on a free port and waits until it answers.
    pub(crate) async fn start(data_directory: &Path) -> Self {
        let mut command = Command::new(program());
        command
            .args(["dev", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(data_directory);
        let mut dev = Self {
            process: Background::start(&mut command),
            environment: BTreeMap::new(),
        };
        wait::until_true("`adit dev` prints what to type", async || {
            dev.curl_line().is_some()
        })
        .await;
        dev.environment = read_environment(&data_directory.join("dev.env"));
        dev
    }

    /// The first curl command that it says to type.
    pub(crate) fn curl_line(&self) -> Option<String> {
        self.process
            .printed()
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
        self.process.peak_memory()
    }

    /// Sends it SIGTERM and gives its exit code.
    pub(crate) async fn terminate(mut self) -> Option<i32> {
        self.process.signal(Signal::TERM);
        self.process.ended().await
    }
}

fn read_environment(file: &Path) -> BTreeMap<String, String> {
    fs::read_to_string(file)
        .unwrap()
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}
