//! `adit workspace`: the workspaces of a store that no host platform fills.

use std::net::IpAddr;

use uuid::Uuid;

use super::config::Config;
use super::failure::CliError;
use super::table;
use crate::application::open_store;
use crate::settings::Settings;
use crate::store::{NewWorkspace, Workspace};

/// Add or list workspaces, in the store itself.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    Add(AddArgs),
    List(ListArgs),
}

/// Add a workspace and print its id.
///
/// A workspace names the EC2 instance that its execs run on. What is not given comes from section `aws` of the settings.
/// Without `tenant.org_id` in the settings one store serves many orgs, and a workspace must belong to one: an org is
/// named by the id of its root workspace.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  adit workspace add acme --root --tier 3 --instance i-0123456789abcdef0
  adit workspace add build --org 8c0f... --tier 3 --instance i-0fedcba9876543210 --os-user admin")]
pub(super) struct AddArgs {
    /// Name, for people.
    name: String,
    /// Privileges of the workspace: 1 sandboxed, 2 standard, 3 privileged, 4 full host. Execs need 3 or 4.
    #[arg(long, value_parser = clap::value_parser!(i32).range(1..=4))]
    tier: i32,
    /// Id of the workspace; a new one unless given.
    #[arg(long, value_name = "UUID")]
    id: Option<Uuid>,
    /// Org that it belongs to.
    #[arg(long, value_name = "UUID", conflicts_with = "root")]
    org: Option<Uuid>,
    /// Make it the root workspace of an org of its own.
    #[arg(long)]
    root: bool,
    /// EC2 instance id; without one every exec is refused. What is not said of it, EC2 is asked.
    #[arg(long, value_name = "ID")]
    instance: Option<String>,
    /// AWS region of the instance.
    #[arg(long)]
    region: Option<String>,
    /// Login name on the instance.
    #[arg(long, value_name = "NAME")]
    os_user: Option<String>,
    /// Private address of the instance.
    #[arg(long, value_name = "IP")]
    address: Option<IpAddr>,
    /// EC2 Instance Connect Endpoint that leads to the instance.
    #[arg(long, value_name = "ID", requires = "endpoint_dns_name")]
    endpoint_id: Option<String>,
    /// DNS name of that endpoint.
    #[arg(long, value_name = "NAME", requires = "endpoint_id")]
    endpoint_dns_name: Option<String>,
    #[command(flatten)]
    config: Config,
}

/// List the workspaces that are not removed, by name.
#[derive(Debug, clap::Args)]
pub(super) struct ListArgs {
    #[command(flatten)]
    config: Config,
}

pub(super) async fn run(command: Command) -> Result<(), CliError> {
    match command {
        Command::Add(args) => add(args).await,
        Command::List(args) => list(&args).await,
    }
}

async fn add(args: AddArgs) -> Result<(), CliError> {
    let settings = args.config.load()?;
    let workspace = new_workspace(args, &settings)?;
    let store = open_store(&settings).await?;
    store.add_workspace(&workspace).await?;
    store.close().await;
    println!("{}", workspace.id);
    Ok(())
}

fn new_workspace(args: AddArgs, settings: &Settings) -> Result<NewWorkspace, CliError> {
    let id = args.id.unwrap_or_else(Uuid::new_v4);
    let org_id = if args.root { Some(id) } else { args.org };
    if org_id.is_none() && settings.tenant.org_id.is_none() {
        return Err(CliError::Usage(
            "a workspace needs an org unless `tenant.org_id` is set: give `--org UUID`, or `--root` for a new org"
                .to_owned(),
        ));
    }
    Ok(NewWorkspace {
        id,
        name: args.name,
        org_id,
        tier: args.tier,
        instance_id: args.instance,
        region: args.region,
        os_user: args.os_user,
        address: args.address,
        endpoint_id: args.endpoint_id,
        endpoint_dns_name: args.endpoint_dns_name,
    })
}

async fn list(args: &ListArgs) -> Result<(), CliError> {
    let settings = args.config.load()?;
    let store = open_store(&settings).await?;
    let workspaces = store.list_workspaces().await?;
    store.close().await;
    let rows: Vec<_> = workspaces.into_iter().map(row).collect();
    table::print(
        [
            "ID", "NAME", "ORG", "TIER", "STATUS", "INSTANCE", "LOGIN", "ADDRESS",
        ],
        &rows,
    );
    Ok(())
}

fn row(workspace: Workspace) -> [String; 8] {
    let none = || "-".to_owned();
    let (instance, login, address) = match workspace.target {
        Some(target) => (
            target.instance.to_string(),
            target.os_user,
            target.address.map_or_else(none, |address| address.to_string()),
        ),
        None => (none(), none(), none()),
    };
    [
        workspace.id.to_string(),
        workspace.name,
        workspace.org_id.map_or_else(none, |id| id.to_string()),
        workspace.tier.to_string(),
        workspace.status,
        instance,
        login,
        address,
    ]
}
