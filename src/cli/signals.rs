//! SIGTERM and SIGINT, counted: stop, then hurry, then end on the spot.

use std::future::Future;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use super::failure::CliError;

/// Exit code after a signal that is not waited for, as shells report a death by SIGINT.
const INTERRUPTED: i32 = 130;

/// How often the process was asked to end.
#[derive(Debug)]
pub(super) struct StopRequests {
    count: watch::Receiver<u8>,
}

impl StopRequests {
    /// Takes over both signals. The third ends the process at once: someone who asks three times will not wait.
    ///
    /// # Errors
    /// When the process can't listen for signals.
    pub(super) fn listen() -> Result<Self, CliError> {
        let mut terminate = signal(SignalKind::terminate()).map_err(CliError::Signals)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(CliError::Signals)?;
        let (counter, count) = watch::channel(0);
        actix_rt::spawn(async move {
            for number in 1..=2 {
                next(&mut terminate, &mut interrupt).await;
                counter.send_replace(number);
            }
            next(&mut terminate, &mut interrupt).await;
            tracing::warn!("told three times to stop: ending without waiting for execs and audit rows");
            std::process::exit(INTERRUPTED);
        });
        Ok(Self { count })
    }

    /// Completes when the process has been asked `times` times to end.
    pub(super) fn asked(&self, times: u8) -> impl Future<Output = ()> + use<> {
        let mut count = self.count.clone();
        async move {
            // The counter lives as long as the process: it is never dropped before the wait is over.
            count.wait_for(|asked| *asked >= times).await.ok();
        }
    }
}

async fn next(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
