//! Pinned host keys as an operator sees them: the key that an instance must show, and who says so.

use adit_actors::instance::InstanceKey;
use adit_actors::tunnel::HostKey;
use serde::{Deserialize, Serialize};
use sqlx::{Database, Encode, Executor, IntoArguments, Transaction, Type};
use time::OffsetDateTime;

use super::row::{Columns, required, undecodable};

/// `$1` region, `$2` instance id.
pub(super) const SHOW: &str = "SELECT * FROM adit_host_keys WHERE region = $1 AND instance_id = $2";

/// `$1` region or NULL, `$2` instance id or NULL, `$3` and `$4` the last one of the page before or NULL, `$5` limit.
pub(super) const LIST: &str = "
    SELECT * FROM adit_host_keys
    WHERE ($1 IS NULL OR region = $1) AND ($2 IS NULL OR instance_id = $2)
      AND ($3 IS NULL OR (region, instance_id) > ($3, $4))
    ORDER BY region, instance_id LIMIT $5";

/// The time is the operator's pin's, whatever stood there.
const PIN: &str = "
    INSERT INTO adit_host_keys (region, instance_id, key_type, key_base64, provenance, pinned_by)
    VALUES ($1, $2, $3, $4, 'operator', $5)
    ON CONFLICT (region, instance_id) DO UPDATE SET
        key_type = excluded.key_type,
        key_base64 = excluded.key_base64,
        provenance = excluded.provenance,
        pinned_by = excluded.pinned_by,
        pinned_at = excluded.pinned_at
    RETURNING *";

pub(super) const PIN_FIRST_USE: &str = "
    INSERT INTO adit_host_keys (region, instance_id, key_type, key_base64, provenance)
    VALUES ($1, $2, $3, $4, 'first_use') ON CONFLICT DO NOTHING";

pub(super) const FORGET: &str =
    "DELETE FROM adit_host_keys WHERE region = $1 AND instance_id = $2 RETURNING *";

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
    fn of(text: &str) -> Option<Self> {
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

impl HostKeyPin {
    pub(super) fn of(row: &impl Columns) -> Result<Self, sqlx::Error> {
        let provenance = required("provenance", row.text("provenance"))?;
        Ok(Self {
            instance: InstanceKey {
                region: required("region", row.text("region"))?,
                instance_id: required("instance_id", row.text("instance_id"))?,
            },
            key: HostKey {
                key_type: required("key_type", row.text("key_type"))?,
                key_base64: required("key_base64", row.text("key_base64"))?,
            },
            provenance: Provenance::of(&provenance)
                .ok_or_else(|| undecodable("provenance", format!("`{provenance}` is no provenance")))?,
            pinned_by: row.text("pinned_by")?,
            pinned_at: required("pinned_at", row.time("pinned_at"))?,
        })
    }
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

/// Pins `key` and says what was pinned, in a transaction that keeps everyone else from pinning.
pub(super) async fn replace<DB>(
    transaction: &mut Transaction<'_, DB>,
    instance: &InstanceKey,
    key: &HostKey,
    pinned_by: &str,
) -> Result<PinnedByOperator, sqlx::Error>
where
    DB: Database,
    DB::Row: Columns,
    DB::Arguments: IntoArguments<DB>,
    for<'c> &'c mut DB::Connection: Executor<'c, Database = DB>,
    for<'q> &'q str: Encode<'q, DB> + Type<DB>,
{
    let replaced = sqlx::query(SHOW)
        .bind(instance.region.as_str())
        .bind(instance.instance_id.as_str())
        .fetch_optional(&mut **transaction)
        .await?;
    let pinned = sqlx::query(PIN)
        .bind(instance.region.as_str())
        .bind(instance.instance_id.as_str())
        .bind(key.key_type.as_str())
        .bind(key.key_base64.as_str())
        .bind(pinned_by)
        .fetch_one(&mut **transaction)
        .await?;
    Ok(PinnedByOperator {
        pin: HostKeyPin::of(&pinned)?,
        replaced: replaced.as_ref().map(HostKeyPin::of).transpose()?,
    })
}
