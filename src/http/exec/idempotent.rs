//! One run for all requests that come with one Idempotency-Key.
//!
//! Nothing is locked and nothing is remembered here: an attempt's id follows from the key, and the row's primary key lets one
//! try begin it, in whichever process.

use actix_web::HttpResponse;
use adit_actors::engine::{Permit, RunningExec};
use adit_actors::exec::ExecSpec;
use uuid::Uuid;

use super::answer;
use super::attempts::{Attempt, AttemptSearch, judge};
use super::form::Form;
use super::idempotency_key::IdempotencyKey;
use super::stored::{self, ExecObject};
use crate::http::options::HttpState;
use crate::http::problem::{Problem, ProblemCode};

/// How often a request may lose an attempt to another request and look again. Who loses once commonly finds the winner
/// running; to lose again, the winner must have failed meanwhile and a third request have been faster.
const RACES: u32 = 3;

const LOST_EACH_RACE: &str =
    "other requests with this idempotency key were faster each time; nothing of this one has run";

const NOT_FINAL: &str = "the exec with this idempotency key has ended, and its final row is not written yet";

/// Whose exec answers a request.
#[derive(Debug)]
pub(crate) enum Turn {
    /// Its own, which runs.
    Own(RunningExec),
    /// An earlier request's.
    Earlier(Earlier),
}

/// What an earlier request with the same key has come to.
#[derive(Debug)]
pub(crate) struct Earlier {
    /// Its exec.
    pub(crate) exec_id: Uuid,
    answer: EarlierAnswer,
}

#[derive(Debug)]
enum EarlierAnswer {
    Replay(ExecObject),
    InProgress(ExecObject),
    Mismatch,
}

impl Earlier {
    /// The answer, in the form that this request asks for.
    pub(crate) fn into_response(self, form: Form) -> HttpResponse {
        let response = match self.answer {
            EarlierAnswer::Replay(exec) => answer::replay(exec, form),
            EarlierAnswer::InProgress(exec) => in_progress(exec).into_response(),
            EarlierAnswer::Mismatch => Problem::new(ProblemCode::IdempotencyMismatch).into_response(),
        };
        answer::with_headers(response, self.exec_id)
    }
}

/// Runs `spec`, under the id that the key gives it, or finds the exec that has run, or runs, in its stead. `permit` is held no
/// longer than it takes to find out.
///
/// # Errors
/// `audit_unavailable` when the store can't say; `exec_in_progress` when others with the same key are faster time and again.
/// Nothing of this request has run then.
pub(crate) async fn take_turn(
    state: &HttpState,
    mut spec: ExecSpec,
    permit: Permit,
    key: &IdempotencyKey,
) -> Result<Turn, Problem> {
    let hmac = key.hmac_of(&spec.request);
    spec.body_hmac = Some(hmac);
    for _ in 0..RACES {
        let (exec_id, attempt) = find_attempt(state, key, spec.workspace_id, &hmac).await?;
        let answer = match attempt {
            Attempt::Free | Attempt::Failed => {
                spec.exec_id = exec_id;
                let mut running = state.engine.run(spec.clone(), permit.clone());
                if running.owns_id().await {
                    return Ok(Turn::Own(running));
                }
                continue;
            }
            Attempt::InProgress(row) => {
                EarlierAnswer::InProgress(stored::as_it_stands(&state.engine, &row).await)
            }
            Attempt::Ended(row) => EarlierAnswer::Replay(stored::of_row(&row)),
            Attempt::Mismatch => EarlierAnswer::Mismatch,
        };
        return Ok(Turn::Earlier(Earlier { exec_id, answer }));
    }
    Err(Problem::new(ProblemCode::ExecInProgress).with_detail(LOST_EACH_RACE))
}

/// The row decides what a replay says, so an exec that has ended is not replayed before its row is final.
fn in_progress(exec: ExecObject) -> Problem {
    let problem = Problem::new(ProblemCode::ExecInProgress);
    let problem = if stored::has_ended(&exec) {
        problem.with_detail(NOT_FINAL)
    } else {
        problem
    };
    problem.with_member("exec", exec.into())
}

/// The attempt that counts, and its exec's id.
async fn find_attempt(
    state: &HttpState,
    key: &IdempotencyKey,
    workspace_id: Uuid,
    hmac: &[u8; 32],
) -> Result<(Uuid, Attempt), Problem> {
    let mut search = AttemptSearch::default();
    let mut found = (key.exec_id(workspace_id, 0), Attempt::Free);
    while let Some(number) = search.next() {
        let exec_id = key.exec_id(workspace_id, number);
        let row = state
            .store
            .exec(exec_id, Some(workspace_id))
            .await
            .map_err(|error| Problem::store_unavailable(&error, "an idempotency key can't be looked up"))?;
        let attempt = judge(row, hmac);
        if attempt == Attempt::Mismatch {
            return Ok((exec_id, attempt));
        }
        search.note(number, attempt == Attempt::Failed);
        if attempt != Attempt::Failed {
            found = (exec_id, attempt);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use adit_actors::audit::RowStatus;
    use serde_json::{Value, json};

    use super::in_progress;
    use crate::http::exec::stored::of_row;
    use crate::http::test_support::stored;

    #[test]
    fn an_exec_that_has_ended_is_not_said_to_go_on() {
        for (state, detail) in [
            ("running", "has begun, and its end is not known yet"),
            ("ended", "has ended, and its final row is not written yet"),
        ] {
            let mut exec = of_row(&stored(RowStatus::Running, None));
            exec.insert("state".to_owned(), json!(state));
            let (_, body) = in_progress(exec).into_parts();
            let problem: Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(
                (&problem["code"], &problem["exec"]["state"]),
                (&json!("exec_in_progress"), &json!(state))
            );
            assert!(problem["detail"].as_str().unwrap().ends_with(detail), "{problem}");
        }
    }
}
