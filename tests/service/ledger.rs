//! What commands have begun on the instance, in their own words, to hold answers and rows against.

use adit_actors::exec::{EndedBy, Exec, Outcome, Ran};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::TestApp;
use crate::support::api::Answer;

/// Goes on until it is let go.
pub(crate) const HELD: &str = r#"echo going; until [ -e "$2/go" ]; do sleep 0.05; done; echo done"#;

/// Every command begins by writing its name down, so that none can run twice unseen.
pub(crate) struct Ledger {
    directory: TempDir,
}

impl Ledger {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("began"), "").unwrap();
        Self { directory }
    }

    /// The body of a request for `script`, which must be the only one of that name.
    pub(crate) fn request(&self, name: &str, script: &str) -> Value {
        let script = format!("echo \"$1\" >> \"$2/began\"; {script}");
        let directory = self.directory.path().to_str().unwrap();
        json!({"cmd": ["sh", "-c", script, "sh", name, directory], "timeout_s": 120})
    }

    /// Lets what is [`HELD`] go on.
    pub(crate) fn let_go(&self) {
        std::fs::write(self.directory.path().join("go"), "").unwrap();
    }

    pub(crate) fn times_begun(&self, name: &str) -> usize {
        let began = std::fs::read_to_string(self.directory.path().join("began")).unwrap();
        began.lines().filter(|line| *line == name).count()
    }

    /// Nothing ran twice, nothing ran that is said not to have run, and each exec, given by its name, has one row that
    /// says the same.
    pub(crate) async fn assert_rows_are_true(&self, app: &TestApp, execs: &[(String, Exec)]) {
        let rows = app.rows().await;
        assert_eq!(rows.len(), execs.len(), "{rows:#?}");
        for (name, exec) in execs {
            let begun = self.times_begun(name);
            let is_true = match exec.ran {
                Ran::No => begun == 0,
                Ran::Yes => begun == 1,
                Ran::Unknown => begun <= 1,
            };
            assert!(is_true, "`{name}` began {begun} times: {exec:?}");
            assert!(exec.audit.committed, "{exec:?}");
            let row = rows.iter().find(|row| row.id == exec.exec_id).unwrap();
            let is_ok = exec.outcome == Some(Outcome::Exited);
            assert_eq!(row.status, if is_ok { "ok" } else { "error" }, "{row:?}");
            let stored: Exec = serde_json::from_value(row.response_body.clone().unwrap()).unwrap();
            assert_eq!((stored.outcome, stored.ran), (exec.outcome, exec.ran), "{row:?}");
        }
    }
}

/// The exec in an answer, whatever its status.
pub(crate) fn exec_of(answer: &Answer) -> Exec {
    let body = answer.json();
    let exec = if answer.status == 200 {
        &body
    } else {
        &body["exec"]
    };
    serde_json::from_value(exec.clone()).unwrap_or_else(|error| panic!("{error}: {answer:?}"))
}

pub(crate) fn assert_lost(exec: &Exec) {
    assert_eq!(
        (exec.outcome, exec.ended_by, exec.exit_code),
        (Some(Outcome::TunnelLost), Some(EndedBy::TunnelLost), None),
        "{exec:?}"
    );
    assert_eq!(serde_json::to_value(&exec.error).unwrap()["code"], "tunnel_lost");
}
