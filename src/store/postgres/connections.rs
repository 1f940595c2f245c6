//! A few connections for one purpose, lent for one statement at a time.
//!
//! It differs from a pool in what it promises when the server hangs. A statement that was given up, by its deadline or
//! because whoever asked has gone, takes its connection with it: nobody waits for an answer that may never come, and the
//! next one connects anew. sqlx's pool would ping such a connection until it answers, and keep its place taken.

use std::future::Future;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::{fmt, io};

use sqlx::postgres::{PgArguments, PgConnectOptions, PgConnection, PgRow};
use sqlx::query::Query;
use sqlx::{ConnectOptions, Connection, Postgres};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout, timeout_at};

use crate::store::failure;

/// Connections that nobody used for so long are not trusted: AWS's NAT gateways and network load balancers forget a silent
/// one after 350 s, and say so to nobody.
const IDLE_LIFE: Duration = Duration::from_secs(300);

/// Saying goodbye to a server that may not listen.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// A statement with its parameters.
pub(super) type Statement<'q> = Query<'q, Postgres, PgArguments>;

/// Connections of one purpose: as many as it was made for, opened when they are first needed.
pub(super) struct Connections {
    options: PgConnectOptions,
    permits: Semaphore,
    idle: Mutex<Vec<Idle>>,
    deadline: Duration,
}

struct Idle {
    connection: PgConnection,
    since: Instant,
}

/// Without the options, which hold the password and print it.
impl fmt::Debug for Connections {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Connections")
            .field("idle", &self.idle().len())
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}

impl Connections {
    /// At most `count`, each statement answered within `deadline`, the wait for a connection included.
    pub(super) fn new(options: PgConnectOptions, count: u32, deadline: Duration) -> Self {
        Self {
            options,
            permits: Semaphore::new(usize::try_from(count).unwrap_or(1)),
            idle: Mutex::default(),
            deadline,
        }
    }

    /// The rows of a statement. It is sent a second time when a connection that was there already turns out to be dead,
    /// and may have been performed by then: it must be one that does no harm twice.
    pub(super) async fn rows<'q>(
        &self,
        statement: impl Fn() -> Statement<'q>,
    ) -> Result<Vec<PgRow>, sqlx::Error> {
        let deadline = Instant::now() + self.deadline;
        let Ok(permit) = timeout_at(deadline, self.permits.acquire()).await else {
            return Err(self.too_late("no connection to the database was free"));
        };
        let _permit = permit.map_err(|_| sqlx::Error::PoolClosed)?;
        let Ok(answer) = timeout_at(deadline, self.answer(statement)).await else {
            // Where one went silent the others probably did, and each would cost somebody this wait.
            self.idle().clear();
            return Err(self.too_late("the database did not answer"));
        };
        answer
    }

    async fn answer<'q>(&self, statement: impl Fn() -> Statement<'q>) -> Result<Vec<PgRow>, sqlx::Error> {
        if let Some(mut connection) = self.take_idle() {
            let answer = statement().fetch_all(&mut connection).await;
            match answer {
                Err(error) if is_of_the_connection(&error) => {
                    // The server was restarted, and they all died with it.
                    self.idle().clear();
                    let again = self.answer_anew(statement).await;
                    // It may have been performed the first time, which an answer to the second would deny.
                    return again.map_err(|second| {
                        if failure::is_of_the_statement(&second) {
                            error
                        } else {
                            second
                        }
                    });
                }
                answer => return self.give_back(connection, answer),
            }
        }
        self.answer_anew(statement).await
    }

    async fn answer_anew<'q>(
        &self,
        statement: impl Fn() -> Statement<'q>,
    ) -> Result<Vec<PgRow>, sqlx::Error> {
        let mut connection = self.connect().await?;
        let answer = statement().fetch_all(&mut connection).await;
        self.give_back(connection, answer)
    }

    /// The rows of a statement that is sent once, on a connection of its own: for what must not be done twice, which is
    /// what operators do, now and then.
    pub(super) async fn rows_once(&self, statement: Statement<'_>) -> Result<Vec<PgRow>, sqlx::Error> {
        self.once(async {
            let mut connection = self.connect().await?;
            statement.fetch_all(&mut connection).await
        })
        .await
    }

    /// Several statements on a connection from [`Connections::connect`], within the deadline.
    pub(super) async fn once<T>(
        &self,
        statements: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, sqlx::Error> {
        if self.permits.is_closed() {
            return Err(sqlx::Error::PoolClosed);
        }
        timeout(self.deadline, statements)
            .await
            .unwrap_or_else(|_| Err(self.too_late("the database did not answer")))
    }

    /// A new connection, which is nobody else's and ends when it is dropped.
    pub(super) async fn connect(&self) -> Result<PgConnection, sqlx::Error> {
        self.options.connect().await
    }

    fn take_idle(&self) -> Option<PgConnection> {
        // The one used last is the one most likely alive; those below are older still.
        let mut idle = self.idle();
        let last = idle.pop()?;
        if last.since.elapsed() < IDLE_LIFE {
            return Some(last.connection);
        }
        idle.clear();
        None
    }

    /// Only a connection whose last statement came to a clean end is used again.
    fn give_back<T>(
        &self,
        connection: PgConnection,
        answer: Result<T, sqlx::Error>,
    ) -> Result<T, sqlx::Error> {
        let is_clean = answer.as_ref().err().is_none_or(failure::is_of_the_statement);
        if is_clean && !self.permits.is_closed() {
            let since = Instant::now();
            self.idle().push(Idle { connection, since });
        }
        answer
    }

    fn too_late(&self, what: &str) -> sqlx::Error {
        let problem = format!("{what} within {:?}", self.deadline);
        sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, problem))
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every later statement fails; those under way end.
    pub(super) async fn close(&self) {
        self.permits.close();
        let idle = std::mem::take(&mut *self.idle());
        for Idle { connection, .. } in idle {
            if timeout(CLOSE_TIMEOUT, connection.close()).await.is_err() {
                // It does not listen, and neither will the others.
                return;
            }
        }
    }
}

/// Whether the failure is the connection's and not the statement's. Class 57P is the server going away, class 08 the
/// connection to it: <https://www.postgresql.org/docs/current/errcodes-appendix.html>.
fn is_of_the_connection(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::Protocol(_) | sqlx::Error::Tls(_) => true,
        sqlx::Error::Database(error) => error
            .code()
            .is_some_and(|code| code.starts_with("57P") || code.starts_with("08")),
        _ => false,
    }
}
