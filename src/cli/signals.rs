//! SIGTERM and SIGINT: the first asks the service to stop, the second ends it on the spot.

use std::future::Future;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::failure::CliError;

/// Completes at the first signal. From then on another one ends the process at once, with the code that shells use for
/// Ctrl-C: someone who asks twice will not wait for the grace.
pub(super) fn stop_requested() -> Result<impl Future<Output = ()>, CliError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(CliError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(CliError::Signals)?;
    Ok(async move {
        next(&mut terminate, &mut interrupt).await;
        actix_rt::spawn(async move {
            next(&mut terminate, &mut interrupt).await;
            tracing::warn!("told twice to stop: ending without waiting for execs and audit rows");
            std::process::exit(130);
        });
    })
}

async fn next(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
