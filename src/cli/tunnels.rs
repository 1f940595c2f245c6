//! `adit tunnels`: the pool as a table.

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use adit_actors::tunnel::{InstanceSnapshot, TunnelSnapshot};
use tokio::io::AsyncWriteExt as _;
use tokio::time::sleep;

use super::service_access::{self, ADIT_FAILED};
use super::table;

/// How often `--watch` asks.
const REFRESH: Duration = Duration::from_secs(2);
/// Moves to the top and clears the screen (ECMA-48, CUP and ED).
const CLEAR: &str = "\u{1b}[H\u{1b}[2J";

/// Show the tunnels that the service holds.
///
/// ADIT_URL and ADIT_ADMIN_TOKEN say where and as whom.
#[derive(Clone, Debug, clap::Args)]
pub struct TunnelsArgs {
    /// Show it again every two seconds, until interrupted
    #[arg(long)]
    watch: bool,
    /// Print JSON instead of a table; with --watch one line each time
    #[arg(long)]
    json: bool,
}

/// Runs `adit tunnels`.
pub async fn run(args: TunnelsArgs) -> ExitCode {
    let shown = tokio::select! {
        shown = show(args) => shown,
        _ = tokio::signal::ctrl_c() => Ok(()),
    };
    match shown {
        Ok(()) => ExitCode::SUCCESS,
        Err(complaint) => {
            eprintln!("adit: {complaint}");
            ExitCode::from(ADIT_FAILED)
        }
    }
}

async fn show(args: TunnelsArgs) -> Result<(), String> {
    let client = service_access::client("ADIT_ADMIN_TOKEN", service_access::variable)?;
    loop {
        let instances = client
            .tunnels()
            .await
            .map_err(|error| service_access::one_line(&error))?;
        let text = match (args.json, args.watch) {
            (true, false) => serde_json::to_string_pretty(&instances).map_err(|error| error.to_string())?,
            (true, true) => serde_json::to_string(&instances).map_err(|error| error.to_string())?,
            (false, false) => overview(&instances),
            (false, true) => format!("{CLEAR}{}", overview(&instances)),
        };
        match print(&text).await {
            Ok(()) => {}
            // Whoever read has seen enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            Err(error) => return Err(format!("output can't be written: {error}")),
        }
        if !args.watch {
            return Ok(());
        }
        sleep(REFRESH).await;
    }
}

async fn print(text: &str) -> io::Result<()> {
    let mut stdout = tokio::io::stdout();
    stdout.write_all(text.trim_end().as_bytes()).await?;
    stdout.write_all(b"\n").await?;
    stdout.flush().await
}

const HEADINGS: [&str; 13] = [
    "INSTANCE",
    "REGION",
    "LOGIN",
    "GEN",
    "TUNNEL",
    "STATE",
    "EXECS",
    "CHANNELS",
    "WAITING",
    "GRANT",
    "AGE",
    "LIFE",
    "LAST ERROR",
];

/// One row a tunnel; an instance without one has a row of its own.
fn overview(instances: &[InstanceSnapshot]) -> String {
    let mut rows = Vec::new();
    for instance in instances {
        if instance.tunnels.is_empty() {
            rows.push(row(instance, None));
        }
        rows.extend(instance.tunnels.iter().map(|tunnel| row(instance, Some(tunnel))));
    }
    let mut text = table::render(HEADINGS, &rows);
    if rows.is_empty() {
        text.push_str("(no tunnels)\n");
    }
    text
}

fn row(instance: &InstanceSnapshot, tunnel: Option<&TunnelSnapshot>) -> [String; HEADINGS.len()] {
    let of = |text: fn(&TunnelSnapshot) -> String| tunnel.map_or_else(none, text);
    [
        instance.instance_id.clone(),
        instance.region.clone(),
        instance.os_user.clone(),
        instance.generation.to_string(),
        of(|tunnel| tunnel.tunnel_id.to_string()),
        of(|tunnel| tunnel.state.clone()),
        of(|tunnel| tunnel.refcount.to_string()),
        of(|tunnel| format!("{}/{}", tunnel.channels_in_use, tunnel.channel_cap)),
        instance.waiters.to_string(),
        instance
            .grant
            .as_ref()
            .map_or_else(none, |grant| match grant.remaining_s {
                Some(remaining) => format!("{} ({})", grant.state, seconds(remaining)),
                None => grant.state.clone(),
            }),
        of(|tunnel| seconds(tunnel.age_s)),
        of(|tunnel| tunnel.remaining_life_s.map_or_else(none, seconds)),
        instance
            .last_error
            .as_ref()
            .map_or_else(none, |error| format!("{} at {}", error.code.as_str(), error.at)),
    ]
}

fn none() -> String {
    "-".to_owned()
}

fn seconds(seconds: f64) -> String {
    format!("{seconds:.0}s")
}

#[cfg(test)]
mod tests {
    use adit_actors::tunnel::InstanceSnapshot;
    use serde_json::json;

    use super::overview;

    #[test]
    fn one_row_a_tunnel_and_one_for_an_instance_without() {
        let tunnel = json!({
            "tunnel_id": 1, "state": "ready", "refcount": 2, "channels_in_use": 4, "channel_cap": 10, "age_s": 12.4,
            "purpose": "first", "endpoint_id": null, "replaced_in_s": null,
            "remaining_life_s": 3_587.6, "idle_s": null, "bytes_in": 1, "bytes_out": 2,
            "open_tunnel_request_id": null, "key_push_request_id": null,
        });
        let instance = |id: &str, tunnels: serde_json::Value, last_error: serde_json::Value| {
            json!({
                "region": "us-east-2", "instance_id": id, "os_user": "ubuntu", "generation": 1, "waiters": 0,
                "tunnels": tunnels, "grant": { "state": "live", "age_s": 3.0, "remaining_s": 42.0, "request_id": null },
                "longest_wait_s": null, "waiting_for": null, "failures": 0, "retry_in_s": null, "last_error": last_error,
            })
        };
        let error = json!({ "code": "grant_denied", "message": "m", "at": "2026-01-02T03:04:05Z" });
        let instances: Vec<InstanceSnapshot> = serde_json::from_value(json!([
            instance("i-1", json!([tunnel.clone(), tunnel]), json!(null)),
            instance("i-2", json!([]), error),
        ]))
        .unwrap();
        let text = overview(&instances);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 4);
        assert_eq!(
            lines[1].split_whitespace().collect::<Vec<_>>(),
            [
                "i-1",
                "us-east-2",
                "ubuntu",
                "1",
                "1",
                "ready",
                "2",
                "4/10",
                "0",
                "live",
                "(42s)",
                "12s",
                "3588s",
                "-"
            ]
        );
        assert!(lines[3].contains("grant_denied at 2026-01-02"), "{}", lines[3]);
        let column = lines[0].find("STATE").unwrap();
        assert_eq!(lines[1].find("ready"), Some(column));
    }
}
