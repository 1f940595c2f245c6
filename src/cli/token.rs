//! `adit token`: the tokens of a store that no host platform fills.

use std::time::Duration;

use adit_actors::clock::Clock;
use secrecy::ExposeSecret;
use time::OffsetDateTime;
use uuid::Uuid;

use super::config::Config;
use super::failure::CliError;
use super::table;
use crate::application::open_store;
use crate::settings::Settings;
use crate::store::{NewToken, StoreError, TokenRecord, TokenScope};
use crate::tokens;

/// Issue, list or revoke tokens, in the store itself.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    Issue(IssueArgs),
    List(ListArgs),
    Revoke(RevokeArgs),
}

/// Issue a token and print it.
///
/// The token goes to stdout and is shown this once: the store keeps its SHA-256 and its first 8 characters.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  adit token issue --workspace 6a1e...          opens this workspace
  adit token issue --org 8c0f... --name ci      opens every workspace of this org
  adit token issue --org --name ci              the same where `tenant.org_id` is set
  adit token issue --org --expires-in 30d       until 30 days from now")]
#[group(id = "scope", required = true, multiple = false, args = ["workspace", "org"])]
pub(super) struct IssueArgs {
    /// Workspace that it opens.
    #[arg(long, value_name = "UUID")]
    workspace: Option<Uuid>,
    /// Org whose workspaces it opens, named by its root workspace; without a value that of `tenant.org_id`.
    #[arg(long, value_name = "UUID", num_args = 0..=1)]
    org: Option<Option<Uuid>>,
    /// Name for people; for org tokens.
    #[arg(long)]
    name: Option<String>,
    /// From so long on it opens nothing any more, as in `30d`, `12h` or `1h 30m`; it never expires unless given.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    expires_in: Option<Duration>,
    #[command(flatten)]
    config: Config,
}

/// List all tokens, newest first.
#[derive(Debug, clap::Args)]
pub(super) struct ListArgs {
    #[command(flatten)]
    config: Config,
}

/// Revoke a token, from now on.
#[derive(Debug, clap::Args)]
pub(super) struct RevokeArgs {
    /// Id of the token, as `adit token list` shows it.
    id: Uuid,
    #[command(flatten)]
    config: Config,
}

pub(super) async fn run(command: Command) -> Result<(), CliError> {
    match command {
        Command::Issue(args) => issue(args).await,
        Command::List(args) => list(&args).await,
        Command::Revoke(args) => revoke(&args).await,
    }
}

async fn issue(args: IssueArgs) -> Result<(), CliError> {
    let settings = args.config.load()?;
    let scope = scope(&args, &settings)?;
    let expires_at = args
        .expires_in
        .map(|life| expiry(Clock::system().now(), life))
        .transpose()?;
    let store = open_store(&settings).await?;
    let token = tokens::generate();
    let record = NewToken {
        expires_at,
        ..tokens::record(&token, scope, args.name)
    };
    store.add_token(&record).await?;
    store.close().await;
    println!("{}", token.expose_secret());
    eprintln!("issued token {}; it is not shown again", record.id);
    Ok(())
}

/// The store compares it with its own clock.
fn expiry(now: OffsetDateTime, life: Duration) -> Result<OffsetDateTime, CliError> {
    if life.is_zero() {
        return Err(CliError::Usage(
            "`--expires-in` must be more than nothing; `adit token revoke` ends a token at once".to_owned(),
        ));
    }
    let year_is_writable = |expiry: &OffsetDateTime| expiry.year() <= 9_999;
    time::Duration::try_from(life)
        .ok()
        .and_then(|life| now.checked_add(life))
        .filter(year_is_writable)
        .ok_or_else(|| {
            CliError::Usage(
                "`--expires-in` is too long; leave it out for a token that never expires".to_owned(),
            )
        })
}

fn scope(args: &IssueArgs, settings: &Settings) -> Result<TokenScope, CliError> {
    match (args.workspace, args.org) {
        (Some(_), _) if args.name.is_some() => Err(CliError::Usage(
            "`--name` is for org tokens; the tokens of a workspace have no name".to_owned(),
        )),
        (Some(workspace_id), _) => Ok(TokenScope::Workspace(workspace_id)),
        (None, Some(Some(org_id))) => Ok(TokenScope::Org(Some(org_id))),
        // Under a tenant guard every org token opens the whole store; the org need not be a row in it.
        (None, _) if settings.tenant.org_id.is_some() => Ok(TokenScope::Org(None)),
        (None, _) => Err(CliError::Usage(
            "`--org` needs a value unless `tenant.org_id` is set".to_owned(),
        )),
    }
}

async fn list(args: &ListArgs) -> Result<(), CliError> {
    let settings = args.config.load()?;
    let store = open_store(&settings).await?;
    let tokens = store.list_tokens().await?;
    store.close().await;
    let rows: Vec<_> = tokens.into_iter().map(row).collect();
    table::print(
        [
            "ID",
            "PREFIX",
            "OPENS",
            "NAME",
            "ISSUED",
            "LAST USED",
            "EXPIRES",
            "REVOKED",
        ],
        &rows,
    );
    Ok(())
}

fn row(token: TokenRecord) -> [String; 8] {
    let or_none = |time: Option<OffsetDateTime>| time.map_or_else(|| "-".to_owned(), table::time);
    let opens = match token.scope {
        TokenScope::Workspace(id) => format!("workspace {id}"),
        TokenScope::Org(Some(id)) => format!("org {id}"),
        TokenScope::Org(None) => "org of the tenant guard".to_owned(),
    };
    [
        token.id.to_string(),
        token.prefix,
        opens,
        token.name.unwrap_or_else(|| "-".to_owned()),
        table::time(token.created_at),
        or_none(token.last_used_at),
        or_none(token.expires_at),
        or_none(token.revoked_at),
    ]
}

async fn revoke(args: &RevokeArgs) -> Result<(), CliError> {
    let settings = args.config.load()?;
    let store = open_store(&settings).await?;
    let was_live = store.revoke_token(args.id).await?;
    store.close().await;
    if !was_live {
        let refusal = format!("there is no live token with the id `{}`", args.id);
        return Err(StoreError::Refused(refusal).into());
    }
    eprintln!("revoked token {}", args.id);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use time::macros::datetime;

    use super::expiry;

    #[test]
    fn a_token_expires_after_its_life_or_not_at_all() {
        let now = datetime!(2026-01-02 03:04:05 UTC);
        let day = Duration::from_secs(86_400);
        assert_eq!(expiry(now, 30 * day).unwrap(), datetime!(2026-02-01 03:04:05 UTC));
        for (life, says) in [
            (Duration::ZERO, "more than nothing"),
            (3_000_000 * day, "too long"),
            (Duration::MAX, "too long"),
        ] {
            let refusal = expiry(now, life).unwrap_err().to_string();
            assert!(refusal.contains(says), "{life:?}: {refusal}");
        }
    }
}
