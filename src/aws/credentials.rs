//! AWS credentials for signing outside the SDK, asked for no more often than needed.
//!
//! The SDK's clients cache what their provider gives; OpenTunnel is signed by hand, so it needs a cache of its own. A
//! provider may stand for a call to IMDS or STS, which a burst of cold instances must not repeat for each.

use std::time::Duration;

use adit_actors::clock::Clock;
use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError as ProviderError;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use thiserror::Error;
use time::OffsetDateTime;
use tokio::sync::Mutex;

/// Credentials with less life left than this are asked for anew. An open tunnel outlives the credentials that opened it,
/// so they need to last only for the dial; IMDS has the next ones ready at least 5 minutes before the old ones end.
const RENEW_BEFORE: Duration = Duration::from_secs(300);

/// No credentials to sign with.
#[derive(Debug, Error)]
#[error("no AWS credentials to sign with")]
pub struct CredentialsError(#[source] ProviderError);

/// Gives credentials that are good for a dial now.
#[derive(Debug)]
pub(super) struct CachedCredentials {
    provider: SharedCredentialsProvider,
    clock: Clock,
    // Held across the provider's call on purpose: of many dials at once one asks, the others get its answer.
    latest: Mutex<Option<Credentials>>,
}

impl CachedCredentials {
    pub(super) fn new(provider: SharedCredentialsProvider, clock: Clock) -> Self {
        Self {
            provider,
            clock,
            latest: Mutex::new(None),
        }
    }

    /// The credentials, from the cache while they have an end and it is far enough. Those without an end come from
    /// memory or a file anyway, and are asked for each time so that a changed file counts.
    pub(super) async fn get(&self) -> Result<Credentials, CredentialsError> {
        let mut latest = self.latest.lock().await;
        let renew_from = self.clock.now() + RENEW_BEFORE;
        if let Some(credentials) = latest.as_ref()
            && credentials
                .expiry()
                .is_some_and(|expiry| OffsetDateTime::from(expiry) > renew_from)
        {
            return Ok(credentials.clone());
        }
        let fresh = self
            .provider
            .provide_credentials()
            .await
            .map_err(CredentialsError)?;
        *latest = Some(fresh.clone());
        Ok(fresh)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::SystemTime;

    use aws_credential_types::provider::future;

    use super::*;

    #[derive(Debug)]
    struct Counting {
        asked: Arc<AtomicUsize>,
        expiry: Option<SystemTime>,
    }

    impl ProvideCredentials for Counting {
        fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
        where
            Self: 'a,
        {
            self.asked.fetch_add(1, Ordering::SeqCst);
            future::ProvideCredentials::ready(Ok(Credentials::new(
                "key",
                "secret",
                None,
                self.expiry,
                "test",
            )))
        }
    }

    async fn times_asked(expires_in: Option<u64>) -> usize {
        let now = OffsetDateTime::from_unix_timestamp(1_577_840_461).unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let provider = Counting {
            asked: asked.clone(),
            expiry: expires_in.map(|seconds| SystemTime::from(now + Duration::from_secs(seconds))),
        };
        let cached = CachedCredentials::new(
            SharedCredentialsProvider::new(provider),
            Clock::from_fn(move || now),
        );
        for _ in 0..3 {
            cached.get().await.unwrap();
        }
        asked.load(Ordering::SeqCst)
    }

    #[tokio::test]
    async fn credentials_are_kept_while_they_last_long_enough() {
        assert_eq!(times_asked(Some(3_600)).await, 1);
        assert_eq!(times_asked(Some(299)).await, 3, "about to end");
        assert_eq!(
            times_asked(None).await,
            3,
            "without an end they cost nothing to ask for"
        );
    }
}
