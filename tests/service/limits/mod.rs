//! What AWS and sshd allow, met under load: sessions of a connection, connections of an endpoint, the life of a tunnel.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::api::Answer;
use crate::support::{Backend, Fleet, Setup, TestApp, wait};

mod cold;
mod endpoint;
mod lifetime;
mod sessions;

/// Longer than any of these tests takes, so that an exec that is not served is a fault and not a slow machine.
const PATIENCE: Duration = Duration::from_secs(300);

/// How often a busy store is asked to admit an exec; each time takes it 3 s or more.
const ATTEMPTS: usize = 50;

/// Starts a service over a real sshd that lets one token and org have all of a test's execs in flight.
async fn start(fleet: Fleet, change: impl FnOnce(&mut Setup)) -> TestApp {
    TestApp::start_fleet(Backend::OpenSshDash, fleet, |setup| {
        setup.settings.limits.execs_per_token = 4_000;
        setup.settings.limits.execs_per_org = 4_000;
        setup.settings.tunnel.start_timeout = PATIENCE;
        // All callers are one thread, which is slow to send a crowd's requests.
        setup.settings.http.head_timeout = PATIENCE;
        setup.settings.http.body_timeout = PATIENCE;
        change(setup);
    })
    .await
}

/// Commands that run while it is closed, and a file that they may leave a trace in. Its drop opens it, too.
struct Gate {
    directory: TempDir,
}

impl Gate {
    fn closed() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let gate = Self { directory };
        // The login that runs the commands is another user.
        fs::set_permissions(gate.directory.path(), Permissions::from_mode(0o755)).unwrap();
        fs::write(gate.bar(), "").unwrap();
        fs::write(gate.trace_file(), "").unwrap();
        fs::set_permissions(gate.trace_file(), Permissions::from_mode(0o666)).unwrap();
        gate
    }

    fn trace_file(&self) -> PathBuf {
        self.directory.path().join("trace")
    }

    fn bar(&self) -> PathBuf {
        self.directory.path().join("bar")
    }

    fn open(&self) {
        fs::remove_file(self.bar()).unwrap();
    }

    /// Traces and prints a number and waits.
    fn wait_with(&self, number: usize) -> Value {
        self.script(
            "echo \"$3\" >>\"$2\"; echo \"$3\"; while [ -e \"$1\" ]; do sleep 0.05; done",
            number,
        )
    }

    /// Counts in lines while it waits, and says that it has ended by itself.
    fn count(&self) -> Value {
        self.script(
            "i=0; while [ -e \"$1\" ]; do echo $i; i=$((i+1)); sleep 0.05; done; echo end",
            0,
        )
    }

    fn script(&self, script: &str, number: usize) -> Value {
        let (bar, trace) = (self.bar(), self.trace_file());
        let (bar, trace) = (bar.to_str().unwrap(), trace.to_str().unwrap());
        json!({"cmd": ["sh", "-c", script, "sh", bar, trace, number.to_string()], "timeout_s": 120})
    }

    /// The numbers in the trace, in order.
    fn trace(&self) -> Vec<usize> {
        let text = fs::read_to_string(self.trace_file()).unwrap();
        let mut numbers: Vec<usize> = text.lines().map(|line| line.parse().unwrap()).collect();
        numbers.sort_unstable();
        numbers
    }
}

/// Checks that [`Gate::count`] has counted without a gap to its own end.
fn assert_counted_on(answer: &Answer) {
    let frames = answer.frames();
    let exec = frames.exit();
    assert_eq!(exec.exit_code, Some(0), "{exec:?}");
    let output = String::from_utf8(frames.output("stdout")).unwrap();
    let mut lines: Vec<&str> = output.lines().collect();
    assert_eq!(lines.pop(), Some("end"));
    assert!(!lines.is_empty());
    for (number, line) in lines.iter().enumerate() {
        assert_eq!(*line, number.to_string(), "{output}");
    }
}

/// Checks that the exec printed that number and nothing else, and ended by itself.
fn assert_printed(answer: &Answer, number: usize) {
    assert_eq!(answer.exec().exit_code, Some(0), "{answer:?}");
    assert_eq!(answer.json()["stdout"], format!("{number}\n"), "{answer:?}");
    assert_eq!(answer.json()["stderr"], "", "{answer:?}");
}

/// The tunnels of the first instance, once they are as `is_awaited` wants them.
async fn tunnels_when(app: &TestApp, what: &str, is_awaited: impl Fn(&Value) -> bool) -> Vec<Value> {
    wait::until(what, async || {
        let tunnels = app.tunnels().await;
        let instance = tunnels["data"].as_array().unwrap().first()?;
        is_awaited(instance).then(|| instance["tunnels"].as_array().unwrap().clone())
    })
    .await
}

/// The sum of a number over an instance's tunnels.
fn sum(instance: &Value, field: &str) -> u64 {
    let tunnels = instance["tunnels"].as_array().into_iter().flatten();
    tunnels.map(|tunnel| tunnel[field].as_u64().unwrap()).sum()
}

fn count(instance: &Value, is_meant: fn(&Value) -> bool) -> u64 {
    let tunnels = instance["tunnels"].as_array().into_iter().flatten();
    tunnels.filter(|tunnel| is_meant(tunnel)).count() as u64
}

/// Asks for an exec until the store is there to admit it. A crowd's requests all at once are more than a debug build looks up
/// within the 3 s that it gives itself when the machine is busy, too; then it says so, and nothing has run.
async fn ask(app: &TestApp, instance: usize, body: Value) -> Answer {
    for _ in 0..ATTEMPTS {
        let answer = app.run_on(instance, body.clone()).await;
        if answer.status != 503 || answer.json()["code"] != "audit_unavailable" {
            return answer;
        }
    }
    panic!("the store was busy {ATTEMPTS} times");
}

/// Checks that as many rows as `exited` are of execs that ended by themselves and as many as `refused` of execs that were
/// refused with `code`, that there are no others, but for those put off as [`ask`] says, and that none quotes sshd.
async fn assert_rows(app: &TestApp, exited: usize, (refused, code): (usize, &str)) {
    let mut ended = (0, 0);
    for row in &app.rows().await {
        assert!(!format!("{row:?}").contains("open failed"), "{row:?}");
        let exec = row.response_body.as_ref().unwrap();
        match (
            row.status.as_str(),
            exec["ran"].as_str(),
            exec["error"]["code"].as_str(),
        ) {
            ("ok", Some("yes"), None) => ended.0 += 1,
            ("error", Some("no"), Some("audit_unavailable")) => {}
            ("error", Some("no"), Some(refusal)) if refusal == code => ended.1 += 1,
            _ => panic!("{row:?}"),
        }
    }
    assert_eq!(ended, (exited, refused));
}

/// [`assert_rows`] where all must have been served.
async fn assert_all_served(app: &TestApp, execs: usize) {
    assert_rows(app, execs, (0, "none")).await;
}
