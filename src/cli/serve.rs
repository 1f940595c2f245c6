//! `adit serve`: the service.

use super::config::Config;
use super::failure::CliError;
use super::logging;
use super::signals::StopRequests;
use crate::application::Application;

/// Run the service.
///
/// The store must have been prepared by `adit migrate`. AWS credentials come from where the AWS CLI finds them:
/// environment, profile, web identity, ECS or the instance's role. SIGTERM and Ctrl-C stop it in order: no new
/// connections, running execs get `shutdown.grace_s`, and every audit row is written. A second signal ends the grace,
/// a third the process.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  adit migrate --config /etc/adit.toml && adit serve --config /etc/adit.toml
  ADIT__HTTP__LISTEN=127.0.0.1:9000 adit serve --config /etc/adit.toml")]
pub(super) struct Args {
    #[command(flatten)]
    config: Config,
}

pub(super) async fn run(args: Args) -> Result<(), CliError> {
    let settings = args.config.load()?;
    logging::start(&settings.log)?;
    let signals = StopRequests::listen()?;
    let application = Application::build(settings, None).await?;
    Ok(application.run_until(signals.asked(1), signals.asked(2)).await?)
}
