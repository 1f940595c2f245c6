//! What `adit exec` shows on a terminal while a tunnel is opened, and nowhere else.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use adit_actors::exec::{EndedBy, Exec, Outcome, Ran};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::support::{Backend, TestApp, wait};

/// Long beside the time after which the line appears.
const COLD_START: Duration = Duration::from_secs(2);

const ERASE: &str = "\r\x1b[K";

/// A terminal, and what has been written on it.
struct Terminal {
    far_end: File,
    written: Arc<Mutex<Vec<u8>>>,
}

impl Terminal {
    fn open() -> Self {
        let near_end = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&near_end).unwrap();
        unlockpt(&near_end).unwrap();
        let path = ptsname(&near_end, Vec::new()).unwrap().into_string().unwrap();
        let far_end = OpenOptions::new().read(true).write(true).open(path).unwrap();
        let written = Arc::<Mutex<Vec<u8>>>::default();
        let kept = Arc::clone(&written);
        std::thread::spawn(move || {
            let mut near_end = File::from(near_end);
            let mut bytes = [0; 1_024];
            // An error means that nobody has the far end any more.
            while let Ok(count) = near_end.read(&mut bytes) {
                kept.lock().unwrap().extend_from_slice(&bytes[..count]);
            }
        });
        Self { far_end, written }
    }

    fn stderr(&self) -> Stdio {
        self.far_end.try_clone().unwrap().into()
    }

    fn text(&self) -> String {
        String::from_utf8(self.written.lock().unwrap().clone()).unwrap()
    }

    async fn shows(&self, text: &str) {
        wait::until_true(&format!("the terminal shows {text:?}"), async || {
            self.text().contains(text)
        })
        .await;
    }
}

fn adit_exec(app: &TestApp, terminal_kind: &str, stderr: Stdio) -> Child {
    let workspace = app.seed.workspace();
    Command::new(env!("CARGO_BIN_EXE_adit"))
        .args(["exec", "--", "echo", "hello"])
        .env("ADIT_URL", app.api.base())
        .env("ADIT_TOKEN", &workspace.token)
        .env("ADIT_WORKSPACE", workspace.id.to_string())
        .env("TERM", terminal_kind)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(stderr)
        .spawn()
        .unwrap()
}

async fn start_cold(cold_start: Duration) -> TestApp {
    TestApp::start_with(Backend::InProcess, |setup| {
        setup.emulator.instances[0].faults.grant_latency = cold_start;
    })
    .await
}

#[actix_rt::test]
async fn a_cold_start_is_shown_on_a_terminal_and_leaves_nothing_there() {
    let app = start_cold(COLD_START).await;
    let terminals = [Terminal::open(), Terminal::open()];
    let children = [
        adit_exec(&app, "xterm", terminals[0].stderr()),
        adit_exec(&app, "dumb", terminals[1].stderr()),
        adit_exec(&app, "xterm", Stdio::piped()),
    ];
    terminals[0].shows("| waiting for the instance, 0 s").await;
    for child in children {
        let output = actix_rt::task::spawn_blocking(move || child.wait_with_output().unwrap())
            .await
            .unwrap();
        assert_eq!(
            (output.status.code(), &output.stdout[..]),
            (Some(0), &b"hello\n"[..])
        );
        assert!(output.stderr.is_empty(), "{output:?}");
    }
    terminals[0].shows("/ waiting").await;
    wait::until_true("the line is taken out", async || {
        terminals[0].text().ends_with(ERASE)
    })
    .await;
    assert!(!terminals[0].text().contains('\n'), "{:?}", terminals[0].text());
    assert_eq!(terminals[1].text(), "");
    app.finish().await;
}

#[actix_rt::test]
async fn an_interrupt_before_the_command_runs_cancels_it() {
    let app = start_cold(Duration::from_secs(60)).await;
    let terminal = Terminal::open();
    let mut child = adit_exec(&app, "xterm", terminal.stderr());
    terminal.shows("waiting for the instance").await;
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let ended = wait::until("`adit exec` ends", async || child.try_wait().unwrap()).await;
    assert_eq!(ended.code(), Some(130));
    let said = format!("{ERASE}\r\nadit: interrupted; whether the exec was cancelled is not known");
    wait::until_true("it says what it knows", async || {
        let text = terminal.text();
        text.contains(&said) && text.ends_with("the service had not answered yet\r\n")
    })
    .await;
    let row = wait::until("the row is final", async || {
        let row = app.only_row().await;
        (row.status != "running").then_some(row)
    })
    .await;
    let exec: Exec = serde_json::from_value(row.response_body.unwrap()).unwrap();
    assert_eq!(
        (exec.outcome, exec.ended_by, exec.ran),
        (Some(Outcome::Cancelled), Some(EndedBy::ClientGone), Ran::No),
    );
    app.finish().await;
}
