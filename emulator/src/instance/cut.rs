//! Cutting the tunnel at a step of a command, when the client has all that came before.
//!
//! It must know nothing of processes.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use russh::server::Handle;
use tokio_util::sync::CancellationToken;

use crate::faults::CutAt;
use crate::shared::InstanceEntry;

/// Time for a client to show that it has what was sent. One that does not is cut all the same.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(5);

/// The end that a session may put to its tunnel.
#[derive(Debug)]
pub(crate) struct SessionCut {
    pub(crate) entry: Arc<InstanceEntry>,
    pub(crate) connection: Handle,
    /// Cuts the tunnel.
    pub(crate) cut: CancellationToken,
    output: AtomicU64,
}

impl SessionCut {
    pub(crate) fn new(entry: Arc<InstanceEntry>, connection: Handle, cut: CancellationToken) -> Self {
        Self {
            entry,
            connection,
            cut,
            output: AtomicU64::new(0),
        }
    }

    /// Counts this output, and says how much of it is still sent if the tunnel is to be cut in it.
    pub(crate) fn in_output(&self, length: usize) -> Option<usize> {
        let added = u64::try_from(length).unwrap_or(u64::MAX);
        let before = self.output.fetch_add(added, Ordering::Relaxed);
        self.entry.faults.take_cut(|at| match at {
            CutAt::AfterBytesOfOutput(limit) => {
                let left = limit.saturating_sub(before);
                usize::try_from(left).ok().filter(|left| *left <= length)
            }
            _ => None,
        })
    }

    pub(crate) fn after_exit_status(&self) -> bool {
        self.entry.faults.take_cut_at(CutAt::AfterExitStatus)
    }

    /// Cuts the tunnel when the client has all that was sent so far. Does not return: the session ends with its
    /// connection.
    pub(crate) async fn now(&self) {
        // Any SSH client answers a global request, if by a refusal, and in order (RFC 4254, 4). russh has no other way
        // to tell what has left it.
        let answered = self.connection.forward_tcpip("localhost".to_owned(), 0);
        tokio::time::timeout(DELIVERY_TIMEOUT, answered).await.ok();
        self.cut.cancel();
        pending().await
    }
}
