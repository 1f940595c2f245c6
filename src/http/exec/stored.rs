//! An exec as others than its own caller see it: live, or as its row tells.

use adit_actors::audit::RowStatus;
use adit_actors::engine::Engine;
use serde_json::{Map, Value, json};
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

use super::json_form;
use crate::store::StoredExec;

/// The members of an `Exec`. What else a row's `response_body` holds is for operators.
const MEMBERS: [&str; 16] = [
    "exec_id",
    "state",
    "ran",
    "outcome",
    "ended_by",
    "exit_code",
    "signal",
    "error",
    "started_at",
    "duration_ms",
    "timeout_s",
    "streams",
    "kill",
    "tunnel",
    "timing_ms",
    "audit",
];

/// An `Exec` as JSON. A null stands for what nobody knows: how an exec goes that runs in another process, or how one went
/// whose process died.
pub(crate) type ExecObject = Map<String, Value>;

/// The exec as it stands in this process, if it runs here for this workspace.
pub(crate) async fn live(engine: &Engine, exec_id: Uuid, workspace_id: Uuid) -> Option<ExecObject> {
    let found = engine.look(exec_id).await?;
    (found.workspace_id == workspace_id).then(|| object(json_form::bare(&found.exec)))
}

/// The exec of a row: live where it runs here, else as the row has it.
pub(crate) async fn as_it_stands(engine: &Engine, row: &StoredExec) -> ExecObject {
    let live = match row.status {
        RowStatus::Running => live(engine, row.id, row.workspace_id).await,
        RowStatus::Ok | RowStatus::Error | RowStatus::Timeout => None,
    };
    live.unwrap_or_else(|| of_row(row))
}

/// The exec as its row has it. Of one that is begun and not finished the row knows only what was asked for.
pub(crate) fn of_row(row: &StoredExec) -> ExecObject {
    let is_final = row.status != RowStatus::Running;
    let told = row.response_body.as_ref().filter(|_| is_final);
    let asked = |name| row.request_body.as_ref().and_then(|body| body.get(name));
    let known = |name: &str| -> Value {
        if let Some(value) = told.and_then(|body| body.get(name)) {
            return value.clone();
        }
        match name {
            "exec_id" => json!(row.id),
            "state" => json!(if is_final { "ended" } else { "running" }),
            "ran" => json!("unknown"),
            "started_at" => json!(row.created_at.format(&Rfc3339).ok()),
            "timeout_s" => json!(asked("timeout_s")),
            "audit" => json!({ "id": row.id, "committed": is_final }),
            _ => Value::Null,
        }
    };
    MEMBERS
        .into_iter()
        .map(|name| (name.to_owned(), known(name)))
        .collect()
}

/// Whether the exec is over.
pub(crate) fn has_ended(exec: &ExecObject) -> bool {
    exec.get("state").is_some_and(|state| state == "ended")
}

fn object(value: Value) -> ExecObject {
    match value {
        Value::Object(members) => members,
        // `bare` gives an object, or has said why it can't.
        _ => Map::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use adit_actors::audit::RowStatus;
    use adit_actors::exec::{EndedBy, Exec, Outcome, Ran};
    use serde_json::{Value, json};
    use time::macros::datetime;

    use super::{MEMBERS, has_ended, of_row};
    use crate::http::test_support::{ended, exited, stored};

    #[test]
    fn an_exec_has_these_members_and_no_others() {
        let exec = serde_json::to_value(exited(0)).unwrap();
        let members: BTreeSet<&str> = exec.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(members, BTreeSet::from(MEMBERS));
    }

    #[test]
    fn a_final_row_gives_the_exec_and_nothing_of_the_operators() {
        for exec in [exited(3), ended(Outcome::Timeout, EndedBy::Timeout, Ran::Yes)] {
            let mut row = stored(RowStatus::Ok, Some(&exec));
            row.response_body.as_mut().unwrap()["aws_request_ids"] = json!({ "key_push": "secret" });
            let object = of_row(&row);
            assert!(has_ended(&object));
            assert_eq!(
                serde_json::from_value::<Exec>(Value::Object(object)).unwrap(),
                exec
            );
        }
    }

    #[test]
    fn of_a_running_row_and_of_one_that_a_sweep_settled_the_rest_is_null() {
        let mut row = stored(RowStatus::Running, None);
        row.created_at = datetime!(2026-01-02 03:04:05.5 UTC);
        let mut expected = json!({
            "exec_id": row.id, "state": "running", "ran": "unknown", "outcome": null, "ended_by": null,
            "exit_code": null, "signal": null, "error": null, "started_at": "2026-01-02T03:04:05.5Z",
            "duration_ms": null, "timeout_s": 30, "streams": null, "kill": null, "tunnel": null, "timing_ms": null,
            "audit": { "id": row.id, "committed": false },
        });
        let object = of_row(&row);
        assert!(!has_ended(&object));
        assert_eq!(Value::Object(object), expected);

        row.status = RowStatus::Error;
        row.response_body = Some(json!({ "state": "ended", "outcome": "unknown", "ended_by": "crash" }));
        expected["state"] = json!("ended");
        expected["outcome"] = json!("unknown");
        expected["ended_by"] = json!("crash");
        expected["audit"]["committed"] = json!(true);
        let object = of_row(&row);
        assert!(has_ended(&object));
        assert_eq!(Value::Object(object), expected);
    }

    #[test]
    fn a_row_that_says_nothing_of_its_request_breaks_nothing() {
        let mut row = stored(RowStatus::Running, None);
        row.request_body = None;
        assert_eq!(of_row(&row)["timeout_s"], Value::Null);
    }
}
