//! `adit hostkey`: which key each instance must show.

mod key_text;

use std::process::ExitCode;

use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::service_access::{self, ADIT_FAILED};
use super::{standard_output, table};
use crate::client::{ApiClient, ClientError};
use crate::http::admin_wire::HostKeyPin;
use crate::store::Provenance;
use key_text::KeyText;

pub(super) use key_text::is_private_key;

/// What `ssh-keyscan` prints of a few hosts is some kilobytes; whatever is larger is another file.
const MAX_FILE: u64 = 1_048_576;

/// Show, pin or forget the SSH host keys of instances.
///
/// Adit pins the key that an instance shows at its first login, and refuses any other from then on. ADIT_URL and
/// ADIT_ADMIN_TOKEN say where and as whom.
#[derive(Clone, Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  adit hostkey show
  adit hostkey show i-0123456789abcdef0 --region us-west-2
  ssh-keyscan -t ed25519 10.0.4.7 | adit hostkey pin i-0123456789abcdef0 -
  adit hostkey forget i-0123456789abcdef0      after a rebuild: the next login pins anew")]
pub struct HostkeyArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum Command {
    Show(ShowArgs),
    Pin(PinArgs),
    Forget(ForgetArgs),
}

/// Show one instance's pin, or all of them.
#[derive(Clone, Debug, clap::Args)]
struct ShowArgs {
    /// Id of the EC2 instance [default: all]
    instance: Option<String>,
    /// AWS region [default: the service's for one instance, else every region]
    #[arg(long)]
    region: Option<String>,
    /// Print JSON, with the whole keys
    #[arg(long)]
    json: bool,
}

/// Pin a host key, whatever is pinned there, and say what it replaced.
///
/// Tunnels that were checked against another key take no new exec.
#[derive(Clone, Debug, clap::Args)]
struct PinArgs {
    /// Id of the EC2 instance
    instance: String,
    /// A public key or known_hosts line; or @FILE, or - for standard input, with what ssh-keyscan prints: of several types
    /// the first of ed25519, ecdsa and rsa is pinned
    // What begins with a hyphen is a private key that was taken for the public one: as an option, clap would print it.
    #[arg(value_name = "KEY", allow_hyphen_values = true)]
    key: String,
    /// The other words of a line without quotes
    // Apart from the first word, so that options may stand behind them.
    #[arg(value_name = "WORD", hide = true)]
    words: Vec<String>,
    /// AWS region [default: the service's]
    #[arg(long)]
    region: Option<String>,
}

/// Forget a host key: the next login pins whatever it is shown.
#[derive(Clone, Debug, clap::Args)]
struct ForgetArgs {
    /// Id of the EC2 instance
    instance: String,
    /// AWS region [default: the service's]
    #[arg(long)]
    region: Option<String>,
}

/// Runs `adit hostkey`.
pub async fn run(args: HostkeyArgs) -> ExitCode {
    let printed = match act(args.command).await {
        Ok(text) => standard_output::print(&text).await,
        Err(complaint) => Err(complaint),
    };
    match printed {
        Ok(_) => ExitCode::SUCCESS,
        Err(complaint) => {
            eprintln!("adit: {complaint}");
            ExitCode::from(ADIT_FAILED)
        }
    }
}

async fn act(command: Command) -> Result<String, String> {
    let client = service_access::client("ADIT_ADMIN_TOKEN", service_access::variable)?;
    match command {
        Command::Show(args) => show(&client, &args).await,
        Command::Pin(args) => {
            let words: Vec<String> = [args.key].into_iter().chain(args.words).collect();
            let key = key_text::key_of(&text_of(KeyText::of(&words)).await?)?;
            let answer = client
                .pin_host_key(&args.instance, args.region.as_deref(), key)
                .await
                .map_err(one_line)?;
            let mut text = told("pinned", &answer.pinned);
            if let Some(replaced) = &answer.replaced {
                text.push_str(&told("replaced", replaced));
            }
            Ok(text)
        }
        Command::Forget(args) => client
            .forget_host_key(&args.instance, args.region.as_deref())
            .await
            .map(|answer| told("forgot", &answer.forgotten))
            .map_err(one_line),
    }
}

async fn show(client: &ApiClient, args: &ShowArgs) -> Result<String, String> {
    let region = args.region.as_deref();
    let (pins, json) = match &args.instance {
        Some(instance) => {
            let pin = client.host_key(instance, region).await.map_err(one_line)?;
            (vec![pin.clone()], serde_json::to_string_pretty(&pin))
        }
        None => {
            let pins = client.host_keys(region).await.map_err(one_line)?;
            let json = serde_json::to_string_pretty(&pins);
            (pins, json)
        }
    };
    if args.json {
        return json.map_err(|error| error.to_string());
    }
    Ok(overview(&pins))
}

fn one_line(error: ClientError) -> String {
    service_access::one_line(&error)
}

const HEADINGS: [&str; 7] = [
    "INSTANCE",
    "REGION",
    "TYPE",
    "FINGERPRINT",
    "PROVENANCE",
    "PINNED AT",
    "BY",
];

fn overview(pins: &[HostKeyPin]) -> String {
    let rows: Vec<_> = pins.iter().map(row).collect();
    let mut text = table::render(HEADINGS, &rows);
    if rows.is_empty() {
        text.push_str("(no host keys)\n");
    }
    text
}

fn row(pin: &HostKeyPin) -> [String; HEADINGS.len()] {
    [
        pin.instance_id.clone(),
        pin.region.clone(),
        pin.key_type.clone(),
        fingerprint(pin),
        provenance(pin).to_owned(),
        table::time(pin.pinned_at),
        pin.pinned_by.clone().unwrap_or_else(|| "-".to_owned()),
    ]
}

/// One line about a pin that was changed.
fn told(done: &str, pin: &HostKeyPin) -> String {
    let author = match &pin.pinned_by {
        Some(author) => format!(" by {author}"),
        None => String::new(),
    };
    format!(
        "{done} {}/{} {} {} ({}{author}, {})\n",
        pin.region,
        pin.instance_id,
        pin.key_type,
        fingerprint(pin),
        provenance(pin),
        table::time(pin.pinned_at),
    )
}

fn fingerprint(pin: &HostKeyPin) -> String {
    pin.fingerprint
        .clone()
        .unwrap_or_else(|| "(not a key)".to_owned())
}

fn provenance(pin: &HostKeyPin) -> &'static str {
    match pin.provenance {
        Provenance::Operator => "operator",
        Provenance::FirstUse => "first use",
    }
}

async fn text_of(text: KeyText) -> Result<String, String> {
    match text {
        KeyText::Line(line) => Ok(line),
        KeyText::Stdin => read("standard input", tokio::io::stdin()).await,
        KeyText::File(path) => {
            let name = format!("`{}`", path.display());
            let file = tokio::fs::File::open(&path)
                .await
                .map_err(|error| format!("can't read {name}: {error}"))?;
            read(&name, file).await
        }
    }
}

async fn read(name: &str, from: impl AsyncRead + Unpin) -> Result<String, String> {
    let mut text = String::new();
    let length = from
        .take(MAX_FILE + 1)
        .read_to_string(&mut text)
        .await
        .map_err(|error| format!("can't read {name}: {error}"))?;
    if u64::try_from(length).is_ok_and(|length| length > MAX_FILE) {
        return Err(format!("{name} is too large for a host key"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{overview, told};
    use crate::http::admin_wire::HostKeyPin;

    #[test]
    fn pins_are_shown_with_what_a_person_compares() {
        let pin = |changes: serde_json::Value| -> HostKeyPin {
            let mut pin = json!({
                "region": "us-east-2", "instance_id": "i-0123456789abcdef0", "key_type": "ssh-ed25519",
                "key": "ssh-ed25519 AAAA", "fingerprint": "SHA256:abc", "provenance": "first_use", "pinned_by": null,
                "pinned_at": "2026-01-02T03:04:05Z",
            });
            pin.as_object_mut()
                .unwrap()
                .extend(changes.as_object().unwrap().clone());
            serde_json::from_value(pin).unwrap()
        };
        let by_operator = pin(json!({ "provenance": "operator", "pinned_by": "me" }));
        assert_eq!(
            overview(&[pin(json!({})), by_operator.clone()]),
            "INSTANCE             REGION     TYPE         FINGERPRINT  PROVENANCE  PINNED AT             BY\n\
             i-0123456789abcdef0  us-east-2  ssh-ed25519  SHA256:abc   first use   2026-01-02T03:04:05Z  -\n\
             i-0123456789abcdef0  us-east-2  ssh-ed25519  SHA256:abc   operator    2026-01-02T03:04:05Z  me\n"
        );
        assert!(overview(&[]).ends_with("(no host keys)\n"));
        assert_eq!(
            told("pinned", &by_operator),
            "pinned us-east-2/i-0123456789abcdef0 ssh-ed25519 SHA256:abc (operator by me, 2026-01-02T03:04:05Z)\n"
        );
        let broken = pin(json!({ "fingerprint": null }));
        assert!(told("forgot", &broken).contains("(not a key) (first use, "));
    }
}
