//! The OS user that in-process instances run commands as, and how a command is started.
//!
//! It must know nothing of SSH.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use nix::errno::Errno;
use nix::unistd::{Uid, User};
use tokio::process::{Child, Command};

use crate::send_key::is_os_user;

/// What sshd gives as PATH differs by distribution; this is Debian's for root, which has everything that the others do.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Shell of last resort, as in sshd.
const FALLBACK_SHELL: &str = "/bin/sh";

/// The current OS user, as the passwd database describes it.
#[derive(Debug)]
pub(crate) struct Account {
    name: String,
    home: PathBuf,
    shell: PathBuf,
}

/// Name of the user that this process, and so every command of an in-process instance, runs as. `None` when the user
/// has no passwd entry, as in a container that runs under a number, or a name that no key can be pushed for.
#[must_use]
pub fn current_os_user() -> Option<String> {
    Some(current_user()?.name).filter(|name| is_os_user(name))
}

fn current_user() -> Option<User> {
    User::from_uid(Uid::current()).unwrap_or_else(|error| {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "reading the passwd entry failed"
        );
        None
    })
}

impl Account {
    /// The user that this process runs as, with `shell` instead of the user's own if there is one.
    pub(crate) fn current(shell: Option<&Path>) -> Self {
        let (name, home, own_shell) = match current_user() {
            Some(user) => (user.name, user.dir, user.shell),
            None => (Uid::current().to_string(), PathBuf::from("/"), PathBuf::new()),
        };
        let shell = match shell {
            Some(shell) => shell.to_owned(),
            None if own_shell.as_os_str().is_empty() => PathBuf::from(FALLBACK_SHELL),
            None => own_shell,
        };
        // sshd says so on stderr and runs the command in the root directory.
        let home = if home.is_dir() { home } else { PathBuf::from("/") };
        Self { name, home, shell }
    }

    /// Starts `$SHELL -c command` in a process group of its own with three pipes, in the home directory and with the
    /// environment that sshd gives, but for `SSH_CLIENT`: with it, bash reads `~/.bashrc` before every command, and that
    /// file is a developer's here, not an instance's. `connection` is the value of `SSH_CONNECTION`.
    pub(crate) fn start(&self, command: &[u8], connection: &str) -> io::Result<Child> {
        let arg0: OsString = self
            .shell
            .file_name()
            .unwrap_or(self.shell.as_os_str())
            .to_owned();
        Command::new(&self.shell)
            .arg0(arg0)
            .arg("-c")
            .arg(OsStr::from_bytes(command))
            .env_clear()
            .env("HOME", &self.home)
            .env("USER", &self.name)
            .env("LOGNAME", &self.name)
            .env("SHELL", &self.shell)
            .env("PATH", PATH)
            .env("SSH_CONNECTION", connection)
            .current_dir(&self.home)
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
    }

    /// What sshd's child writes to stderr when it can't become the shell, for example because the command is longer
    /// than one argument may be: `/bin/bash: Argument list too long`.
    pub(crate) fn start_failure(&self, error: &io::Error) -> String {
        let reason = match error.raw_os_error() {
            Some(number) => Errno::from_raw(number).desc().to_owned(),
            None => error.to_string(),
        };
        format!("{}: {reason}\n", self.shell.display())
    }
}
