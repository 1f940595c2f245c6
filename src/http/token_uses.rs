//! Which tokens are in use: noted in memory by each request, written to the store in the background.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use adit_actors::exec::CallerKind;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use crate::store::{Store, StoreError};

/// How far `last_used_at` may lag behind: a token in steady use costs a write in five minutes and not one a request.
const COARSENESS: Duration = Duration::from_secs(300);
/// Longest wait for the store: a shutdown must not hang on it.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);
/// Tokens noted at most between two flushes, at 17 bytes each; that is one statement of the store too. Past it a token is not
/// noted; it is when it is used after the next flush.
const MAX_NOTED: usize = 10_000;

/// A token as the store is told of it.
type Token = (CallerKind, Uuid);

/// The notes. Cheap to clone; all clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct TokenUses(
    // A std mutex: held for one insertion and never across an await.
    Arc<Mutex<HashSet<Token>>>,
);

impl TokenUses {
    /// Notes that a token was used just now.
    pub(crate) fn note(&self, kind: CallerKind, id: Uuid) {
        self.add([(kind, id)]);
    }

    fn add(&self, tokens: impl IntoIterator<Item = Token>) {
        let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for token in tokens {
            if noted.len() < MAX_NOTED {
                noted.insert(token);
            }
        }
    }

    fn take(&self) -> Vec<Token> {
        let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        noted.drain().collect()
    }

    /// Writes what is noted by `write`. What could not be written is noted again, for the next time.
    async fn flush(&self, write: impl AsyncFn(&[Token]) -> Result<(), StoreError>) {
        let tokens = self.take();
        if tokens.is_empty() {
            return;
        }
        let failure = match timeout(FLUSH_TIMEOUT, write(&tokens)).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => Box::new(error) as Box<dyn std::error::Error>,
            Err(elapsed) => Box::new(elapsed),
        };
        tracing::warn!(
            error = &*failure,
            tokens = tokens.len(),
            "the use of tokens could not be noted; it is tried again later"
        );
        self.add(tokens);
    }

    /// Flushes every `interval`, and once more when `stop` says so or its sender is gone.
    async fn keep_flushing(
        self,
        interval: Duration,
        mut stop: oneshot::Receiver<()>,
        write: impl AsyncFn(&[Token]) -> Result<(), StoreError>,
    ) {
        loop {
            let stopped = tokio::select! {
                _ = &mut stop => true,
                () = sleep(interval) => false,
            };
            self.flush(&write).await;
            if stopped {
                return;
            }
        }
    }
}

/// The task that writes the notes to the store.
#[derive(Debug)]
pub struct TokenUseKeeper {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl TokenUseKeeper {
    pub(super) fn start(uses: TokenUses, store: Arc<dyn Store>, interval: Duration) -> Self {
        let (stop, stopped) = oneshot::channel();
        let write = async move |tokens: &[Token]| store.note_token_uses(tokens, COARSENESS).await;
        Self {
            stop,
            task: actix_web::rt::spawn(uses.keep_flushing(interval, stopped, write)),
        }
    }

    /// Writes what is noted still, within seconds. Called when no request comes any more and before the store closes.
    pub async fn finish(self) {
        // A task that is gone already has nothing to write.
        self.stop.send(()).ok();
        if let Err(error) = self.task.await {
            tracing::error!(error = %error, "the task that notes the use of tokens went down");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::time::Duration;

    use adit_actors::exec::CallerKind::{Org, Workspace};
    use tokio::sync::oneshot;
    use tokio::time::{Instant, sleep};
    use uuid::Uuid;

    use super::{FLUSH_TIMEOUT, MAX_NOTED, Token, TokenUses};
    use crate::store::StoreError;

    const MINUTE: Duration = Duration::from_secs(60);

    fn id(number: usize) -> Uuid {
        Uuid::from_u128(number as u128)
    }

    fn away() -> StoreError {
        StoreError::Unavailable {
            operation: "note token uses",
            source: "away".into(),
        }
    }

    /// Runs `script` beside a task that flushes every minute into a store which answers as `answer` says, and gives what
    /// was written, and when.
    async fn flushed(
        script: impl AsyncFnOnce(&TokenUses),
        answer: impl AsyncFn(usize) -> Result<(), StoreError>,
    ) -> Vec<(u64, Vec<Token>)> {
        let (uses, begun) = (TokenUses::default(), Instant::now());
        let calls = RefCell::new(Vec::new());
        let (stop, stopped) = oneshot::channel();
        let keeping = uses
            .clone()
            .keep_flushing(MINUTE, stopped, async |tokens: &[Token]| {
                let mut sorted = tokens.to_vec();
                sorted.sort_by_key(|(_, id)| *id);
                let number = calls.borrow().len();
                calls.borrow_mut().push((begun.elapsed().as_secs(), sorted));
                answer(number).await
            });
        tokio::join!(keeping, async {
            script(&uses).await;
            stop.send(()).unwrap();
        });
        calls.into_inner()
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_is_written_once_a_minute_and_the_rest_at_the_end() {
        let calls = flushed(
            async |uses| {
                uses.note(Org, id(1));
                uses.note(Org, id(1));
                uses.note(Workspace, id(2));
                sleep(MINUTE * 3 / 2).await;
                uses.note(Org, id(3));
                sleep(MINUTE).await;
                sleep(MINUTE).await;
                uses.note(Org, id(4));
            },
            async |_| Ok(()),
        )
        .await;
        let expected = [
            (60, vec![(Org, id(1)), (Workspace, id(2))]),
            (120, vec![(Org, id(3))]),
            (210, vec![(Org, id(4))]),
        ];
        assert_eq!(calls, expected, "and no call where nothing was noted");
    }

    #[tokio::test(start_paused = true)]
    async fn what_failed_goes_with_the_next_and_no_two_flushes_overlap() {
        let calls = flushed(
            async |uses| {
                uses.note(Org, id(1));
                sleep(MINUTE * 3 / 2).await;
                uses.note(Org, id(2));
                sleep(MINUTE * 3).await;
            },
            async |number| match number {
                0 => Err(away()),
                1 => {
                    sleep(MINUTE * 10).await;
                    Ok(())
                }
                _ => Ok(()),
            },
        )
        .await;
        let both = vec![(Org, id(1)), (Org, id(2))];
        let hung = FLUSH_TIMEOUT.as_secs();
        let expected = [(60, vec![(Org, id(1))]), (120, both.clone()), (180 + hung, both)];
        assert_eq!(calls, expected);
    }

    #[test]
    fn the_notes_are_bounded() {
        let uses = TokenUses::default();
        for number in 0..MAX_NOTED + 10 {
            uses.note(Org, id(number));
        }
        assert_eq!(uses.take().len(), MAX_NOTED);
        uses.note(Org, id(0));
        assert_eq!(uses.take().len(), 1, "there is room again");
    }
}
