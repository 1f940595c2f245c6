//! `adit tunnels`: the pool as a table.

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use adit_actors::tunnel::{InstanceSnapshot, TunnelSnapshot};
use tokio::io::AsyncWriteExt as _;
use tokio::time::sleep;

use super::service_access::{self, ADIT_FAILED};

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
        let instances = client.tunnels().await.map_err(|error| service_access::one_line(&error))?;
        let text = match (args.json, args.watch) {
            (true, false) => serde_json::to_string_pretty(&instances).map_err(|error| error.to_string())?,
            (true, true) => serde_json::to_string(&instances).map_err(|error| error.to_string())?,
            (false, false) => table(&instances),
            (false, true) => format!("{CLEAR}{}", table(&instances)),
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

const HEADINGS: [&str; 12] = [
    "INSTANCE", "REGION", "GEN", "TUNNEL", "STATE", "EXECS", "CHANNELS", "WAITING", "GRANT", "AGE", "LIFE",
    "LAST ERROR",
];

/// One row a tunnel; an instance without one has a row of its own.
fn table(instances: &[InstanceSnapshot]) -> String {
    let mut rows = vec![HEADINGS.map(str::to_owned)];
    for instance in instances {
        if instance.tunnels.is_empty() {
            rows.push(row(instance, None));
        }
        rows.extend(instance.tunnels.iter().map(|tunnel| row(instance, Some(tunnel))));
    }
    let mut widths = [0; HEADINGS.len()];
    for cells in &rows {
        for (width, cell) in widths.iter_mut().zip(cells) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for cells in &rows {
        let padded: Vec<String> =
            cells.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text.push_str(padded.join("  ").trim_end());
        text.push('\n');
    }
    if instances.is_empty() {
        text.push_str("(no tunnels)\n");
    }
    text
}

fn row(instance: &InstanceSnapshot, tunnel: Option<&TunnelSnapshot>) -> [String; HEADINGS.len()] {
    let of = |text: fn(&TunnelSnapshot) -> String| tunnel.map_or_else(none, text);
    [
        instance.instance_id.clone(),
        instance.region.clone(),
        instance.generation.to_string(),
        of(|tunnel| tunnel.tunnel_id.to_string()),
        of(|tunnel| tunnel.state.clone()),
        of(|tunnel| tunnel.refcount.to_string()),
        of(|tunnel| format!("{}/{}", tunnel.channels_in_use, tunnel.channel_cap)),
        instance.waiters.to_string(),
        instance.grant.as_ref().map_or_else(none, |grant| match grant.remaining_s {
            Some(remaining) => format!("{} ({})", grant.state, seconds(remaining)),
            None => grant.state.clone(),
        }),
        of(|tunnel| seconds(tunnel.age_s)),
        of(|tunnel| tunnel.remaining_life_s.map_or_else(none, seconds)),
        instance.last_error.as_ref().map_or_else(none, |error| format!("{} at {}", error.code.as_str(), error.at)),
    ]
}

fn none() -> String {
    "-".to_owned()
}

fn seconds(seconds: f64) -> String {
    format!("{seconds:.0}s")
}

