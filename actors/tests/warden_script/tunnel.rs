//! A warden that is run by a shell of this machine, and execs beside it as sshd and Adit start them.

use std::fs::{self, Permissions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;
use tokio::time::Instant;
use uuid::Uuid;

pub(crate) const SCRIPT: &str = include_str!("../../src/tunnel/warden/warden.sh");
/// Longer than anything here takes on a machine that also compiles.
pub(crate) const LIMIT: Duration = Duration::from_secs(120);

/// A shell of an instance, and how to start it. With busybox, `grep` and `sleep` are busybox's too.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Shell {
    Dash,
    Bash,
    Busybox,
}

impl Shell {
    pub(crate) const ALL: [Self; 3] = [Self::Dash, Self::Bash, Self::Busybox];

    pub(crate) fn command(self, tools: &TempDir) -> Command {
        match self {
            Self::Dash => Command::new("/bin/dash"),
            Self::Bash => Command::new("/bin/bash"),
            Self::Busybox => {
                let mut command = Command::new(busybox());
                command.arg("sh").env("PATH", tools.path());
                command
            }
        }
    }
}

pub(crate) fn busybox() -> &'static str {
    let places = ["/bin/busybox", "/usr/bin/busybox"];
    let is_there = |place: &&str| fs::exists(place).unwrap();
    places
        .into_iter()
        .find(is_there)
        .expect("busybox is installed; scripts/test installs it")
}

/// A warden, and the execs of its tunnel.
pub(crate) struct Tunnel {
    pub(crate) tools: TempDir,
    pub(crate) mark: String,
    pub(crate) warden: Child,
    pub(crate) input: Option<ChildStdin>,
    pub(crate) lines: Receiver<String>,
}

/// An exec: the id it carries, and its shell's process id, which is its session's too.
#[derive(Clone, Debug)]
pub(crate) struct Exec {
    pub(crate) id: String,
    pub(crate) session: u32,
}

impl Tunnel {
    pub(crate) fn open(shell: Shell) -> Self {
        Self::open_as(shell, &[])
    }

    /// With words before the shell that run it as somebody else.
    pub(crate) fn open_as(shell: Shell, before: &[&str]) -> Self {
        let tools = tempfile::tempdir().unwrap();
        fs::set_permissions(tools.path(), Permissions::from_mode(0o755)).unwrap();
        for name in ["grep", "sleep"] {
            symlink(busybox(), tools.path().join(name)).unwrap();
        }
        let mark = Uuid::new_v4().simple().to_string();
        let inner = shell.command(&tools);
        let mut command = match before {
            [] => shell.command(&tools),
            [program, words @ ..] => {
                let mut command = Command::new(program);
                command
                    .args(words)
                    .arg(inner.get_program())
                    .args(inner.get_args());
                command
            }
        };
        let mut warden = command
            .args(["-c", SCRIPT, "adit-warden", "nonce", &mark])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (input, lines) = (warden.stdin.take(), reader(warden.stdout.take().unwrap()));
        let tunnel = Self {
            tools,
            mark,
            warden,
            input,
            lines,
        };
        assert_eq!(tunnel.line(), "ready nonce");
        tunnel
    }

    /// Starts `script` as sshd and Adit's command line do, and waits until it says `up`.
    pub(crate) fn start(&self, script: &str) -> Exec {
        let id = Uuid::new_v4().to_string();
        let line = format!(
            "export ADIT_TUNNEL={} ADIT_EXEC_ID={id}; exec sh -c '{script}'",
            self.mark
        );
        let mut child = Command::new("setsid")
            .args(["sh", "-c", &line])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let exec = Exec {
            id,
            session: child.id(),
        };
        let lines = reader(child.stdout.take().unwrap());
        // As sshd does: what has ended is not kept.
        thread::spawn(move || child.wait());
        assert_eq!(lines.recv_timeout(LIMIT).unwrap(), "up");
        exec
    }

    pub(crate) fn ask(&mut self, line: &str) {
        self.input.as_mut().unwrap().write_all(line.as_bytes()).unwrap();
    }

    /// Asks for an end and gives what the warden says of it: signals and number left.
    pub(crate) fn end(&mut self, exec: &Exec) -> String {
        self.ask(&format!("end {} {}\n", exec.id, exec.session));
        self.answer(exec)
    }

    pub(crate) fn answer(&mut self, exec: &Exec) -> String {
        let line = self.line();
        line.strip_prefix(&format!("ended {} ", exec.id))
            .unwrap_or_else(|| panic!("{line}"))
            .to_owned()
    }

    pub(crate) fn line(&self) -> String {
        self.lines.recv_timeout(LIMIT).expect("the warden answers")
    }

    /// Closes the warden's input, as sshd does when the tunnel is gone, and waits for its end.
    pub(crate) fn lose(&mut self) {
        drop(self.input.take());
        self.warden.wait().unwrap();
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        for process in carrying(&format!("ADIT_TUNNEL={}", self.mark)) {
            Command::new("kill")
                .args(["-KILL", &process.to_string()])
                .status()
                .ok();
        }
        self.warden.kill().ok();
        self.warden.wait().ok();
    }
}

pub(crate) fn reader(output: ChildStdout) -> Receiver<String> {
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(output).lines() {
            if line.is_err() || sender.send(line.unwrap()).is_err() {
                return;
            }
        }
    });
    lines
}

/// The processes that carry the id of this exec.
pub(crate) fn living(exec: &Exec) -> Vec<u32> {
    carrying(&format!("ADIT_EXEC_ID={}", exec.id))
}

pub(crate) fn command_succeeds(program: &str, words: &[&str]) -> bool {
    let output = Command::new(program).args(words).output();
    output.unwrap().status.success()
}

/// Processes that have exactly this entry in their environment. One that ends meanwhile, and a zombie, has none.
pub(crate) fn carrying(entry: &str) -> Vec<u32> {
    let carries = |process: &u32| {
        let environment = fs::read(format!("/proc/{process}/environ")).unwrap_or_default();
        environment
            .split(|byte| *byte == 0)
            .any(|found| found == entry.as_bytes())
    };
    let processes = fs::read_dir("/proc").unwrap();
    let processes = processes.filter_map(|found| found.ok()?.file_name().to_str()?.parse().ok());
    processes.filter(carries).collect()
}

pub(crate) fn is_alive(process: u32) -> bool {
    fs::read_to_string(format!("/proc/{process}/stat"))
        .is_ok_and(|stat| !stat.rsplit(") ").next().unwrap().starts_with(['Z', 'X']))
}

pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !is_so() {
        assert!(Instant::now() < end, "waited in vain: {what}");
        #[expect(clippy::disallowed_methods, reason = "a test of processes, without actors")]
        thread::sleep(Duration::from_millis(10));
    }
}
