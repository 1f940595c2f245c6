//! What an answer needs of an exec. The engine's handle is one; tests play others.

use adit_actors::engine::{ExecEvent, RunningExec};
use uuid::Uuid;

/// A running exec, whose drop before its end means that the client has gone.
pub(crate) trait ExecEvents: 'static {
    /// Its id.
    fn exec_id(&self) -> Uuid;
    /// Its timeout as applied, in seconds.
    fn timeout_s(&self) -> u32;
    /// What happens next; as [`RunningExec::next`], and as safe to drop.
    fn next(&mut self) -> impl Future<Output = Option<ExecEvent>>;
}

impl ExecEvents for RunningExec {
    fn exec_id(&self) -> Uuid {
        Self::exec_id(self)
    }

    fn timeout_s(&self) -> u32 {
        Self::timeout_s(self)
    }

    fn next(&mut self) -> impl Future<Output = Option<ExecEvent>> {
        Self::next(self)
    }
}
