//! How many execs may be in flight.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use thiserror::Error;
use uuid::Uuid;

/// No place left for another exec.
#[derive(Debug, PartialEq, Eq, Error)]
#[error("too many execs in flight for this {scope}")]
pub struct TooManyExecs {
    /// Whose limit was reached.
    pub scope: AdmissionScope,
}

/// Whose limit was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdmissionScope {
    /// The token's.
    Token,
    /// The org's.
    Org,
    /// The process's.
    Process,
}

impl fmt::Display for AdmissionScope {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Token => "token",
            Self::Org => "org",
            Self::Process => "process",
        })
    }
}

/// Limits on execs in flight.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AdmissionLimits {
    pub(crate) per_token: usize,
    pub(crate) per_org: usize,
    pub(crate) per_process: usize,
}

/// Counts execs in flight. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Admission {
    limits: AdmissionLimits,
    // A std mutex: held for two look-ups and never across an await.
    counts: Arc<Mutex<Counts>>,
}

#[derive(Debug, Default)]
struct Counts {
    process: usize,
    /// Only those above zero, so that the maps are as small as what is in flight.
    tokens: HashMap<Uuid, usize>,
    orgs: HashMap<Uuid, usize>,
}

impl Admission {
    pub(crate) fn new(limits: AdmissionLimits) -> Self {
        Self {
            limits,
            counts: Arc::default(),
        }
    }

    /// Takes a place, or says whose limit is reached.
    pub(crate) fn admit(&self, token_id: Uuid, org_id: Option<Uuid>) -> Result<Permit, TooManyExecs> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let of = |map: &HashMap<Uuid, usize>, id: &Uuid| map.get(id).copied().unwrap_or(0);
        let full = if of(&counts.tokens, &token_id) >= self.limits.per_token {
            Some(AdmissionScope::Token)
        } else if org_id.is_some_and(|org| of(&counts.orgs, &org) >= self.limits.per_org) {
            Some(AdmissionScope::Org)
        } else if counts.process >= self.limits.per_process {
            Some(AdmissionScope::Process)
        } else {
            None
        };
        if let Some(scope) = full {
            return Err(TooManyExecs { scope });
        }
        counts.process += 1;
        *counts.tokens.entry(token_id).or_default() += 1;
        if let Some(org_id) = org_id {
            *counts.orgs.entry(org_id).or_default() += 1;
        }
        let place = Place {
            token_id,
            org_id,
            counts: Arc::clone(&self.counts),
        };
        Ok(Permit {
            _place: Arc::new(place),
        })
    }
}

/// A reserved place for one exec. The exec's actor and its caller's handle share it; it is free again when both are done:
/// the row is final and the answer's body is gone.
#[derive(Clone, Debug)]
pub struct Permit {
    _place: Arc<Place>,
}

#[derive(Debug)]
struct Place {
    token_id: Uuid,
    org_id: Option<Uuid>,
    counts: Arc<Mutex<Counts>>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.process = counts.process.saturating_sub(1);
        release(&mut counts.tokens, self.token_id);
        if let Some(org_id) = self.org_id {
            release(&mut counts.orgs, org_id);
        }
    }
}

fn release(counts: &mut HashMap<Uuid, usize>, id: Uuid) {
    if let Some(count) = counts.get_mut(&id) {
        *count = count.saturating_sub(1);
        if *count == 0 {
            counts.remove(&id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_and_release() {
        let admission = Admission::new(AdmissionLimits {
            per_token: 2,
            per_org: 3,
            per_process: 4,
        });
        let [token_a, token_b, token_c] = [1, 2, 3].map(Uuid::from_u128);
        let org = Some(Uuid::from_u128(9));
        let refused = |scope| Err(TooManyExecs { scope });
        let ids = |result: Result<Permit, TooManyExecs>| result.map(drop);

        let first = admission.admit(token_a, org).unwrap();
        let copy = first.clone();
        let _second = admission.admit(token_a, org).unwrap();
        assert_eq!(ids(admission.admit(token_a, org)), refused(AdmissionScope::Token));
        let _third = admission.admit(token_b, org).unwrap();
        assert_eq!(ids(admission.admit(token_b, org)), refused(AdmissionScope::Org));
        let fourth = admission.admit(token_c, None).unwrap();
        assert_eq!(
            ids(admission.admit(token_c, None)),
            refused(AdmissionScope::Process)
        );

        drop(first);
        assert_eq!(
            ids(admission.admit(token_b, org)),
            refused(AdmissionScope::Org),
            "a copy still holds the place"
        );
        drop(copy);
        assert_eq!(ids(admission.admit(token_b, org)), Ok(()));
        drop(fourth);
        assert!(
            admission.counts.lock().unwrap().tokens.len() <= 2,
            "idle tokens are forgotten"
        );
    }
}
