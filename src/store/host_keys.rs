//! Pinned host keys as an operator sees them: the key that an instance must show, and who says so.

use adit_actors::instance::InstanceKey;
use adit_actors::tunnel::HostKey;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

/// Where a pin comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Provenance {
    /// An operator said which key it must be.
    Operator,
    /// The instance showed it at the first login that succeeded.
    FirstUse,
}

impl Provenance {
    /// The text in the column.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::FirstUse => "first_use",
        }
    }

    /// The provenance of a column's text.
    pub(super) fn of(text: &str) -> Option<Self> {
        [Self::Operator, Self::FirstUse]
            .into_iter()
            .find(|provenance| provenance.as_str() == text)
    }
}

/// One pin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostKeyPin {
    /// Whose key it is.
    pub instance: InstanceKey,
    /// The key.
    pub key: HostKey,
    /// Where it comes from.
    pub provenance: Provenance,
    /// Who pinned it, for people; an operator's pins only, and not those that a hand wrote into the store.
    pub pinned_by: Option<String>,
    /// When, by the store's clock.
    pub pinned_at: OffsetDateTime,
}

/// Which pins to list, in the order of region and instance id.
#[derive(Clone, Debug, Default)]
pub struct HostKeyQuery {
    /// Only of this region.
    pub region: Option<String>,
    /// Only of this instance id, in whichever regions.
    pub instance_id: Option<String>,
    /// Only what comes after this one, which need not be there any more.
    pub after: Option<InstanceKey>,
    /// At most so many.
    pub limit: u32,
}

/// What became of an operator's pin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinnedByOperator {
    /// The pin that holds now.
    pub pin: HostKeyPin,
    /// The one that held until then.
    pub replaced: Option<HostKeyPin>,
}
