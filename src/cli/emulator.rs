//! `adit emulator`: the stand-in for AWS and an instance, alone.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use adit_emulator::{Credentials, Emulator, Endpoint, Instance, InstanceBackend, Settings, TlsIdentity};

use super::emulator_faults::FaultArgs;
use super::failure::CliError;
use super::host_key_file;
use super::logging;
use super::signals::StopRequests;
use crate::settings::Log;

/// Of the instances that are given by flag, counted up from here.
const FIRST_PRIVATE_ADDRESS: u32 = Ipv4Addr::new(10, 0, 0, 10).to_bits();

/// Run the emulator of EC2 Instance Connect alone.
///
/// It accepts requests signed with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN, if set), which
/// must be in its environment. Without --instance it has one instance, i-0123456789abcdef0, that runs commands on
/// this machine as you, and lets in only your own login name. With --instance it leads to sshds that run elsewhere and read
/// `AuthorizedKeysFile DIR/%u`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  adit emulator --listen 127.0.0.1:4566
  adit emulator --instance i-0fedcba9876543210=127.0.0.1:2222 --authorized-keys-dir /run/keys
  adit emulator --rtt 50 --grant-latency 3000 --throttle-grants 2
  adit emulator --cut-tunnels 1 --cut-at output:4096
  adit emulator --host-key other_host_key      a changed host key, where it ran with another file before
  aws ec2-instance-connect send-ssh-public-key --endpoint-url http://127.0.0.1:4566 \\
      --instance-id i-0123456789abcdef0 --instance-os-user \"$(id -un)\" --ssh-public-key file://key.pub")]
pub(super) struct Args {
    #[command(flatten)]
    listener: Listener,
    #[command(flatten)]
    instances: Instances,
    #[command(flatten)]
    limits: Limits,
    #[command(flatten)]
    faults: FaultArgs,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Listener")]
struct Listener {
    /// Loopback address to listen on.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:4566")]
    listen: SocketAddr,
    /// AWS region that signatures must name.
    #[arg(long, value_name = "NAME", default_value = "us-east-2")]
    region: String,
    /// Certificate chain (PEM): speak https and wss instead of http and ws.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Its private key (PEM, not encrypted).
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Instances")]
struct Instances {
    /// An instance and the sshd behind it; may be repeated.
    #[arg(long = "instance", value_name = "ID=HOST:PORT", value_parser = external, requires = "authorized_keys_dir")]
    instances: Vec<External>,
    /// Directory that pushed keys are written to, a file for each login name; it must exist.
    #[arg(long, value_name = "DIR", requires = "instances")]
    authorized_keys_dir: Option<PathBuf>,
    /// Host key of the instance without an sshd: an OpenSSH private key, not encrypted; made if it is not there. A restart
    /// with the same file keeps the key, and with another file it is a changed host key. Without this each start has a new one.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["instances", "authorized_keys_dir"])]
    host_key: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Limits")]
struct Limits {
    /// Tunnels open at once; AWS allows 20 an endpoint.
    #[arg(long, value_name = "N", default_value_t = 20)]
    max_connections: usize,
    /// Session channels per SSH connection of the instance without an sshd; OpenSSH's MaxSessions is 10.
    #[arg(long, value_name = "N", default_value_t = 10)]
    max_sessions: usize,
    /// Life of a tunnel whose URL names none, in seconds; AWS allows 3600.
    #[arg(long, value_name = "S", default_value_t = 3600, value_parser = clap::value_parser!(u64).range(1..=3600))]
    max_tunnel_duration: u64,
}

/// An instance by its id, and where its sshd is.
#[derive(Clone, Debug)]
struct External {
    id: String,
    host_and_port: String,
}

fn external(text: &str) -> Result<External, &'static str> {
    let (id, host_and_port) = text.split_once('=').ok_or("it must have the form ID=HOST:PORT")?;
    let is_id = id.strip_prefix("i-").is_some_and(|digits| {
        (8..=30).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
    });
    if !is_id {
        return Err("an instance id is `i-` and 8 to 30 hexadecimal digits");
    }
    let port = host_and_port
        .rsplit_once(':')
        .map(|(_, port)| port.parse::<u16>());
    if !matches!(port, Some(Ok(1..))) {
        return Err("it must have the form ID=HOST:PORT");
    }
    Ok(External {
        id: id.to_owned(),
        host_and_port: host_and_port.to_owned(),
    })
}

pub(super) async fn run(args: Args) -> Result<(), CliError> {
    logging::start(&Log::default())?;
    let mut settings = Settings::new(credentials()?);
    settings.listen = args.listener.listen;
    settings.tls = identity(&args.listener)?;
    settings.region = args.listener.region;
    settings.max_connections = args.limits.max_connections;
    settings.max_sessions = args.limits.max_sessions;
    settings.max_tunnel_duration = Duration::from_secs(args.limits.max_tunnel_duration);
    settings.instances = instances(args.instances).await?;
    for instance in &mut settings.instances {
        instance.faults = args.faults.faults();
    }
    let signals = StopRequests::listen()?;
    let Settings {
        instances, endpoints, ..
    } = settings.clone();
    let emulator = Emulator::start(settings).await?;
    println!("key push:    {}", emulator.http_url());
    println!("ec2:         {}", emulator.http_url());
    println!("open tunnel: {}", emulator.tunnel_url());
    for Endpoint { id, .. } in endpoints {
        println!("endpoint:    {id}");
    }
    for instance in instances {
        println!(
            "instance:    {} at {}, {}",
            instance.id,
            instance.private_ip_address,
            place(&instance.backend)
        );
    }
    signals.asked(1).await;
    emulator.stop().await;
    Ok(())
}

fn identity(listener: &Listener) -> Result<Option<TlsIdentity>, CliError> {
    let (Some(certificates), Some(private_key)) = (&listener.tls_cert, &listener.tls_key) else {
        return Ok(None);
    };
    let read = |path: &PathBuf| {
        std::fs::read(path).map_err(|source| CliError::File {
            action: "read",
            path: path.clone(),
            source,
        })
    };
    TlsIdentity::from_pem(&read(certificates)?, &read(private_key)?)
        .map(Some)
        .map_err(CliError::Certificate)
}

async fn instances(args: Instances) -> Result<Vec<Instance>, CliError> {
    let Some(directory) = args.authorized_keys_dir else {
        let mut instance = instance_of_the_current_user();
        if let Some(file) = &args.host_key {
            let host_key = host_key_file::read_or_make(file)?;
            instance.backend = InstanceBackend::InProcess { host_key };
        }
        return Ok(vec![instance]);
    };
    if !directory.is_dir() {
        return Err(CliError::Usage(format!(
            "`{}` is not a directory",
            directory.display()
        )));
    }
    let mut instances = Vec::new();
    for (private_address, external) in (FIRST_PRIVATE_ADDRESS..).zip(args.instances) {
        let private_address = Ipv4Addr::from_bits(private_address);
        instances.push(instance(private_address, external, directory.clone()).await?);
    }
    Ok(instances)
}

/// The emulator's default instance for one who uses it by hand. It lets in only the login that its commands run as; any,
/// when that one has no name to log in by.
pub(super) fn instance_of_the_current_user() -> Instance {
    Instance {
        allowed_os_users: adit_emulator::current_os_user().map(|name| vec![name]),
        ..Instance::default()
    }
}

fn place(backend: &InstanceBackend) -> String {
    match backend {
        InstanceBackend::InProcess { .. } => "running commands on this machine as you".to_owned(),
        InstanceBackend::External { address, .. } => format!("which is the sshd on {address}"),
    }
}

async fn instance(
    private_address: Ipv4Addr,
    external: External,
    directory: PathBuf,
) -> Result<Instance, CliError> {
    let unknown = |detail: String| CliError::Usage(format!("`{}`: {detail}", external.host_and_port));
    let address = tokio::net::lookup_host(&external.host_and_port)
        .await
        .map_err(|error| unknown(error.to_string()))?
        .next()
        .ok_or_else(|| unknown("the name has no address".to_owned()))?;
    Ok(Instance {
        id: external.id,
        private_ip_address: private_address.to_string(),
        backend: InstanceBackend::External {
            address,
            authorized_keys_dir: directory,
        },
        ..Instance::default()
    })
}

fn credentials() -> Result<Credentials, CliError> {
    let given = |name: &str| {
        std::env::var(name)
            .ok()
            .filter(|value| !value.is_empty())
            .ok_or_else(|| {
                CliError::Usage(format!(
                    "the emulator needs credentials to accept: `{name}` is not set; any value will do"
                ))
            })
    };
    let mut credentials = Credentials::new(given("AWS_ACCESS_KEY_ID")?, given("AWS_SECRET_ACCESS_KEY")?);
    credentials.session_token = given("AWS_SESSION_TOKEN").ok();
    Ok(credentials)
}

#[cfg(test)]
mod tests {
    use adit_emulator::InstanceBackend;
    use clap::Parser;

    use super::{Args, external, instances};

    #[derive(Debug, Parser)]
    struct Flags {
        #[command(flatten)]
        args: Args,
    }

    #[tokio::test]
    async fn the_instance_shows_the_host_key_of_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let key_of = async |name: &str| {
            let file = directory.path().join(name);
            let flags = Flags::parse_from(["emulator", "--host-key", file.to_str().unwrap()]);
            let instances = instances(flags.args.instances).await.unwrap();
            match &instances[0].backend {
                InstanceBackend::InProcess { host_key } => host_key.public_openssh().unwrap(),
                InstanceBackend::External { .. } => unreachable!("no `--instance` was given"),
            }
        };
        let first = key_of("first").await;
        assert_eq!(key_of("first").await, first);
        assert_ne!(key_of("second").await, first);
        let sshd = ["--instance", "i-01234567=h:1", "--authorized-keys-dir", "."];
        let mixed = ["emulator", "--host-key", "first"].into_iter().chain(sshd);
        let refusal = Flags::try_parse_from(mixed).unwrap_err().to_string();
        assert!(refusal.contains("--host-key <FILE>' cannot be used"), "{refusal}");
    }

    #[test]
    fn instances_are_id_and_address() {
        for (text, is_allowed) in [
            ("i-0123456789abcdef0=127.0.0.1:22", true),
            ("i-01234567=localhost:2222", true),
            ("i-01234567=[::1]:2222", true),
            ("i-0123456=localhost:2222", false),
            ("j-01234567=localhost:2222", false),
            ("i-0123456g=localhost:2222", false),
            ("i-01234567=localhost", false),
            ("i-01234567=localhost:0", false),
            ("i-01234567", false),
        ] {
            assert_eq!(external(text).is_ok(), is_allowed, "{text}");
        }
    }
}
