//! Values and fakes that several tests of this layer use.

use adit_actors::audit::RowStatus;
use adit_actors::exec::{
    AuditReceipt, EndedBy, Exec, ExecState, Outcome, Ran, Streams, Timing, TunnelTemperature,
};
use adit_actors::instance::{InstanceKey, InstanceTarget};
use serde_json::json;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::store::{StoredExec, Workspace};

/// A workspace that may exec.
pub(crate) fn workspace() -> Workspace {
    Workspace {
        id: Uuid::from_u128(0xa11ce),
        name: "alice".to_owned(),
        org_id: None,
        tier: 3,
        status: "online".to_owned(),
        target: Some(InstanceTarget {
            instance: InstanceKey {
                region: "us-east-2".to_owned(),
                instance_id: "i-0123456789abcdef0".to_owned(),
            },
            os_user: "ec2-user".to_owned(),
            availability_zone: None,
            address: None,
            port: None,
            endpoint: None,
        }),
    }
}

/// An exec that has ended.
pub(crate) fn ended(outcome: Outcome, ended_by: EndedBy, ran: Ran) -> Exec {
    let exec_id = Uuid::from_u128(0xe8ec);
    Exec {
        exec_id,
        state: ExecState::Ended,
        ran,
        outcome: Some(outcome),
        ended_by: Some(ended_by),
        exit_code: None,
        signal: None,
        error: None,
        started_at: OffsetDateTime::UNIX_EPOCH,
        duration_ms: 12,
        timeout_s: 30,
        streams: Streams::default(),
        kill: None,
        tunnel: Some(TunnelTemperature::Warm),
        timing_ms: Timing::default(),
        audit: AuditReceipt {
            id: exec_id,
            committed: true,
        },
    }
}

/// An exec whose program exited.
pub(crate) fn exited(code: u32) -> Exec {
    Exec {
        exit_code: Some(code),
        ..ended(Outcome::Exited, EndedBy::Exit, Ran::Yes)
    }
}

/// The row of an exec, which has ended where `exec` says how.
pub(crate) fn stored(status: RowStatus, exec: Option<&Exec>) -> StoredExec {
    StoredExec {
        id: Uuid::from_u128(0xe8ec),
        workspace_id: workspace().id,
        status,
        summary: Some("exec true".to_owned()),
        request_body: Some(json!({ "cmd": ["true"], "timeout_s": 30 })),
        response_body: exec.map(|exec| json!(exec)),
        error_detail: None,
        created_at: OffsetDateTime::UNIX_EPOCH,
        body_hmac: None,
    }
}
