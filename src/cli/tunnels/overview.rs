//! The pool as text for people: a row a tunnel, a row an endpoint, and below each what is not always so.
//!
//! Wide enough for 140 columns with the longest region and state: what is rarely set has a line of its own and no column.

use std::fmt::Write as _;

use adit_actors::tunnel::{EndpointSnapshot, GrantSnapshot, InstanceSnapshot, TunnelSnapshot};

use crate::cli::table;
use crate::http::admin_wire::TunnelListing;

const TUNNELS: [&str; 12] = [
    "INSTANCE", "REGION", "LOGIN", "TUNNEL", "STATE", "ENDPOINT", "EXECS", "CHANNELS", "IDLE", "AGE", "LIFE",
    "NEXT",
];

const ENDPOINTS: [&str; 7] = [
    "ENDPOINT",
    "REGION",
    "LIMIT",
    "CONFIGURED",
    "FOR SUCCESSORS",
    "IN USE",
    "WAITING",
];

/// Both tables; the second only where endpoints are used.
pub(super) fn overview(listing: &TunnelListing) -> String {
    let mut text = tunnels(&listing.data);
    if !listing.endpoints.is_empty() {
        text.push('\n');
        text.push_str(&endpoints(&listing.endpoints));
    }
    text
}

/// One row a tunnel; an instance without one has a row of its own.
fn tunnels(instances: &[InstanceSnapshot]) -> String {
    let blocks = instances.iter().map(|instance| {
        let rows = match instance.tunnels.as_slice() {
            [] => vec![tunnel_row(instance, None)],
            tunnels => tunnels
                .iter()
                .map(|tunnel| tunnel_row(instance, Some(tunnel)))
                .collect(),
        };
        (rows, instance_notes(instance))
    });
    let mut text = with_notes(TUNNELS, blocks.collect());
    if instances.is_empty() {
        text.push_str("(no tunnels)\n");
    }
    text
}

fn endpoints(endpoints: &[EndpointSnapshot]) -> String {
    let blocks = endpoints
        .iter()
        .map(|endpoint| (vec![endpoint_row(endpoint)], endpoint_notes(endpoint)));
    with_notes(ENDPOINTS, blocks.collect())
}

/// Rows that share a table's columns, and the lines that belong below them.
type Block<const COLUMNS: usize> = (Vec<[String; COLUMNS]>, Vec<String>);

fn with_notes<const COLUMNS: usize>(header: [&str; COLUMNS], blocks: Vec<Block<COLUMNS>>) -> String {
    let mut rows = Vec::new();
    let mut notes = Vec::new();
    for (block, below) in blocks {
        rows.extend(block);
        notes.push((rows.len(), below));
    }
    let table = table::render(header, &rows);
    let mut lines = table.lines();
    let mut text = String::new();
    let mut place = 0;
    for line in lines.by_ref().take(1) {
        push_line(&mut text, "", line);
    }
    for (end, below) in notes {
        for line in lines.by_ref().take(end - place) {
            push_line(&mut text, "", line);
        }
        place = end;
        for note in below {
            push_line(&mut text, "    ", &note);
        }
    }
    text
}

/// A cause may hold what AWS or a peer has sent: nothing of that may steer a terminal.
fn push_line(text: &mut String, indent: &str, line: &str) {
    text.push_str(indent);
    text.extend(line.chars().map(|letter| match letter {
        letter if letter.is_control() => '\u{fffd}',
        letter => letter,
    }));
    text.push('\n');
}

// === Tunnels ===

fn tunnel_row(instance: &InstanceSnapshot, tunnel: Option<&TunnelSnapshot>) -> [String; TUNNELS.len()] {
    let of = |text: fn(&TunnelSnapshot) -> String| tunnel.map_or_else(none, text);
    [
        instance.instance_id.clone(),
        instance.region.clone(),
        instance.os_user.clone(),
        of(|tunnel| format!("{} {}", tunnel.tunnel_id, tunnel.purpose)),
        of(|tunnel| tunnel.state.clone()),
        of(|tunnel| tunnel.endpoint_id.clone().unwrap_or_else(none)),
        of(|tunnel| tunnel.refcount.to_string()),
        of(|tunnel| format!("{}/{}", tunnel.channels_in_use, tunnel.channel_cap)),
        of(|tunnel| tunnel.idle_s.map_or_else(none, brief)),
        of(|tunnel| brief(tunnel.age_s)),
        of(|tunnel| tunnel.remaining_life_s.map_or_else(none, brief)),
        of(|tunnel| tunnel.replaced_in_s.map_or_else(none, brief)),
    ]
}

fn instance_notes(instance: &InstanceSnapshot) -> Vec<String> {
    let mut notes = Vec::new();
    let without = instance.tunnels.iter().filter(|tunnel| tunnel.warden == "none");
    notes.extend(without.map(|tunnel| {
        format!(
            "tunnel {} has no warden: what execs leave behind is not found",
            tunnel.tunnel_id
        )
    }));
    if instance.waiters > 0 {
        notes.push(waiting(instance));
    }
    if let Some(grant) = &instance.grant {
        notes.push(grant_note(grant));
    }
    if instance.failures > 0 || instance.retry_in_s.is_some() {
        notes.push(failing(instance));
    }
    // One that is over concerns nobody while the instance can be reached; the JSON keeps it.
    if let Some(error) = instance.last_error.as_ref().filter(|_| !is_well(instance)) {
        notes.push(format!(
            "last error {}: {}: {}",
            table::time(error.at),
            error.code.as_str(),
            error.message
        ));
    }
    if instance.generation > 1 {
        notes.push(format!(
            "its supervisor failed and was replaced: generation {}",
            instance.generation
        ));
    }
    notes
}

fn is_well(instance: &InstanceSnapshot) -> bool {
    instance.failures == 0 && instance.tunnels.iter().any(|tunnel| tunnel.state == "ready")
}

fn waiting(instance: &InstanceSnapshot) -> String {
    let mut note = format!("{} waiting", instance.waiters);
    // Writing to a String can't fail.
    if let Some(what) = &instance.waiting_for {
        write!(note, " for {what}").ok();
    }
    if let Some(longest) = instance.longest_wait_s {
        write!(note, ", the longest for {}", brief(longest)).ok();
    }
    note
}

fn grant_note(grant: &GrantSnapshot) -> String {
    match grant.remaining_s {
        Some(remaining) => format!("key grant {}, good for {}", grant.state, brief(remaining)),
        None => format!("key grant {}", grant.state),
    }
}

fn failing(instance: &InstanceSnapshot) -> String {
    let next = match instance.retry_in_s {
        Some(retry) => format!("next try in {}", brief(retry)),
        None => "next try when one asks".to_owned(),
    };
    match instance.failures {
        0 => next,
        1 => format!("1 failure, {next}"),
        failures => format!("{failures} failures in a row, {next}"),
    }
}

// === Endpoints ===

fn endpoint_row(endpoint: &EndpointSnapshot) -> [String; ENDPOINTS.len()] {
    [
        endpoint.endpoint_id.clone(),
        endpoint.region.clone(),
        endpoint.limit.to_string(),
        endpoint.configured_limit.to_string(),
        endpoint.reserved_for_successors.to_string(),
        endpoint.in_use.to_string(),
        endpoint.waiting.len().to_string(),
    ]
}

fn endpoint_notes(endpoint: &EndpointSnapshot) -> Vec<String> {
    let mut notes = Vec::new();
    if let Some(retry) = endpoint.retry_in_s {
        // With nobody waiting nothing is tried then.
        let next = if endpoint.waiting.is_empty() {
            "the limit grows by one in"
        } else {
            "next try in"
        };
        notes.push(format!("it refused a connection; {next} {}", brief(retry)));
    }
    notes.extend(endpoint.holders.iter().map(|holder| {
        let use_of_it = match holder.idle_s {
            Some(idle) => format!("idle for {}", brief(idle)),
            None => "in use".to_owned(),
        };
        format!(
            "held by {} {} tunnel {}, {use_of_it}",
            holder.instance_id, holder.os_user, holder.tunnel_id
        )
    }));
    notes.extend(endpoint.waiting.iter().map(|waiter| {
        format!(
            "wanted by {} {} for its {} tunnel, for {} so far",
            waiter.instance_id,
            waiter.os_user,
            waiter.purpose,
            brief(waiter.waiting_s)
        )
    }));
    notes
}

// === Cells ===

fn none() -> String {
    "-".to_owned()
}

/// At most four characters for what lives an hour: `8.2s`, `42s`, `59m`, `60m`.
fn brief(seconds: f64) -> String {
    match seconds {
        few if few < 9.95 => format!("{few:.1}s"),
        some if some < 99.5 => format!("{some:.0}s"),
        // Whole minutes that have passed, so that 119 s are not two minutes.
        many if many < 36_000.0 => format!("{:.0}m", (many / 60.0).floor()),
        most => format!("{:.0}h", (most / 3_600.0).floor()),
    }
}

#[cfg(test)]
#[path = "overview_tests.rs"]
mod tests;
