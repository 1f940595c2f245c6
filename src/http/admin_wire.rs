//! What the admin API takes and answers with. The service writes it and the client reads it.

use adit_actors::audit::RowStatus;
use adit_actors::tunnel::{EndpointSnapshot, InstanceSnapshot};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::store::{self, Provenance};

/// The pool: answered by `GET /admin/tunnels` and by what changes tunnels.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TunnelListing {
    /// One for each login on each instance.
    pub data: Vec<InstanceSnapshot>,
    /// Endpoints whose connections the process shares out; of one instance only those that it goes through or waits for.
    pub endpoints: Vec<EndpointSnapshot>,
}

/// A pinned host key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostKeyPin {
    /// AWS region.
    pub region: String,
    /// Instance id.
    pub instance_id: String,
    /// Key type as SSH names it.
    pub key_type: String,
    /// The public key line: type and base64.
    pub key: String,
    /// `SHA256:...` as `ssh-keygen -l` prints it; null for what is not a key.
    pub fingerprint: Option<String>,
    /// Who says that this is the key.
    pub provenance: Provenance,
    /// Which operator, for people; null at first use.
    pub pinned_by: Option<String>,
    /// When, RFC 3339.
    #[serde(with = "time::serde::rfc3339")]
    pub pinned_at: OffsetDateTime,
}

impl From<store::HostKeyPin> for HostKeyPin {
    fn from(pin: store::HostKeyPin) -> Self {
        Self {
            region: pin.instance.region,
            instance_id: pin.instance.instance_id,
            key: pin.key.line(),
            fingerprint: pin.key.fingerprint(),
            key_type: pin.key.key_type,
            provenance: pin.provenance,
            pinned_by: pin.pinned_by,
            pinned_at: pin.pinned_at,
        }
    }
}

/// A page of pins, by region and instance id.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HostKeyListing {
    /// The pins.
    pub data: Vec<HostKeyPin>,
    /// `cursor` of the next page; null on the last.
    pub next_cursor: Option<String>,
}

/// The body of `PUT /admin/hostkeys/{instance_id}`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PinRequest {
    /// A public key line: type, base64, and perhaps a comment.
    pub key: String,
}

/// The answer to it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PinAnswer {
    /// What holds now.
    pub pinned: HostKeyPin,
    /// What held until then.
    pub replaced: Option<HostKeyPin>,
}

/// The answer to `DELETE /admin/hostkeys/{instance_id}`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ForgetAnswer {
    /// What held until then.
    pub forgotten: HostKeyPin,
}

/// An exec as operators see it: the `Exec` that its tenant sees, and what of its row is not the tenant's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExecRecord {
    /// The workspace it ran for.
    pub workspace_id: Uuid,
    /// Where the row stands.
    pub status: RowStatus,
    /// When it was admitted, RFC 3339.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// One line for people.
    pub summary: Option<String>,
    /// Who asked for what: `actor`, `cmd` and `cwd` (both redacted), `env_names`, `stdin_bytes`, `timeout_s`,
    /// `remote_addr` and `request_id`.
    pub request_body: Option<Value>,
    /// Error code and the chain of causes, if something went wrong.
    pub error_detail: Option<String>,
    /// Those of the key push and the OpenTunnel behind the exec's tunnel.
    pub aws_request_ids: Option<Value>,
    /// The members of the `Exec`, beside those above; null where nobody knows.
    #[serde(flatten)]
    pub exec: Map<String, Value>,
}

/// A page of execs, newest first.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ExecListing {
    /// The execs.
    pub data: Vec<ExecRecord>,
    /// `cursor` of the next page; null on the last.
    pub next_cursor: Option<String>,
}
