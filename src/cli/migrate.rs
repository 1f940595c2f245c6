//! `adit migrate`: prepares the store.

use secrecy::ExposeSecret;

use super::config::Config;
use super::failure::CliError;
use crate::store;

/// Bring the store up to this version; create it if it is not there.
///
/// Migrations only add. Their history is in the table `adit_migrations`. Running it again changes nothing.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  adit migrate --config /etc/adit.toml
  ADIT__STORE__URL=sqlite:///var/lib/adit/adit.db adit migrate")]
pub(super) struct Args {
    #[command(flatten)]
    config: Config,
}

pub(super) async fn run(args: Args) -> Result<(), CliError> {
    let settings = args.config.load()?;
    match store::migrate(settings.store.url.expose_secret()).await? {
        0 => println!("the store is up to date"),
        1 => println!("applied 1 migration"),
        applied => println!("applied {applied} migrations"),
    }
    Ok(())
}
