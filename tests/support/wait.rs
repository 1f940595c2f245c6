//! Waiting for a condition, with a bound, instead of for a time.

use std::time::Duration;

use tokio::time::{sleep, timeout};

/// Long enough for a machine that also compiles; a condition that comes true at once is not waited for.
const LIMIT: Duration = Duration::from_secs(120);

/// How often a condition is looked at.
const PAUSE: Duration = Duration::from_millis(10);

/// Looks at `condition` until it gives something, and fails the test with `what` when it never does.
pub(crate) async fn until<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let polling = async {
        loop {
            if let Some(found) = condition().await {
                return found;
            }
            sleep(PAUSE).await;
        }
    };
    match timeout(LIMIT, polling).await {
        Ok(found) => found,
        Err(_elapsed) => panic!("waited {LIMIT:?} in vain: {what}"),
    }
}

/// [`until`] for a plain yes or no.
pub(crate) async fn until_true(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    until(what, async || condition().await.then_some(())).await;
}
