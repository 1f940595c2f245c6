//! TEMPORARY: until the core has these.
use adit_actors::engine::{Engine, RunningExec};
use adit_actors::exec::{EndedBy, Exec};
use uuid::Uuid;
pub(crate) struct LiveLook {
    pub(crate) workspace_id: Uuid,
    pub(crate) exec: Exec,
}
pub(crate) trait EngineStub {
    async fn look(&self, _: Uuid) -> Option<LiveLook> {
        None
    }
    fn cancel(&self, _: Uuid, _: Uuid, _: EndedBy) -> bool {
        false
    }
}
impl EngineStub for Engine {}
pub(crate) trait RunningStub {
    async fn owns_id(&mut self) -> bool {
        true
    }
}
impl RunningStub for RunningExec {}
