//! A real OpenSSH server on a free port, for as long as a test needs it, and people who log in to it beside Adit.

use std::fs::{self, Permissions};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use adit_emulator::HostKey;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::wait;

/// Another process may take a free port between its choice and sshd's use of it.
const ATTEMPTS: usize = 5;

/// Who may log in beside Adit, as a directory of authorized keys.
const PEOPLE: &str = "people";

/// What a test may change of an sshd.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SshdOptions {
    /// `MaxSessions`: session channels of one connection. OpenSSH's default is 10.
    pub(crate) max_sessions: usize,
    /// How many instances it stands for. Each has authorized keys of its own, and brings the `MaxStartups` of its own.
    pub(crate) instances: usize,
    /// `ForceCommand`: what runs whatever is asked for.
    pub(crate) forced_command: Option<&'static str>,
}

impl Default for SshdOptions {
    fn default() -> Self {
        Self {
            max_sessions: 10,
            instances: 1,
            forced_command: None,
        }
    }
}

/// OpenSSH's own server with a configuration of its own. Ended by its process id when dropped.
pub(crate) struct Sshd {
    process: Child,
    address: SocketAddr,
    directory: TempDir,
}

impl Sshd {
    /// Starts one and waits until it listens.
    pub(crate) async fn start(options: SshdOptions) -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "the tests log in as other users through a real sshd, which needs root; run scripts/test"
        );
        for _ in 0..ATTEMPTS {
            if let Some(sshd) = Self::try_start(options).await {
                return sshd;
            }
        }
        panic!("sshd found no free port in {ATTEMPTS} attempts");
    }

    async fn try_start(options: SshdOptions) -> Option<Self> {
        let directory = tempfile::Builder::new().prefix("adit-sshd-").tempdir().unwrap();
        // sshd reads authorized keys as the user who logs in.
        fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
        let mut key_directories: Vec<PathBuf> = (0..options.instances)
            .map(|number| keys_of_instance(directory.path(), number))
            .collect();
        key_directories.push(directory.path().join(PEOPLE));
        for keys in &key_directories {
            fs::create_dir(keys).unwrap();
            fs::set_permissions(keys, Permissions::from_mode(0o755)).unwrap();
        }
        let host_key = directory.path().join("host_key");
        fs::write(&host_key, HostKey::generate().to_openssh().unwrap()).unwrap();
        fs::set_permissions(&host_key, Permissions::from_mode(0o600)).unwrap();

        let address = free_address();
        let configuration = directory.path().join("sshd_config");
        let text = configuration_text(address, &host_key, &key_directories, options);
        fs::write(&configuration, text).unwrap();
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

    /// Where it looks for the authorized keys of a login on that instance, from 0, one file each.
    pub(crate) fn authorized_keys_dir(&self, instance: usize) -> PathBuf {
        keys_of_instance(self.directory.path(), instance)
    }

    /// What it has logged so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(log_path(self.directory.path())).unwrap_or_default()
    }
}

/// Somebody with `ssh` and a key of their own: one connection with one session, open until it is dropped.
pub(crate) struct Person {
    // Killed when it is dropped. All that runs in the session is `cat`, which ends with the connection.
    _ssh: tokio::process::Child,
}

impl Person {
    /// Logs in and waits until the session is open.
    pub(crate) async fn log_in(sshd: &Sshd, login: &str) -> Self {
        let key = sshd.directory.path().join(format!("{PEOPLE}-{login}"));
        if !key.exists() {
            fs::write(&key, HostKey::generate().to_openssh().unwrap()).unwrap();
            fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
            let public = Command::new("ssh-keygen").arg("-yf").arg(&key).output().unwrap();
            assert!(public.status.success(), "{public:?}");
            fs::write(sshd.directory.path().join(PEOPLE).join(login), public.stdout).unwrap();
        }
        let mut ssh = tokio::process::Command::new("ssh")
            .args(["-F", "none", "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes"])
            .args([
                "-o",
                "StrictHostKeyChecking=no",
                "-o",
                "UserKnownHostsFile=/dev/null",
            ])
            .arg("-i")
            .arg(&key)
            .args(["-p", &sshd.address.port().to_string()])
            .arg(format!("{login}@{}", sshd.address.ip()))
            .arg("cat")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        ssh.stdin.as_mut().unwrap().write_all(b"x").await.unwrap();
        let echo = ssh.stdout.as_mut().unwrap().read_u8().await;
        assert_eq!(echo.unwrap(), b'x', "the session is open");
        Self { _ssh: ssh }
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

fn keys_of_instance(directory: &Path, number: usize) -> PathBuf {
    directory.join(format!("authorized_keys_{number}"))
}

/// Like a stock server. Not so: keys come from directories, as the emulator writes them, which lie below the sticky /tmp and
/// would fail StrictModes; nothing asks PAM, so that no other policy has a say; and connections before their login are
/// bounded for each instance that it stands for.
fn configuration_text(
    address: SocketAddr,
    host_key: &Path,
    key_directories: &[PathBuf],
    options: SshdOptions,
) -> String {
    let keys: Vec<String> = key_directories
        .iter()
        .map(|keys| format!("{}/%u", keys.display()))
        .collect();
    let SshdOptions {
        max_sessions,
        instances,
        forced_command,
    } = options;
    let forced = forced_command.map_or_else(String::new, |command| format!("ForceCommand {command}\n"));
    format!(
        "ListenAddress {address}\nHostKey {}\nAuthorizedKeysFile {}\nStrictModes no\nUsePAM no\n\
         PasswordAuthentication no\nKbdInteractiveAuthentication no\nPidFile none\nLogLevel VERBOSE\nUseDNS no\n\
         {forced}MaxSessions {max_sessions}\nMaxStartups {}:30:{}\n",
        host_key.display(),
        keys.join(" "),
        10 * instances,
        100 * instances,
    )
}
