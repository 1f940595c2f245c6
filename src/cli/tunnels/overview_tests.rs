use adit_actors::tunnel::{EndpointSnapshot, InstanceSnapshot};
use serde_json::{Value, json};

use super::{brief, overview};
use crate::http::admin_wire::TunnelListing;

const WIDTH: usize = 140;

fn tunnel(changes: Value) -> Value {
    merged(
        json!({
            "tunnel_id": 1, "state": "ready", "purpose": "first", "endpoint_id": "eice-0123456789abcdef0",
            "refcount": 2, "channels_in_use": 4, "channel_cap": 10, "warden": "ready", "age_s": 12.4, "remaining_life_s": 3_587.6,
            "replaced_in_s": 2_687.6, "idle_s": null, "bytes_in": 1, "bytes_out": 2,
            "open_tunnel_request_id": null, "key_push_request_id": null,
        }),
        changes,
    )
}

fn instance(changes: Value) -> InstanceSnapshot {
    let plain = json!({
        "region": "us-east-2", "instance_id": "i-0123456789abcdef0", "os_user": "ubuntu", "generation": 1, "waiters": 0,
        "longest_wait_s": null, "waiting_for": null, "tunnels": [], "grant": null, "failures": 0, "retry_in_s": null,
        "last_error": null,
    });
    serde_json::from_value(merged(plain, changes)).unwrap()
}

fn endpoint(changes: Value) -> EndpointSnapshot {
    let plain = json!({
        "region": "us-east-2", "endpoint_id": "eice-0123456789abcdef0", "limit": 14, "configured_limit": 16,
        "reserved_for_successors": 2, "in_use": 0, "retry_in_s": null, "holders": [], "waiting": [],
    });
    serde_json::from_value(merged(plain, changes)).unwrap()
}

fn merged(mut object: Value, changes: Value) -> Value {
    let changes = changes.as_object().unwrap().clone();
    object.as_object_mut().unwrap().extend(changes);
    object
}

fn lines(data: Vec<InstanceSnapshot>, endpoints: Vec<EndpointSnapshot>) -> Vec<String> {
    overview(&TunnelListing { data, endpoints })
        .lines()
        .map(str::to_owned)
        .collect()
}

#[test]
fn one_row_a_tunnel_and_one_for_an_instance_without() {
    let second = tunnel(json!({ "tunnel_id": 2, "purpose": "second", "refcount": 0, "idle_s": 7.25 }));
    let lines = lines(
        vec![
            instance(json!({ "tunnels": [tunnel(json!({})), second] })),
            instance(json!({ "instance_id": "i-2" })),
        ],
        Vec::new(),
    );
    let words = |line: usize| lines[line].split_whitespace().collect::<Vec<_>>();
    assert_eq!(lines.len(), 4, "{lines:#?}");
    assert_eq!(
        words(1),
        [
            "i-0123456789abcdef0",
            "us-east-2",
            "ubuntu",
            "1",
            "first",
            "ready",
            "eice-0123456789abcdef0",
            "2",
            "4/10",
            "-",
            "12s",
            "59m",
            "44m"
        ]
    );
    assert_eq!(words(2)[3..6], ["2", "second", "ready"]);
    assert_eq!(words(2)[9], "7.2s");
    assert_eq!(
        words(3),
        [
            "i-2",
            "us-east-2",
            "ubuntu",
            "-",
            "-",
            "-",
            "-",
            "-",
            "-",
            "-",
            "-",
            "-"
        ]
    );
    let column = lines[0].find("STATE").unwrap();
    assert_eq!(lines[1].find("ready"), Some(column));
    assert_eq!(super::tunnels(&[]).lines().last(), Some("(no tunnels)"));
}

#[test]
fn what_is_not_always_so_stands_below_its_instance() {
    let error = json!({
        "code": "grant_denied", "message": "pushing the key failed: \u{1b}[2Jno", "at": "2026-01-02T03:04:05Z"
    });
    let lines = lines(
        vec![
            instance(json!({
                "generation": 3, "waiters": 7, "longest_wait_s": 3.21, "waiting_for": "key_grant", "failures": 4,
                "retry_in_s": 6.0, "last_error": error,
                "grant": { "state": "pushing", "age_s": null, "remaining_s": null, "request_id": null },
            })),
            instance(json!({ "instance_id": "i-3", "retry_in_s": 0.5 })),
            instance(json!({
                "instance_id": "i-2", "failures": 1,
                "grant": { "state": "live", "age_s": 3.0, "remaining_s": 42.0, "request_id": null },
            })),
        ],
        Vec::new(),
    );
    let notes: Vec<&str> = lines.iter().map(|line| line.trim_start()).collect();
    assert!(notes[1].starts_with("i-0123456789abcdef0"));
    assert_eq!(
        notes[2..7],
        [
            "7 waiting for key_grant, the longest for 3.2s",
            "key grant pushing",
            "4 failures in a row, next try in 6.0s",
            "last error 2026-01-02T03:04:05Z: grant_denied: pushing the key failed: \u{fffd}[2Jno",
            "its supervisor failed and was replaced: generation 3",
        ]
    );
    assert!(notes[7].starts_with("i-3"));
    assert_eq!(notes[8], "next try in 0.5s");
    assert!(notes[9].starts_with("i-2"));
    assert_eq!(
        notes[10..],
        [
            "key grant live, good for 42s",
            "1 failure, next try when one asks"
        ]
    );
}

#[test]
fn endpoints_have_a_table_of_their_own_with_their_holders() {
    let lines = lines(
        vec![instance(json!({}))],
        vec![endpoint(json!({
            "in_use": 2, "retry_in_s": 12.0,
            "holders": [
                { "instance_id": "i-1", "os_user": "ubuntu", "tunnel_id": 3, "idle_s": 61.0 },
                { "instance_id": "i-2", "os_user": "admin", "tunnel_id": 1, "idle_s": null },
            ],
            "waiting": [{ "instance_id": "i-3", "os_user": "ubuntu", "purpose": "first", "waiting_s": 2.0 }],
        }))],
    );
    assert_eq!(lines[2], "", "a line between the tables");
    let table: Vec<&str> = lines[3..].iter().map(|line| line.trim_start()).collect();
    assert_eq!(
        table[0],
        "ENDPOINT                REGION     LIMIT  CONFIGURED  FOR SUCCESSORS  IN USE  WAITING"
    );
    assert_eq!(
        table[1],
        "eice-0123456789abcdef0  us-east-2  14     16          2               2       1"
    );
    assert_eq!(
        table[2..],
        [
            "it refused a connection; next try in 12s",
            "held by i-1 ubuntu tunnel 3, idle for 61s",
            "held by i-2 admin tunnel 1, in use",
            "wanted by i-3 ubuntu for its first tunnel, for 2.0s so far",
        ]
    );
}

#[test]
fn an_endpoint_that_refused_is_tried_again_only_for_who_waits() {
    let waiter = json!({ "instance_id": "i-3", "os_user": "ubuntu", "purpose": "first", "waiting_s": 2.0 });
    for (retry_in_s, waiting, note) in [
        (json!(0.5), json!([]), Some("the limit grows by one in 0.5s")),
        (json!(0.5), json!([waiter]), Some("next try in 0.5s")),
        (json!(null), json!([]), None),
    ] {
        let refused = endpoint(json!({ "retry_in_s": retry_in_s, "waiting": waiting }));
        let found = super::endpoint_notes(&refused)
            .into_iter()
            .find(|note| note.contains("refused"));
        let expected = note.map(|note| format!("it refused a connection; {note}"));
        assert_eq!(found, expected);
    }
}

#[test]
fn an_error_is_shown_until_the_instance_is_well_again() {
    let error = json!({ "code": "tunnel_lost", "message": "cut", "at": "2026-01-02T03:04:05Z" });
    let ready = tunnel(json!({}));
    let dialing = tunnel(json!({ "state": "dialing" }));
    for (failures, tunnels, is_shown) in [
        (0, json!([]), true),
        (0, json!([dialing]), true),
        (0, json!([dialing, ready]), false),
        (1, json!([ready]), true),
    ] {
        let shown = instance(json!({ "failures": failures, "tunnels": tunnels, "last_error": error }));
        let notes = super::instance_notes(&shown);
        let has_error = notes.iter().any(|note| note.starts_with("last error"));
        assert_eq!(has_error, is_shown, "{notes:?}");
    }
}

#[test]
fn the_longest_names_of_aws_fit_a_screen() {
    let widest = tunnel(json!({
        "tunnel_id": 1, "purpose": "successor", "state": "authenticating", "channels_in_use": 64, "channel_cap": 64,
    }));
    let data = vec![instance(json!({
        "region": "ap-southeast-2", "os_user": "ec2-user", "tunnels": [widest]
    }))];
    for line in lines(data, vec![endpoint(json!({ "region": "ap-southeast-2" }))]) {
        assert!(line.chars().count() <= WIDTH, "{} columns: {line}", line.len());
    }
}

#[test]
fn times_are_short_and_never_promise_more_than_is_left() {
    for (seconds, text) in [
        (0.0, "0.0s"),
        (9.94, "9.9s"),
        (9.96, "10s"),
        (99.4, "99s"),
        (99.6, "1m"),
        (119.9, "1m"),
        (3_599.9, "59m"),
        (3_600.0, "60m"),
        (35_999.0, "599m"),
        (36_000.0, "10h"),
    ] {
        assert_eq!(brief(seconds), text, "{seconds}");
    }
}

#[test]
fn a_tunnel_without_a_warden_says_so() {
    let second = tunnel(json!({ "tunnel_id": 2, "warden": "none" }));
    let third = tunnel(json!({ "tunnel_id": 3, "warden": "starting" }));
    let tunnels = json!([tunnel(json!({})), second, third]);
    let lines = lines(vec![instance(json!({ "tunnels": tunnels }))], Vec::new());
    assert_eq!(
        lines[4..],
        ["    tunnel 2 has no warden: what execs leave behind is not found"]
    );
}
