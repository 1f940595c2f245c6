//! A real OpenSSH server on a free port, for as long as a test needs it.

use std::fs::{self, Permissions};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use adit_emulator::HostKey;
use tempfile::TempDir;

use super::wait;

/// Another process may take a free port between its choice and sshd's use of it.
const ATTEMPTS: usize = 5;

/// OpenSSH's own server with a configuration of its own. Ended by its process id when dropped.
pub(crate) struct Sshd {
    process: Child,
    address: SocketAddr,
    directory: TempDir,
}

impl Sshd {
    /// Starts one and waits until it listens.
    pub(crate) async fn start() -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "the tests log in as other users through a real sshd, which needs root; run scripts/test"
        );
        for _ in 0..ATTEMPTS {
            if let Some(sshd) = Self::try_start().await {
                return sshd;
            }
        }
        panic!("sshd found no free port in {ATTEMPTS} attempts");
    }

    async fn try_start() -> Option<Self> {
        let directory = tempfile::Builder::new().prefix("adit-sshd-").tempdir().unwrap();
        // sshd reads authorized keys as the user who logs in.
        fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
        let keys = directory.path().join("authorized_keys");
        fs::create_dir(&keys).unwrap();
        fs::set_permissions(&keys, Permissions::from_mode(0o755)).unwrap();
        let host_key = directory.path().join("host_key");
        fs::write(&host_key, HostKey::generate().to_openssh().unwrap()).unwrap();
        fs::set_permissions(&host_key, Permissions::from_mode(0o600)).unwrap();

        let address = free_address();
        let configuration = directory.path().join("sshd_config");
        fs::write(&configuration, configuration_text(address, &host_key, &keys)).unwrap();
        let process = Command::new(program())
            .args(["-D", "-f"])
            .arg(&configuration)
            .arg("-E")
            .arg(log_path(directory.path()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("sshd starts; scripts/test installs it");
        let mut sshd = Self {
            process,
            address,
            directory,
        };
        let listens = wait::until("sshd listens or has ended", async || {
            if sshd.log().contains("Server listening on") {
                return Some(true);
            }
            sshd.process.try_wait().unwrap().map(|_status| false)
        })
        .await;
        let port_is_taken = sshd.log().contains("Address already in use");
        assert!(listens || port_is_taken, "sshd did not start:\n{}", sshd.log());
        listens.then_some(sshd)
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it looks for the authorized keys of a login, one file each.
    pub(crate) fn authorized_keys_dir(&self) -> PathBuf {
        self.directory.path().join("authorized_keys")
    }

    /// What it has logged so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(log_path(self.directory.path())).unwrap_or_default()
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        // Both fail only when it has ended already, and then its log says why.
        self.process.kill().ok();
        self.process.wait().ok();
        if std::thread::panicking() {
            eprintln!("--- log of sshd ---\n{}--- end of the log ---", self.log());
        }
    }
}

fn log_path(directory: &Path) -> PathBuf {
    directory.join("log")
}

/// sshd re-executes itself by its own path, so it must be started by an absolute one.
fn program() -> PathBuf {
    ["/usr/sbin/sshd", "/usr/bin/sshd", "/usr/local/sbin/sshd"]
        .into_iter()
        .map(PathBuf::from)
        .find(|path| path.exists())
        .expect("OpenSSH's sshd is installed; scripts/test installs it")
}

fn free_address() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .unwrap()
        .local_addr()
        .unwrap()
}

/// Like a stock server, MaxSessions 10 included. Not so: keys come from one directory, as the emulator writes them, which
/// lies below the sticky /tmp and would fail StrictModes; and nothing asks PAM, so that no other policy has a say.
fn configuration_text(address: SocketAddr, host_key: &Path, keys: &Path) -> String {
    format!(
        "ListenAddress {address}\nHostKey {}\nAuthorizedKeysFile {}/%u\nStrictModes no\nUsePAM no\n\
         PasswordAuthentication no\nKbdInteractiveAuthentication no\nPidFile none\nLogLevel VERBOSE\nUseDNS no\n",
        host_key.display(),
        keys.display(),
    )
}
