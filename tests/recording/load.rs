//! Callers that ask for one exec after the other, and remember what they were told.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use adit_actors::exec::Exec;
use rand::RngExt as _;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

use crate::support::seed::Seeded;
use crate::support::wait;

/// Longer than any answer may take: 30 s to start, 120 s of command, 17 s of end.
const ANSWER_LIMIT: Duration = Duration::from_secs(180);

/// How soon a caller tries again when it can't connect.
const PAUSE: Duration = Duration::from_millis(10);

/// Where every command begins by writing down the id of its exec, which Adit gives it: the instance's own word for what ran.
pub(crate) struct Ledger {
    directory: TempDir,
}

impl Ledger {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("began"), "").unwrap();
        Self { directory }
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("began")
    }

    /// The words of a command that writes its id down and then does what `script` says.
    pub(crate) fn command(&self, script: &str) -> Value {
        let script = format!("echo \"$ADIT_EXEC_ID\" >> \"$1\"; {script}");
        json!(["sh", "-c", script, "sh", self.file()])
    }

    /// One that goes on until [`Ledger::let_go`] and then exits with 7.
    pub(crate) fn held_command(&self) -> Value {
        self.command("until [ -e \"$1.go\" ]; do sleep 0.05; done; exit 7")
    }

    /// Lets the held ones go on.
    pub(crate) fn let_go(&self) {
        std::fs::write(self.file().with_extension("go"), "").unwrap();
    }

    /// Ids in the order in which their commands began.
    pub(crate) fn begun(&self) -> Vec<Uuid> {
        let text = std::fs::read_to_string(self.file()).unwrap();
        text.lines().map(|line| line.parse().unwrap()).collect()
    }
}

/// What one request came to. Whatever of it a caller did not get to hear is absent.
#[derive(Clone, Debug, Default)]
pub(crate) struct Heard {
    /// HTTP status.
    pub(crate) status: Option<u16>,
    /// The code of a problem.
    pub(crate) code: Option<String>,
    /// Whether there was a Retry-After.
    pub(crate) may_retry: bool,
    /// From the request to the last of the answer.
    pub(crate) took: Duration,
    /// Whether it is the answer to an earlier request with the same Idempotency-Key.
    pub(crate) is_replayed: bool,
    /// The whole answer's `Exec`: of the exit frame, the JSON form or the problem.
    pub(crate) exec: Option<Exec>,
}

/// Asks once and listens to the end, however that comes.
pub(crate) async fn ask(client: &reqwest::Client, service: SocketAddr, who: &Seeded, body: &Value) -> Heard {
    ask_with(client, service, who, body, |request| request).await
}

/// The same with something more in the request.
pub(crate) async fn ask_with(
    client: &reqwest::Client,
    service: SocketAddr,
    who: &Seeded,
    body: &Value,
    change: impl FnOnce(reqwest::RequestBuilder) -> reqwest::RequestBuilder,
) -> Heard {
    let request = client
        .post(format!("http://{service}/workspaces/{}/exec", who.id))
        .bearer_auth(&who.token)
        .json(body);
    let asked = Instant::now();
    let heard = timeout(ANSWER_LIMIT, listen(change(request))).await;
    Heard {
        took: asked.elapsed(),
        ..heard.expect("an answer that takes so long will never come")
    }
}

async fn listen(request: reqwest::RequestBuilder) -> Heard {
    let Ok(mut answer) = request.send().await else {
        return Heard::default();
    };
    let headers = answer.headers();
    let mut heard = Heard {
        status: Some(answer.status().as_u16()),
        may_retry: headers.contains_key("retry-after"),
        is_replayed: headers.contains_key("idempotent-replayed"),
        ..Heard::default()
    };
    let mut text = Vec::new();
    loop {
        match answer.chunk().await {
            Ok(Some(part)) => text.extend_from_slice(&part),
            Ok(None) => break,
            Err(_) => return heard, // cut off: what came before is no end
        }
    }
    // A stream's last line is its exit frame; the other forms are one object.
    let last = text
        .strip_suffix(b"\n")
        .unwrap_or(&text)
        .rsplit(|byte| *byte == b'\n')
        .next();
    let object: Value = serde_json::from_slice(last.unwrap()).unwrap();
    heard.code = object["code"].as_str().map(str::to_owned);
    let exec = if object["exec"].is_object() {
        &object["exec"]
    } else {
        &object
    };
    heard.exec = serde_json::from_value(exec.clone()).ok();
    heard
}

/// Starts so many held commands and waits until all of them run.
pub(crate) async fn hold(execs: usize, service: SocketAddr, who: &Seeded, ledger: &Ledger) -> JoinSet<Heard> {
    let mut held = JoinSet::new();
    for _ in 0..execs {
        let (who, body) = (
            who.clone(),
            json!({"cmd": ledger.held_command(), "timeout_s": 120}),
        );
        held.spawn(async move { ask(&client(), service, &who, &body).await });
    }
    wait::until_true("the held commands run", async || ledger.begun().len() >= execs).await;
    held
}

/// A client that keeps no connection.
pub(crate) fn client() -> reqwest::Client {
    let client = reqwest::Client::builder().pool_max_idle_per_host(0).no_proxy();
    client.build().unwrap()
}

struct Shared {
    client: reqwest::Client,
    who: Seeded,
    /// The services to ask, none while there is none.
    services: Mutex<Vec<SocketAddr>>,
    is_over: AtomicBool,
    /// By caller.
    heard: Vec<Mutex<Vec<Heard>>>,
    turn: AtomicUsize,
}

/// Callers that go on until they are told to stop.
pub(crate) struct Load {
    shared: Arc<Shared>,
    callers: JoinSet<()>,
}

impl Load {
    /// Starts `callers`, all with the token of one workspace. They ask nobody until [`Load::point_at`].
    pub(crate) fn start(callers: usize, who: &Seeded, ledger: &Ledger) -> Self {
        let shared = Arc::new(Shared {
            client: client(),
            who: who.clone(),
            services: Mutex::default(),
            is_over: AtomicBool::new(false),
            heard: std::iter::repeat_with(Mutex::default).take(callers).collect(),
            turn: AtomicUsize::new(0),
        });
        let mut tasks = JoinSet::new();
        for caller in 0..callers {
            // Of different lengths, so that a moment finds execs in every phase, and with ends that can be told apart.
            let naps = ["", "sleep 0.02; ", "sleep 0.2; "];
            let commands = naps.map(|nap| ledger.command(&format!("{nap}exit {}", caller % 100)));
            tasks.spawn(Arc::clone(&shared).call(caller, commands));
        }
        Self {
            shared,
            callers: tasks,
        }
    }

    /// From now on they ask these, in turn.
    pub(crate) fn point_at(&self, services: &[SocketAddr]) {
        *self.shared.services.lock().unwrap() = services.to_vec();
    }

    /// What each caller has heard so far.
    pub(crate) fn heard(&self) -> Vec<Vec<Heard>> {
        let of_callers = self.shared.heard.iter();
        of_callers.map(|heard| heard.lock().unwrap().clone()).collect()
    }

    /// Lets every caller hear its last answer, and gives what all have heard.
    pub(crate) async fn stop(mut self) -> Vec<Heard> {
        self.shared.is_over.store(true, Ordering::Relaxed);
        while let Some(ended) = self.callers.join_next().await {
            ended.unwrap();
        }
        self.heard().into_iter().flatten().collect()
    }
}

impl Shared {
    async fn call(self: Arc<Self>, caller: usize, commands: [Value; 3]) {
        while !self.is_over.load(Ordering::Relaxed) {
            let Some(service) = self.next_service() else {
                sleep(PAUSE).await;
                continue;
            };
            let body = json!({"cmd": commands[rand::rng().random_range(0..commands.len())]});
            let form = ["application/json", "*/*"][rand::rng().random_range(0..2)];
            let heard = ask_with(&self.client, service, &self.who, &body, |request| {
                request.header("accept", form)
            })
            .await;
            if heard.status.is_none() {
                sleep(PAUSE).await;
            }
            self.heard[caller].lock().unwrap().push(heard);
        }
    }

    fn next_service(&self) -> Option<SocketAddr> {
        let services = self.services.lock().unwrap();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        services.get(turn.checked_rem(services.len())?).copied()
    }
}
