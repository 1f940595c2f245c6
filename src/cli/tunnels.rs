//! `adit tunnels`: the pool as a table, and its drain and eviction.

mod overview;

use std::process::ExitCode;
use std::time::Duration;

use tokio::time::sleep;

use super::service_access::{self, ADIT_FAILED};
use super::standard_output;
use crate::client::ApiClient;
use crate::http::admin_wire::TunnelListing;
use overview::overview;

/// How often `--watch` asks.
const REFRESH: Duration = Duration::from_secs(2);
/// Moves to the top and clears the screen (ECMA-48, CUP and ED).
const CLEAR: &str = "\u{1b}[H\u{1b}[2J";

/// Show the tunnels that the service holds and how endpoints' connections are shared out; drain or evict an instance's.
///
/// ADIT_URL and ADIT_ADMIN_TOKEN say where and as whom.
#[derive(Clone, Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_long_help = "\
Columns:
  TUNNEL    its number, and why it was dialled: first, second (all channels of the first were taken) or successor
  EXECS     execs that hold one of its channels
  CHANNELS  channels open of those that Adit opens at most; it learns the instance's MaxSessions
  IDLE      time without an exec; AGE since it was asked for; LIFE until the endpoint ends it
  NEXT      time until its successor is dialled, should it be in use then
Below an instance stands what is not always so: who waits and for what, the key grant, failures and the next try.

Examples:
  adit tunnels --watch
  adit tunnels drain i-0123456789abcdef0
  adit tunnels evict i-0123456789abcdef0"
)]
pub struct TunnelsArgs {
    #[command(subcommand)]
    change: Option<Change>,
    /// Show it again every two seconds, until interrupted
    #[arg(long)]
    watch: bool,
    /// Print JSON instead of tables; with --watch one line each time
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum Change {
    /// Let no new exec onto an instance's present tunnels: each closes with its last exec, and later execs get a new one
    Drain(ChangeArgs),
    /// The same, and cancel the execs that run or wait there
    Evict(ChangeArgs),
}

#[derive(Clone, Debug, clap::Args)]
struct ChangeArgs {
    /// Id of the EC2 instance
    instance: String,
    /// AWS region [default: every region]
    #[arg(long)]
    region: Option<String>,
    /// Print how its tunnels stand then as JSON
    #[arg(long)]
    json: bool,
}

/// Runs `adit tunnels`.
pub async fn run(args: TunnelsArgs) -> ExitCode {
    let shown = tokio::select! {
        shown = act(args) => shown,
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

async fn act(args: TunnelsArgs) -> Result<(), String> {
    let client = service_access::client("ADIT_ADMIN_TOKEN", service_access::variable)?;
    let (changed, json) = match args.change {
        None => return show(&client, args.watch, args.json).await,
        Some(Change::Drain(args)) => {
            let region = args.region.as_deref();
            (client.drain_tunnels(&args.instance, region).await, args.json)
        }
        Some(Change::Evict(args)) => {
            let region = args.region.as_deref();
            (client.evict_tunnels(&args.instance, region).await, args.json)
        }
    };
    let listing = changed.map_err(|error| service_access::one_line(&error))?;
    standard_output::print(&rendered(&listing, json, false)?)
        .await
        .map(drop)
}

async fn show(client: &ApiClient, watch: bool, json: bool) -> Result<(), String> {
    loop {
        let listing = client
            .tunnels()
            .await
            .map_err(|error| service_access::one_line(&error))?;
        if !standard_output::print(&rendered(&listing, json, watch)?).await? || !watch {
            return Ok(());
        }
        sleep(REFRESH).await;
    }
}

fn rendered(listing: &TunnelListing, json: bool, watch: bool) -> Result<String, String> {
    let text = match (json, watch) {
        (true, false) => serde_json::to_string_pretty(listing),
        (true, true) => serde_json::to_string(listing),
        (false, false) => Ok(overview(listing)),
        (false, true) => Ok(format!("{CLEAR}{}", overview(listing))),
    };
    text.map_err(|error| error.to_string())
}
