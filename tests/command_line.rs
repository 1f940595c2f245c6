//! The commands around the store, the settings and the end of the service, on the real binary.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test's helpers fail it by panicking; clippy.toml reaches only the test functions themselves"
)]

#[path = "command_line/asking.rs"]
mod asking;
#[path = "support/wait.rs"]
mod wait;

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use rustix::process::{Pid, Signal, kill_process};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions, Row};

fn adit(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_adit"));
    command
        .args(arguments)
        .current_dir(directory)
        .env("ADIT__STORE__URL", "sqlite://adit.db")
        .env_remove("AWS_ACCESS_KEY_ID")
        .stdin(Stdio::null());
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap().trim_end().to_owned()
}

#[track_caller]
fn succeeds(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    text(&output.stdout)
}

/// Fails with this code, says each of `parts` in one line on stderr, and prints nothing.
#[track_caller]
fn fails(command: &mut Command, code: i32, parts: &[&str]) {
    let output: Output = command.output().unwrap();
    let said = text(&output.stderr);
    assert_eq!(
        (output.status.code(), text(&output.stdout).as_str()),
        (Some(code), ""),
        "{said}"
    );
    for part in parts {
        assert!(said.contains(part), "{said:?} does not say {part:?}");
    }
    if code == 1 {
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}

#[test]
fn a_store_is_made_filled_and_emptied_by_commands() {
    let directory = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| adit(directory.path(), arguments);
    fails(
        &mut run(&["workspace", "list"]),
        1,
        &["no store at `adit.db`", "`adit migrate`"],
    );
    fails(&mut run(&["serve"]), 1, &["`adit migrate`"]);
    assert!(succeeds(&mut run(&["migrate"])).starts_with("applied "));
    assert_eq!(succeeds(&mut run(&["migrate"])), "the store is up to date");

    fails(
        &mut run(&["workspace", "add", "a", "--tier", "3"]),
        2,
        &["`--org UUID`", "`--root`"],
    );
    fails(&mut run(&["workspace", "add", "a", "--root"]), 2, &["--tier"]);
    fails(
        &mut run(&["workspace", "add", "a", "--root", "--tier", "5"]),
        2,
        &["1..=4"],
    );
    fails(
        &mut run(&[
            "workspace",
            "add",
            "a",
            "--root",
            "--tier",
            "3",
            "--endpoint-id",
            "eice-01234567",
        ]),
        2,
        &["required", "--endpoint-dns-name <NAME>"],
    );
    let instance = ["--instance", "i-0123456789abcdef0", "--address", "10.0.0.7"];
    let root = succeeds(run(&["workspace", "add", "acme", "--tier", "3", "--root"]).args(instance));
    // Where it is, EC2 can be asked.
    let sub =
        succeeds(run(&["workspace", "add", "build", "--tier", "4", "--org", &root]).args(&instance[..2]));
    fails(
        &mut run(&["workspace", "add", "b", "--tier", "3", "--root", "--id", &sub]),
        1,
        &["is there already"],
    );
    let listed = succeeds(&mut run(&["workspace", "list"]));
    let names: Vec<_> = listed
        .lines()
        .skip(1)
        .map(|line| line.split_whitespace().nth(1).unwrap())
        .collect();
    assert_eq!(names, ["acme", "build"]);
    assert!(
        listed.contains("us-east-2/i-0123456789abcdef0") && listed.contains("10.0.0.7"),
        "{listed}"
    );

    fails(&mut run(&["token", "issue"]), 2, &["--workspace", "--org"]);
    fails(&mut run(&["token", "issue", "--org"]), 2, &["`tenant.org_id`"]);
    fails(
        &mut run(&["token", "issue", "--workspace", &sub, "--name", "n"]),
        2,
        &["`--name`"],
    );
    let nobody = "00000000-0000-4000-8000-000000000000";
    fails(&mut run(&["token", "issue", "--workspace", nobody]), 1, &[nobody]);
    let tokens = [
        succeeds(&mut run(&["token", "issue", "--workspace", &sub])),
        succeeds(&mut run(&["token", "issue", "--org", &root, "--name", "ci"])),
        succeeds(run(&["token", "issue", "--org"]).env("ADIT__TENANT__ORG_ID", nobody)),
    ];
    let listed = succeeds(&mut run(&["token", "list"]));
    assert_eq!(listed.lines().count(), 4);
    let database = fs::read(directory.path().join("adit.db")).unwrap();
    for token in &tokens {
        assert_eq!(token.len(), 43);
        assert!(
            listed.contains(token.get(..8).unwrap()) && !listed.contains(token),
            "{listed}"
        );
        assert!(
            !database
                .windows(token.len())
                .any(|window| window == token.as_bytes()),
            "the store has no token"
        );
    }
    let id = listed
        .lines()
        .find(|line| line.contains(" ci "))
        .unwrap()
        .split_whitespace()
        .next()
        .unwrap();
    succeeds(&mut run(&["token", "revoke", id]));
    fails(&mut run(&["token", "revoke", id]), 1, &["no live token", id]);
}

#[test]
fn what_is_wrong_is_said_in_a_line_with_the_right_code() {
    let directory = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| adit(directory.path(), arguments);
    let file = directory.path().join("wrong.toml");
    fs::write(&file, "[http]\nlisen = \"127.0.0.1:1\"\n").unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();

    fails(
        &mut run(&["serve", "--config", "wrong.toml"]),
        1,
        &["`wrong.toml` line 2", "`lisen`", "`listen`"],
    );
    fails(
        &mut run(&["serve", "--config", "none.toml"]),
        1,
        &["`none.toml`", "No such file"],
    );
    fails(
        run(&["serve"]).env("ADIT__HTTP__LISEN", "x"),
        1,
        &["`ADIT__HTTP__LISEN`", "`listen`"],
    );
    fails(
        run(&["serve"]).env("ADIT__HTTP__LISTEN", &taken),
        1,
        &["`http.listen`", &taken, "in use"],
    );
    fails(
        &mut run(&["dev", "--listen", "0.0.0.0:0"]),
        2,
        &["loopback", "0.0.0.0:0"],
    );
    fails(
        &mut run(&["dev", "--listen", &taken]),
        1,
        &[&taken, "--listen", "in use"],
    );
    assert!(
        !directory.path().join(".adit").exists(),
        "what can't be served leaves no data"
    );
    for command in ["migrate", "serve"] {
        fails(
            run(&[command]).env("ADIT__STORE__URL", "sqlite://no/such/adit.db"),
            1,
            &["no directory `no/such`", "`no/such/adit.db`", "make it"],
        );
    }
    fails(
        run(&["migrate"]).env("ADIT__STORE__URL", "sqlite://wrong.toml/adit.db"),
        1,
        &["`wrong.toml/adit.db`", "Not a directory"],
    );
    fails(&mut run(&["emulator"]), 2, &["`AWS_ACCESS_KEY_ID`"]);
    fails(
        &mut run(&["emulator", "--instance", "i-01234567=h:1"]),
        2,
        &["--authorized-keys-dir"],
    );
    for (arguments, said) in [
        (["--tls-cert", "x.pem"], "--tls-key"),
        (["--cut-at", "login"], "--cut-tunnels"),
        (["--cut-tunnels", "1"], "--cut-at"),
        (["--max-tunnel-duration", "3601"], "3600"),
    ] {
        fails(
            &mut run(&[&["emulator"], arguments.as_slice()].concat()),
            2,
            &[said],
        );
    }
    let emulator = |certificate: &str| {
        let arguments = ["emulator", "--tls-cert", certificate, "--tls-key", "wrong.toml"];
        let mut command = run(&arguments);
        command
            .env("AWS_ACCESS_KEY_ID", "any")
            .env("AWS_SECRET_ACCESS_KEY", "any");
        command
    };
    fails(&mut emulator("none.pem"), 1, &["`none.pem`"]);
    fails(
        &mut emulator("wrong.toml"),
        1,
        &["--tls-cert", "certificate chain"],
    );
    fails(&mut run(&["exec", "--no-such-flag"]), 125, &["--no-such-flag"]);
    fails(&mut run(&["no-such-command"]), 2, &["no-such-command"]);
    assert!(succeeds(&mut run(&["dev", "--help"])).contains("Examples:"));
    let help = succeeds(&mut run(&["emulator", "--help"]));
    for part in ["Listener:", "Instances:", "Limits:", "Faults", "Examples:"] {
        assert!(help.contains(part), "{help}");
    }
}

/// A running `adit dev` with an exec that runs. Killed by its id when the test ends before it.
struct Service {
    process: Child,
    said: Arc<Mutex<Vec<String>>>,
}

impl Service {
    async fn with_an_exec(directory: &Path) -> (Self, Child) {
        let mut command = adit(
            directory,
            &["dev", "--listen", "127.0.0.1:0", "--data-dir", "data"],
        );
        command
            .env("ADIT__AUDIT__FLUSH_TIMEOUT_S", "1")
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let said = keep(process.stderr.take().unwrap());
        let service = Self { process, said };
        let environment = directory.join("data/dev.env");
        wait::until_true("`adit dev` is ready", async || environment.exists()).await;
        let variables = fs::read_to_string(environment).unwrap();
        let mut exec = adit(
            directory,
            &[
                "exec",
                "--timeout",
                "120",
                "--",
                "sh",
                "-c",
                "echo runs; exec sleep 100",
            ],
        )
        .envs(variables.lines().filter_map(|line| line.split_once('=')))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
        let printed = keep(exec.stdout.take().unwrap());
        wait::until_true("the exec runs", async || !printed.lock().unwrap().is_empty()).await;
        (service, exec)
    }

    /// Sends SIGTERM, and waits until it is noticed: two that come together count as one.
    async fn stop(&self, notice: &str) {
        kill_process(Pid::from_child(&self.process), Signal::TERM).unwrap();
        let is_noticed = async || self.said.lock().unwrap().iter().any(|line| line.contains(notice));
        wait::until_true("the signal is noticed", is_noticed).await;
    }

    /// Its exit code and the last line of its stderr.
    async fn ended(mut self) -> (Option<i32>, String) {
        let status = wait::until("`adit dev` ends", async || self.process.try_wait().unwrap()).await;
        // Its reader holds the lines until it has seen the end of the pipe.
        wait::until_true("all that it said is read", async || {
            Arc::strong_count(&self.said) == 1
        })
        .await;
        (
            status.code(),
            self.said.lock().unwrap().last().cloned().unwrap_or_default(),
        )
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        self.process.kill().ok();
        self.process.wait().ok();
        if std::thread::panicking() {
            eprintln!("{:#?}", self.said.lock().unwrap());
        }
    }
}

/// Reads lines to the end on a thread of its own: a pipe that nobody reads would stop the program.
fn keep(stream: impl Read + Send + 'static) -> Arc<Mutex<Vec<String>>> {
    let lines = Arc::<Mutex<Vec<String>>>::default();
    let kept = Arc::clone(&lines);
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            kept.lock().unwrap().push(line);
        }
    });
    lines
}

async fn open(database: &Path) -> SqliteConnection {
    SqliteConnectOptions::new()
        .filename(database)
        .connect()
        .await
        .unwrap()
}

/// Id, status and final object of the only row.
async fn status(database: &Path) -> Option<(String, String, Option<String>)> {
    let rows = sqlx::query("SELECT id, status, response_body FROM activity_logs")
        .fetch_all(&mut open(database).await)
        .await
        .unwrap();
    assert!(rows.len() <= 1);
    rows.first()
        .map(|row| (row.get("id"), row.get("status"), row.get("response_body")))
}

#[tokio::test]
async fn a_second_signal_ends_the_grace_and_not_the_audit() {
    let directory = tempfile::tempdir().unwrap();
    let (service, mut exec) = Service::with_an_exec(directory.path()).await;
    service.stop("stopping").await;
    service.stop("told again to stop").await;
    let (code, said) = service.ended().await;
    assert_eq!(code, Some(0), "{said}");
    let (_, status, body) = status(&directory.path().join("data/adit.db")).await.unwrap();
    assert_eq!(status, "error");
    assert!(body.unwrap().contains(r#""ended_by":"shutdown""#));
    assert_eq!(exec.wait().unwrap().code(), Some(125));
}

#[tokio::test]
async fn a_data_directory_has_one_adit_dev_at_a_time() {
    let directory = tempfile::tempdir().unwrap();
    let (service, mut exec) = Service::with_an_exec(directory.path()).await;
    let environment = directory.path().join("data/dev.env");
    let written = fs::read(&environment).unwrap();
    let second = ["dev", "--listen", "127.0.0.1:0", "--data-dir", "data"];
    fails(
        adit(directory.path(), &second).env("ADIT__LOG__FILTER", "off"),
        2,
        &["another `adit dev` uses", "/data`", "--data-dir"],
    );
    assert_eq!(
        fs::read(&environment).unwrap(),
        written,
        "the first one's file still leads to it"
    );
    service.stop("stopping").await;
    service.stop("told again to stop").await;
    assert_eq!(service.ended().await.0, Some(0));
    assert_eq!(exec.wait().unwrap().code(), Some(125));
    // Or it would count as the sign that the third one is ready.
    fs::remove_file(environment).unwrap();
    let (third, mut exec) = Service::with_an_exec(directory.path()).await;
    drop(third);
    assert_eq!(exec.wait().unwrap().code(), Some(125));
}

#[tokio::test]
async fn the_login_of_adit_dev_is_whoever_runs_it() {
    let directory = tempfile::tempdir().unwrap();
    let (service, mut exec) = Service::with_an_exec(directory.path()).await;
    let me = succeeds(Command::new("id").arg("-un"));
    let variables = fs::read_to_string(directory.path().join("data/dev.env")).unwrap();
    let variables = || variables.lines().filter_map(|line| line.split_once('='));
    let run = |arguments: &[&str]| {
        let mut command = adit(directory.path(), arguments);
        command
            .envs(variables())
            .env("ADIT__STORE__URL", "sqlite://data/adit.db");
        command
    };
    for listing in [["tunnels"].as_slice(), &["workspace", "list"]] {
        let table = succeeds(&mut run(listing));
        let words = |line: usize| {
            table
                .lines()
                .nth(line)
                .unwrap()
                .split_whitespace()
                .collect::<Vec<_>>()
        };
        let place = words(0).iter().position(|title| *title == "LOGIN").unwrap();
        assert_eq!(words(1)[place], me, "{table}");
    }

    let exec_as = |login: &[&str]| {
        let instance = ["--instance", "i-0123456789abcdef0", "--address", "10.0.0.10"];
        let workspace = succeeds(
            run(&["workspace", "add", "other", "--tier", "3", "--root"])
                .args(instance)
                .args(login),
        );
        let token = succeeds(&mut run(&["token", "issue", "--workspace", &workspace]));
        let mut command = run(&["exec", &workspace, "--", "id", "-un"]);
        command.env("ADIT_TOKEN", token);
        command
    };
    assert_eq!(succeeds(&mut exec_as(&[])), me, "the default login");
    fails(
        &mut exec_as(&["--os-user", "somebody-else"]),
        125,
        &["grant_denied"],
    );

    service.stop("stopping").await;
    service.stop("told again to stop").await;
    assert_eq!(service.ended().await.0, Some(0));
    exec.wait().unwrap();
}

#[test]
fn a_directory_of_somebody_elses_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let ignored = directory.path().join(".gitignore");
    fs::write(&ignored, "target/\n").unwrap();
    fails(
        adit(
            directory.path(),
            &["dev", "--listen", "127.0.0.1:0", "--data-dir", "."],
        )
        .env("ADIT__LOG__FILTER", "off"),
        2,
        &["`.`", "not a data directory", "--data-dir"],
    );
    assert_eq!(fs::read_to_string(ignored).unwrap(), "target/\n");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn rows_that_cannot_be_written_are_named_and_the_code_is_not_0() {
    let directory = tempfile::tempdir().unwrap();
    let database = directory.path().join("data/adit.db");
    let (service, mut exec) = Service::with_an_exec(directory.path()).await;
    let (id, ..) = status(&database).await.unwrap();
    let mut lock = open(&database).await;
    sqlx::query("BEGIN IMMEDIATE").execute(&mut lock).await.unwrap();
    service.stop("stopping").await;
    service.stop("told again to stop").await;
    let (code, said) = service.ended().await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(&id), "{said}");
    assert_eq!(exec.wait().unwrap().code(), Some(125));
}
