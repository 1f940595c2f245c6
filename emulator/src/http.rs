//! The HTTP side: accepts connections and hands each request to the API that it names.
use std::sync::Arc;

use tokio::net::TcpListener;

use crate::shared::Shared;

/// Accepts until the emulator stops.
pub(crate) async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    shared.stopping().cancelled().await;
    drop(listener);
}
