//! `adit dev`: the whole service in one process, with an emulator for AWS and this machine for an instance.
//!
//! Only the emulator and its credentials stand in for something: the requests, the store, the tunnels and the SSH below
//! them are those of `adit serve`.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use adit_emulator::{Credentials, Emulator, Endpoint, Instance, InstanceBackend};
use secrecy::{ExposeSecret, SecretString};
use uuid::Uuid;

use super::data_directory::{Access, DataDirectory};
use super::emulator::instance_of_the_current_user;
use super::failure::CliError;
use super::logging;
use super::signals::StopRequests;
use crate::application::{Application, Listeners, open_store};
use crate::settings::{Connect, ProxyVariables, Settings};
use crate::store::{self, Authorization, NewWorkspace, Store, TokenScope};
use crate::tokens;

/// Try Adit out: everything in one process, no AWS.
///
/// Starts the service with a SQLite store and an emulated EC2 Instance Connect, whose one instance runs commands on
/// this machine as you. Prints what to type next. Loopback only, as whoever reaches it with the token gets your
/// shell. Tokens, audit rows and the instance's host key stay in the data directory; remove it to start anew.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  adit dev
  adit dev --listen 127.0.0.1:9000 --data-dir /tmp/adit
  ADIT__LOG__FILTER=info,adit_actors=debug adit dev")]
pub(super) struct Args {
    /// Loopback address to serve on; port 0 takes a free one.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Directory to keep data in: made if it is not there, else empty or of an earlier start.
    #[arg(long, value_name = "DIR", default_value = ".adit")]
    data_dir: PathBuf,
}

/// Privileged: the least tier that may exec.
const TIER: i32 = 3;

pub(super) async fn run(args: Args) -> Result<(), CliError> {
    if !args.listen.ip().is_loopback() {
        return Err(CliError::Usage(format!(
            "`adit dev` hands out your shell and listens on loopback only, not on `{}`",
            args.listen
        )));
    }
    let mut settings = Settings::load(None, std::env::vars_os())?;
    logging::start(&settings.log)?;
    settings.http.listen = args.listen;
    settings.admin.listen = None;
    // First, so that a taken port leaves the data of the one who has it alone.
    let listeners = Listeners::bind(&settings).map_err(|source| CliError::Listen {
        address: args.listen,
        source,
    })?;
    let directory = DataDirectory::open(&args.data_dir)?;
    settings.store.url = format!("sqlite://{}", directory.database().display()).into();

    let instance = Instance {
        backend: InstanceBackend::InProcess {
            host_key: directory.host_key()?,
        },
        ..instance_of_the_current_user()
    };
    if let Some([name]) = instance.allowed_os_users.as_deref() {
        // For workspaces that are added by hand, too: the instance knows no other login.
        settings.aws.os_user.clone_from(name);
    }
    let access = prepare(&directory, &settings, &instance).await?;
    let (emulator, credentials) = start_emulator(&mut settings, instance).await?;
    settings.admin.tokens = vec![access.admin_token.clone()];

    let signals = StopRequests::listen()?;
    let application = Application::build_on(listeners, settings, Some(credentials)).await?;
    let url = application.url();
    let environment_file = directory.write_environment(&access, &url)?;
    print!("{}", next_steps(&access, &url, &args.data_dir, &environment_file));
    let result = application.run_until(signals.asked(1), signals.asked(2)).await;
    emulator.stop().await;
    Ok(result?)
}

/// Migrates the store, and makes sure that a workspace and a token for it are there: those of the last start, unless
/// they are gone.
async fn prepare(
    directory: &DataDirectory,
    settings: &Settings,
    instance: &Instance,
) -> Result<Access, CliError> {
    store::migrate(settings.store.url.expose_secret()).await?;
    let store = open_store(settings).await?;
    let access = match directory.access()? {
        Some(kept) if still_opens(store.as_ref(), &kept, instance).await? => kept,
        _ => {
            let made = make_access(store.as_ref(), instance).await?;
            directory.keep_access(&made)?;
            made
        }
    };
    store.close().await;
    Ok(access)
}

/// Whether the token opens the workspace, and that logs in as whom the instance lets in.
async fn still_opens(store: &dyn Store, kept: &Access, instance: &Instance) -> Result<bool, CliError> {
    let found = store
        .authorize(tokens::hash(&kept.token), Some(kept.workspace), None)
        .await?;
    let Authorization::Known {
        workspace: Some(workspace),
        ..
    } = found
    else {
        return Ok(false);
    };
    Ok(workspace
        .target
        .is_some_and(|target| match &instance.allowed_os_users {
            Some(allowed) => allowed.contains(&target.os_user),
            None => true,
        }))
}

async fn make_access(store: &dyn Store, instance: &Instance) -> Result<Access, CliError> {
    let workspace = Uuid::new_v4();
    store
        .add_workspace(&NewWorkspace {
            id: workspace,
            name: "dev".to_owned(),
            org_id: Some(workspace),
            tier: TIER,
            instance_id: Some(instance.id.clone()),
            region: None,
            os_user: instance
                .allowed_os_users
                .as_ref()
                .and_then(|allowed| allowed.first().cloned()),
            address: instance.private_ip_address.parse().ok(),
            endpoint_id: None,
            endpoint_dns_name: None,
        })
        .await?;
    let token = tokens::generate();
    store
        .add_token(&tokens::record(&token, TokenScope::Workspace(workspace), None))
        .await?;
    Ok(Access {
        token,
        admin_token: tokens::generate(),
        workspace,
    })
}

/// Starts the emulator with credentials that nobody else has, and turns the settings to it.
async fn start_emulator(
    settings: &mut Settings,
    instance: Instance,
) -> Result<(Emulator, aws_credential_types::Credentials), CliError> {
    let access_key_id = format!("AKIA{:016X}", rand::random::<u64>());
    let secret_access_key = tokens::generate();
    let mut emulated = adit_emulator::Settings::new(Credentials::new(
        &access_key_id,
        secret_access_key.expose_secret(),
    ));
    emulated.region.clone_from(&settings.aws.region);
    emulated.instances = vec![instance];
    let endpoint = Endpoint::default();
    let endpoint_id = endpoint.id.clone();
    emulated.endpoints = vec![endpoint];
    let emulator = Emulator::start(emulated).await?;
    // The name is signed and sent, and never resolved: the override says where to connect.
    settings.aws.endpoint_dns_name = Some(format!("{endpoint_id}.invalid"));
    settings.aws.endpoint_id = Some(endpoint_id);
    settings.aws.connect = Connect::Endpoint;
    settings.aws.ec2_endpoint_override = Some(emulator.http_url());
    settings.aws.key_push_endpoint_override = Some(emulator.http_url());
    settings.aws.tunnel_endpoint_override = Some(emulator.tunnel_url());
    // All of it is in this process: no proxy could reach it.
    settings.proxies = ProxyVariables::default();
    Ok((emulator, credentials(access_key_id, &secret_access_key)))
}

fn credentials(access_key_id: String, secret: &SecretString) -> aws_credential_types::Credentials {
    aws_credential_types::Credentials::new(access_key_id, secret.expose_secret(), None, None, "adit dev")
}

fn next_steps(access: &Access, url: &str, data_dir: &Path, environment_file: &Path) -> String {
    let Access { token, workspace, .. } = access;
    let adit = std::env::current_exe().map_or_else(|_| "adit".to_owned(), |path| shell_word(&shorten(&path)));
    let environment_file = shell_word(&shorten(environment_file));
    let mut text = format!("\nAdit is at {url}. Its one instance is this machine: commands run as you.\n");
    // Writing to a String can't fail.
    write!(
        text,
        "Data is in {}. Ctrl-C stops.

Run a command (in another terminal):

  curl -sSN {url}/workspaces/{workspace}/exec -H 'Authorization: Bearer {}' \
-H 'Content-Type: application/json' -d '{{\"cmd\":[\"uname\",\"-a\"]}}'

The same with `adit exec`, and the tunnels that carry it:

  set -a; . {environment_file}; set +a
  {adit} exec \"$ADIT_WORKSPACE\" -- sh -c 'echo out; echo err >&2; exit 7'
  {adit} tunnels

",
        data_dir.display(),
        token.expose_secret(),
    )
    .ok();
    text
}

/// A path below the working directory is shown relative to it, with the `./` that `.` needs to find a file.
fn shorten(path: &Path) -> PathBuf {
    let current = std::env::current_dir().and_then(|directory| directory.canonicalize());
    match current
        .as_deref()
        .ok()
        .and_then(|current| path.strip_prefix(current).ok())
    {
        Some(below) => Path::new(".").join(below),
        None => path.to_owned(),
    }
}

/// A path as one word of a POSIX shell.
fn shell_word(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = |character: char| character.is_ascii_alphanumeric() || "/._-+".contains(character);
    if text.chars().all(is_plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::shell_word;

    #[test]
    fn paths_are_one_shell_word() {
        for (path, word) in [
            ("./target/debug/adit", "./target/debug/adit"),
            ("/a b/c", "'/a b/c'"),
            ("/it's", r"'/it'\''s'"),
        ] {
            assert_eq!(shell_word(Path::new(path)), word);
        }
    }
}
