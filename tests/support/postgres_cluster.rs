//! A PostgreSQL server of a test's own, to be stopped, frozen, killed and started again.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::wait;

/// Another process may take a free port between its choice and the server's use of it.
const ATTEMPTS: usize = 5;

/// Below those that the kernel gives out by itself, so that nobody takes the port while the server is stopped.
const PORTS: std::ops::Range<u16> = 10_000..20_000;

/// What a test may change of a server.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ClusterOptions {
    /// Whether a commit waits for the disk, as in production. Only what is measured needs it.
    pub(crate) waits_for_disk: bool,
}

/// A server on loopback that keeps its port over stops and starts. Its processes end with it when it is dropped.
#[derive(Debug)]
pub(crate) struct Cluster {
    programs: PathBuf,
    directory: TempDir,
    options: ClusterOptions,
    port: u16,
    process: Option<Child>,
}

impl Cluster {
    /// Makes a cluster and starts it.
    pub(crate) async fn start() -> Self {
        Self::start_with(ClusterOptions::default()).await
    }

    /// The same, unlike the others.
    pub(crate) async fn start_with(options: ClusterOptions) -> Self {
        let mut cluster = Self {
            programs: programs(),
            directory: tempfile::Builder::new()
                .prefix("adit-postgres-")
                .tempdir()
                .unwrap(),
            options,
            port: 0,
            process: None,
        };
        give_to_postgres(cluster.directory.path());
        cluster.initialize();
        for _ in 0..ATTEMPTS {
            cluster.port = free_port();
            if cluster.try_start().await {
                return cluster;
            }
        }
        panic!(
            "PostgreSQL did not start in {ATTEMPTS} attempts:\n{}",
            cluster.log()
        );
    }

    /// URL of the database `postgres`, whose user may do everything.
    pub(crate) fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }

    /// Where it listens, or will listen again.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Ends it as an operator would: connections are cut, what is committed is on the disk.
    pub(crate) async fn stop(&mut self) {
        self.end(&[self.postmaster()], Signal::INT).await;
    }

    /// Ends all its processes at once, as the kernel does when memory is short.
    pub(crate) async fn kill(&mut self) {
        let processes = self.processes();
        self.end(&processes, Signal::KILL).await;
        wait::until_true("every process of the server has ended", async || {
            processes.iter().all(|process| !is_alive(*process))
        })
        .await;
    }

    /// Starts it again where it was.
    pub(crate) async fn start_again(&mut self) {
        assert!(self.process.is_none(), "it runs");
        assert!(
            self.try_start().await,
            "PostgreSQL did not start again:\n{}",
            self.log()
        );
    }

    /// Stops all its processes in their tracks: connections stay open, and nobody answers.
    pub(crate) fn freeze(&self) {
        // Its parent first, which then makes no more of them.
        for process in self.processes() {
            kill_process(process, Signal::STOP).ok(); // one that has ended meanwhile answers nobody either
        }
    }

    /// Lets it go on after [`Cluster::freeze`].
    pub(crate) fn thaw(&self) {
        for process in self.processes() {
            kill_process(process, Signal::CONT).ok();
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    fn initialize(&self) {
        let output = as_postgres(&self.programs.join("initdb"))
            .arg("-D")
            .arg(self.data())
            .args([
                "--username=postgres",
                "--auth=trust",
                "--encoding=UTF8",
                "--locale=C",
                "--no-sync",
            ])
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    /// Whether it serves; if not, its log says why.
    async fn try_start(&mut self) -> bool {
        let log = self.directory.path().join("log");
        let log = fs::File::options().create(true).append(true).open(log).unwrap();
        let mut process = as_postgres(&self.programs.join("postgres"))
            .arg("-D")
            .arg(self.data())
            .args(["-p", &self.port.to_string(), "-c", "listen_addresses=127.0.0.1"])
            // No sockets in /tmp and nothing in /dev/shm, so that a directory is all that has to be removed.
            .args([
                "-c",
                "unix_socket_directories=",
                "-c",
                "dynamic_shared_memory_type=mmap",
            ])
            .args(["-c", "shared_buffers=16MB", "-c", "max_connections=200"])
            .args([
                "-c",
                if self.options.waits_for_disk {
                    "fsync=on"
                } else {
                    "fsync=off"
                },
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let status = self.data().join("postmaster.pid");
        let serves = wait::until("PostgreSQL serves or has ended", async || {
            if process.try_wait().unwrap().is_some() {
                return Some(false);
            }
            // Its last line is the state, and its first the process (PostgreSQL's `miscadmin.h`).
            let status = fs::read_to_string(&status).unwrap_or_default();
            let is_its_own = status.lines().next() == Some(&process.id().to_string());
            let is_ready = status.lines().last().is_some_and(|state| state.trim() == "ready");
            (is_its_own && is_ready).then_some(true)
        })
        .await;
        self.process = serves.then_some(process);
        serves
    }

    fn postmaster(&self) -> Pid {
        Pid::from_child(self.process.as_ref().expect("the server runs"))
    }

    /// The postmaster, and then its children, which are all the processes that there are.
    fn processes(&self) -> Vec<Pid> {
        let postmaster = self.postmaster();
        let mut processes = vec![postmaster];
        processes.extend(children(postmaster));
        processes
    }

    async fn end(&mut self, processes: &[Pid], signal: Signal) {
        for process in processes {
            kill_process(*process, signal).ok(); // a child may have ended with its parent
        }
        let process = self.process.as_mut().unwrap();
        wait::until("PostgreSQL ends", async || process.try_wait().unwrap()).await;
        self.process = None;
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.process.is_none() {
            return;
        }
        self.thaw();
        // Other than KILL it gives back the shared memory that outlives a process.
        let mut stop = as_postgres(&self.programs.join("pg_ctl"));
        stop.args(["stop", "-s", "-m", "immediate", "-D"])
            .arg(self.data());
        stop.status().ok();
        let process = self.process.as_mut().unwrap();
        // Both fail only when it has ended already.
        process.kill().ok();
        process.wait().ok();
        if std::thread::panicking() {
            eprintln!("--- log of PostgreSQL ---\n{}--- end of the log ---", self.log());
        }
    }
}

/// PostgreSQL refuses to run as root.
fn as_postgres(program: &Path) -> Command {
    assert!(
        rustix::process::geteuid().is_root(),
        "the tests start PostgreSQL as the user `postgres`, which needs root; run scripts/test"
    );
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid=postgres", "--regid=postgres", "--init-groups"])
        // A test that is killed takes its server along: QUIT is the immediate shutdown.
        .args(["--pdeathsig", "QUIT", "--"])
        .arg(program)
        .current_dir("/");
    command
}

fn give_to_postgres(directory: &Path) {
    let status = Command::new("chown")
        .arg("postgres:")
        .arg(directory)
        .status()
        .unwrap();
    assert!(
        status.success(),
        "the user `postgres` exists; scripts/test installs PostgreSQL"
    );
}

/// Where Debian keeps the programs of the newest version, or the directory on the path that has them.
fn programs() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let newest = versions
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .max()
        .map(|version| PathBuf::from(format!("/usr/lib/postgresql/{version}/bin")));
    let path = std::env::var_os("PATH").unwrap_or_default();
    newest
        .into_iter()
        .chain(std::env::split_paths(&path))
        .find(|directory| directory.join("initdb").exists())
        .expect("PostgreSQL is installed; scripts/test installs it")
}

fn free_port() -> u16 {
    let is_free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    std::iter::repeat_with(|| rand::random_range(PORTS))
        .find(is_free)
        .unwrap()
}

fn children(parent: Pid) -> Vec<Pid> {
    let processes = fs::read_dir("/proc").unwrap();
    processes
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok())
        .filter(|process| status_line(*process, "PPid:") == Some(parent.to_string()))
        .filter_map(Pid::from_raw)
        .collect()
}

/// A zombie is not: nothing of it is left but its number.
fn is_alive(process: Pid) -> bool {
    let state = status_line(process.as_raw_nonzero().get(), "State:");
    state.is_some_and(|state| !state.starts_with('Z'))
}

/// A line of `/proc/PID/status`; none where the process has ended.
fn status_line(process: i32, name: &str) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let value = status.lines().find_map(|line| line.strip_prefix(name))?;
    Some(value.trim().to_owned())
}
