//! What the two calls find: instances and endpoints by id and filter, page by page.
//!
//! It must know nothing of signatures.

use super::parameters::{Filter, Parameters};
use super::{Refusal, xml};
use crate::settings::{Endpoint, InstanceState};
use crate::shared::{InstanceEntry, Shared};

/// Sizes of a page of `DescribeInstances` (EC2 API reference).
const INSTANCES_PAGE: (usize, usize) = (5, 1000);

/// Sizes of a page of `DescribeInstanceConnectEndpoints` (EC2 API reference).
const ENDPOINTS_PAGE: (usize, usize) = (1, 50);

pub(super) fn instances(
    parameters: &Parameters,
    shared: &Shared,
    request_id: &str,
) -> Result<String, Refusal> {
    let ids = parameters.list("InstanceId");
    if !ids.is_empty() && parameters.one("MaxResults").is_some() {
        return Err(Refusal::Combination("instancesSet"));
    }
    let known = shared
        .settings
        .instances
        .iter()
        .filter_map(|instance| shared.instance(&instance.id));
    let named = select(
        known.map(AsRef::as_ref).collect(),
        &ids,
        ("InvalidInstanceID", "i-"),
        |entry: &&InstanceEntry| &entry.instance.id,
    )?;
    let kept = filtered(named, &parameters.filters(), |entry, name| {
        let instance = &entry.instance;
        Some(match name {
            "instance-id" => instance.id.clone(),
            "instance-state-name" => state_name(entry.state()).to_owned(),
            "vpc-id" => instance.vpc_id.clone(),
            "subnet-id" => instance.subnet_id.clone(),
            "private-ip-address" => instance.private_ip_address.clone(),
            "availability-zone" => zone(instance.availability_zone.as_deref(), shared),
            _ => return None,
        })
    })?;
    let (page, next_token) = parameters.page(kept, INSTANCES_PAGE)?;
    let items = page
        .into_iter()
        .map(|entry| {
            let zone = zone(entry.instance.availability_zone.as_deref(), shared);
            xml::Reservation::new(&entry.instance, entry.state(), zone)
        })
        .collect();
    xml::instances(items, next_token, request_id).map_err(Refusal::Encode)
}

pub(super) fn endpoints(
    parameters: &Parameters,
    shared: &Shared,
    request_id: &str,
) -> Result<String, Refusal> {
    let named = select(
        shared.settings.endpoints.iter().collect(),
        &parameters.list("InstanceConnectEndpointId"),
        ("InvalidInstanceConnectEndpointId", "eice-"),
        |endpoint: &&Endpoint| &endpoint.id,
    )?;
    let kept = filtered(named, &parameters.filters(), |endpoint, name| {
        Some(match name {
            "instance-connect-endpoint-id" => endpoint.id.clone(),
            "state" => endpoint.state.clone(),
            "vpc-id" => endpoint.vpc_id.clone(),
            "subnet-id" => endpoint.subnet_id.clone(),
            "availability-zone" => zone(None, shared),
            _ => return None,
        })
    })?;
    let (page, next_token) = parameters.page(kept, ENDPOINTS_PAGE)?;
    let region = &shared.settings.region;
    let items = page
        .into_iter()
        .map(|endpoint| xml::Endpoint::new(endpoint, region, zone(None, shared)))
        .collect();
    xml::endpoints(items, next_token, request_id).map_err(Refusal::Encode)
}

/// Those that are named, in their own order; all when none is named.
fn select<T>(
    all: Vec<T>,
    ids: &[String],
    (kind, prefix): (&'static str, &str),
    id_of: impl Fn(&T) -> &String,
) -> Result<Vec<T>, Refusal> {
    for id in ids {
        let is_well_formed = id
            .strip_prefix(prefix)
            .is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
        if !is_well_formed {
            let id = id.clone();
            return Err(Refusal::Malformed { kind, id });
        }
    }
    let missing: Vec<String> = ids
        .iter()
        .filter(|id| !all.iter().any(|item| id_of(item) == *id))
        .cloned()
        .collect();
    if !missing.is_empty() {
        return Err(Refusal::NotFound { kind, ids: missing });
    }
    Ok(all
        .into_iter()
        .filter(|item| ids.is_empty() || ids.contains(id_of(item)))
        .collect())
}

/// Those that have one of the values of every filter. `value_of` knows no value for a filter that does not exist.
fn filtered<T>(
    all: Vec<T>,
    filters: &[Filter],
    value_of: impl Fn(&T, &str) -> Option<String>,
) -> Result<Vec<T>, Refusal> {
    let mut kept = Vec::new();
    'items: for item in all {
        for filter in filters {
            let value =
                value_of(&item, &filter.name).ok_or_else(|| Refusal::UnknownFilter(filter.name.clone()))?;
            if !filter.values.contains(&value) {
                continue 'items;
            }
        }
        kept.push(item);
    }
    Ok(kept)
}

fn zone(given: Option<&str>, shared: &Shared) -> String {
    given.map_or_else(|| format!("{}a", shared.settings.region), str::to_owned)
}

pub(super) fn state_name(state: InstanceState) -> &'static str {
    match state {
        InstanceState::Running => "running",
        InstanceState::Stopped => "stopped",
    }
}
