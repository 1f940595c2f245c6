//! A real OpenSSH sshd on a free loopback port, whose authorized keys the emulator writes.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use adit_emulator::{HostKey, Instance, InstanceBackend, Settings};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Child;

use super::eventually;
use super::requests::credentials;

const SSHD: &str = "/usr/sbin/sshd";

/// Login name of the tests. Not root: up to OpenSSH 9.9 sshd refuses `signal` requests in root's sessions.
pub(crate) const USER: &str = "adit-bash";

/// A running sshd; dropping it ends it.
pub(crate) struct Sshd {
    pub(crate) address: SocketAddr,
    pub(crate) keys: PathBuf,
    directory: PathBuf,
    _process: Child,
}

impl Sshd {
    pub(crate) async fn start() -> Self {
        assert!(
            Path::new(SSHD).exists(),
            "{SSHD} is not installed: run scripts/test, which installs what the tests need"
        );
        make_user();
        let directory = std::env::temp_dir().join(format!("adit-sshd-{}", uuid::Uuid::new_v4()));
        let keys = directory.join("keys");
        std::fs::create_dir_all(&keys).unwrap();
        std::fs::create_dir_all("/run/sshd").expect("sshd needs /run/sshd, and the tests root");
        let address = free_address().await;
        write_configuration(&directory, &keys, address);
        let process = tokio::process::Command::new(SSHD)
            .args(["-D", "-e", "-f"])
            .arg(directory.join("sshd_config"))
            .stderr(Stdio::from(std::fs::File::create(directory.join("log")).unwrap()))
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let sshd = Self {
            address,
            keys,
            directory,
            _process: process,
        };
        eventually("sshd listens", async || TcpStream::connect(address).await.is_ok()).await;
        sshd
    }

    /// An emulator whose one instance is this sshd.
    pub(crate) fn settings(&self) -> Settings {
        let backend = InstanceBackend::External {
            address: self.address,
            authorized_keys_dir: self.keys.clone(),
        };
        Settings {
            instances: vec![Instance {
                backend,
                ..Instance::default()
            }],
            ..Settings::new(credentials())
        }
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.directory.join("log")).unwrap_or_default();
            eprintln!("sshd said:\n{log}");
        }
        std::fs::remove_dir_all(&self.directory).ok();
    }
}

async fn free_address() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    listener.local_addr().unwrap()
}

fn write_configuration(directory: &Path, keys: &Path, address: SocketAddr) {
    let host_key = directory.join("host_key");
    std::fs::write(&host_key, HostKey::generate().to_openssh().unwrap()).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&host_key, mode).unwrap();
    let text = format!(
        "Port {}\nListenAddress {}\nHostKey {}\nPidFile none\nUsePAM no\nStrictModes no\n\
         AuthorizedKeysFile {}/%u\nPasswordAuthentication no\nLogLevel VERBOSE\nMaxStartups 100\n",
        address.port(),
        address.ip(),
        host_key.display(),
        keys.display(),
    );
    std::fs::write(directory.join("sshd_config"), text).unwrap();
}

fn make_user() {
    let known = || nix::unistd::User::from_name(USER).unwrap().is_some();
    if known() {
        return;
    }
    // `*` and not `!`: with UsePAM no, sshd takes `!` for a locked account.
    let made = Command::new("useradd")
        .args(["-m", "-s", "/bin/bash", "-p", "*", USER])
        .status();
    // Another test may have made it in between.
    assert!(
        known(),
        "the tests need the user `{USER}` and can't make it ({made:?}): run them as root"
    );
}
