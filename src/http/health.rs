//! `/healthz` and `/readyz`: for load balancers and supervisors of the process. No token, no tenant guard, no causes.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use actix_web::HttpResponse;
use actix_web::web::Data;
use adit_actors::exec::ErrorCode;
use serde::Serialize;
use serde_json::json;
use tokio::time::{Instant, timeout};

use super::options::HttpState;
use super::problem::Problem;
use super::respond;

/// How long something has to fail before readiness shows it: a hiccup must not take every replica out of service.
const FAILING_LONG_ENOUGH: Duration = Duration::from_secs(10);
/// Longest wait for the store within one check; probes commonly give up after one to five seconds.
const PING_TIMEOUT: Duration = Duration::from_secs(2);

/// `GET /healthz`: the process answers.
pub(crate) async fn alive() -> HttpResponse {
    respond::json(&json!({ "status": "ok" }))
}

/// `GET /readyz`: whether to send requests here.
pub(crate) async fn ready(state: Data<HttpState>) -> HttpResponse {
    let ping = timeout(PING_TIMEOUT, state.store.ping()).await;
    let store_error = match &ping {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(error as &(dyn std::error::Error + 'static)),
        Err(elapsed) => Some(elapsed as &(dyn std::error::Error + 'static)),
    };
    if let Some(error) = store_error {
        tracing::warn!(error, "the store did not answer the readiness check");
    }
    let readiness = Readiness {
        store_failing_for: failing_for(&state.store_failing_since, store_error.is_some(), Instant::now()),
        audit_failing_for: state.engine.audit_failing_for(),
        shutting_down: state.engine.is_shutting_down(),
    };
    readiness.into_response()
}

/// Keeps when it began, and forgets it with the first success.
fn failing_for(since: &Mutex<Option<Instant>>, failing: bool, now: Instant) -> Option<Duration> {
    // A poisoned lock still holds a whole `Option<Instant>`.
    let mut since = since.lock().unwrap_or_else(PoisonError::into_inner);
    if failing {
        Some(now.saturating_duration_since(*since.get_or_insert(now)))
    } else {
        *since = None;
        None
    }
}

/// What the checks found.
#[derive(Clone, Copy, Debug)]
struct Readiness {
    store_failing_for: Option<Duration>,
    audit_failing_for: Option<Duration>,
    shutting_down: bool,
}

/// One line a check; `failing` is shown from the first failure on, although it counts only later.
#[derive(Debug, Serialize)]
struct Checks {
    store: &'static str,
    audit: &'static str,
    shutdown: &'static str,
}

impl Readiness {
    /// The code to refuse with, if any.
    fn refusal(&self) -> Option<ErrorCode> {
        let too_long = |failing: Option<Duration>| failing.is_some_and(|for_| for_ >= FAILING_LONG_ENOUGH);
        if self.shutting_down {
            Some(ErrorCode::ShuttingDown)
        } else if too_long(self.store_failing_for) || too_long(self.audit_failing_for) {
            Some(ErrorCode::AuditUnavailable)
        } else {
            None
        }
    }

    fn into_response(self) -> HttpResponse {
        let text = |failing: Option<Duration>| if failing.is_some() { "failing" } else { "ok" };
        let checks = Checks {
            store: text(self.store_failing_for),
            audit: text(self.audit_failing_for),
            shutdown: if self.shutting_down { "under way" } else { "ok" },
        };
        match self.refusal() {
            None => respond::json(&json!({ "status": "ready", "checks": checks })),
            Some(code) => Problem::new(code)
                .with_detail("not ready; `checks` says why")
                .with_member("checks", json!(checks))
                .into_response(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Duration;

    use adit_actors::exec::ErrorCode;
    use tokio::time::Instant;

    use super::{Readiness, failing_for};

    #[test]
    fn red_only_after_ten_seconds_or_at_shutdown() {
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        for (store, audit, shutting_down, refusal) in [
            (None, None, false, None),
            (seconds(9), seconds(9), false, None),
            (seconds(10), None, false, Some(ErrorCode::AuditUnavailable)),
            (None, seconds(10), false, Some(ErrorCode::AuditUnavailable)),
            (None, None, true, Some(ErrorCode::ShuttingDown)),
        ] {
            let readiness = Readiness {
                store_failing_for: store,
                audit_failing_for: audit,
                shutting_down,
            };
            assert_eq!(readiness.refusal(), refusal, "{readiness:?}");
        }
    }

    #[test]
    fn one_success_starts_the_count_anew() {
        let since = Mutex::new(None);
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        assert_eq!(failing_for(&since, true, at(0)), Some(Duration::ZERO));
        assert_eq!(failing_for(&since, true, at(8)), Some(Duration::from_secs(8)));
        assert_eq!(failing_for(&since, false, at(9)), None);
        assert_eq!(failing_for(&since, true, at(12)), Some(Duration::ZERO));
    }
}
