//! `adit token`: the tokens of a store that no host platform fills.

use secrecy::ExposeSecret;
use uuid::Uuid;

use super::config::Config;
use super::failure::CliError;
use super::table;
use crate::application::target_defaults;
use crate::settings::Settings;
use crate::store::{self, StoreError, TokenRecord, TokenScope};
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
  adit token issue --org --name ci              the same where `tenant.org_id` is set")]
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
    let store = store::connect(settings.store.url.expose_secret(), target_defaults(&settings)).await?;
    let token = tokens::generate();
    let record = tokens::record(&token, scope, args.name);
    store.add_token(&record).await?;
    store.close().await;
    println!("{}", token.expose_secret());
    eprintln!("issued token {}; it is not shown again", record.id);
    Ok(())
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
    let store = store::connect(settings.store.url.expose_secret(), target_defaults(&settings)).await?;
    let tokens = store.list_tokens().await?;
    store.close().await;
    let rows: Vec<_> = tokens.into_iter().map(row).collect();
    table::print(["ID", "PREFIX", "OPENS", "NAME", "ISSUED", "REVOKED"], &rows);
    Ok(())
}

fn row(token: TokenRecord) -> [String; 6] {
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
        token.revoked_at.map_or_else(|| "-".to_owned(), table::time),
    ]
}

async fn revoke(args: &RevokeArgs) -> Result<(), CliError> {
    let settings = args.config.load()?;
    let store = store::connect(settings.store.url.expose_secret(), target_defaults(&settings)).await?;
    let was_live = store.revoke_token(args.id).await?;
    store.close().await;
    if !was_live {
        let refusal = format!("there is no live token with the id `{}`", args.id);
        return Err(StoreError::Refused(refusal).into());
    }
    eprintln!("revoked token {}", args.id);
    Ok(())
}
