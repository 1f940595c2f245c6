//! The command line, one file a command.
//!
//! Here the process's world comes in: arguments, environment, files, signals and the terminal. The rest of the library
//! gets it passed in.

mod config;
mod data_directory;
mod dev;
mod emulator;
mod emulator_faults;
pub mod exec;
mod failure;
mod host_key_file;
pub mod hostkey;
mod logging;
mod migrate;
mod serve;
mod service_access;
mod signals;
mod standard_output;
mod table;
mod token;
pub mod tunnels;
mod workspace;

use std::future::Future;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use failure::CliError;
use hostkey::is_private_key;

/// Run one command on one EC2 instance for one tenant, over EC2 Instance Connect, and audit it.
#[derive(Debug, Parser)]
#[command(
    name = "adit",
    version,
    arg_required_else_help = true,
    after_help = "Start with `adit dev`."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Dev(dev::Args),
    Serve(serve::Args),
    Migrate(migrate::Args),
    Exec(exec::ExecArgs),
    Tunnels(tunnels::TunnelsArgs),
    Hostkey(hostkey::HostkeyArgs),
    #[command(subcommand)]
    Workspace(workspace::Command),
    #[command(subcommand)]
    Token(token::Command),
    Emulator(emulator::Args),
}

/// Parses the arguments, runs the command, and says with which code the process ends: 0 done, 1 failed, 2 wrong
/// arguments. `exec` has the remote program's code, and 125 where Adit failed, wrong arguments included; `tunnels` and
/// `hostkey`, which ask the service too, fail with 125 as well.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(refusal) => return explain(&refusal),
    };
    match cli.command {
        Command::Dev(args) => run(dev::run(args)),
        Command::Serve(args) => run(serve::run(args)),
        Command::Migrate(args) => run(migrate::run(args)),
        Command::Exec(args) => actix_rt::System::new().block_on(exec::run(args)),
        Command::Tunnels(args) => actix_rt::System::new().block_on(tunnels::run(args)),
        Command::Hostkey(args) => actix_rt::System::new().block_on(hostkey::run(args)),
        Command::Workspace(command) => run(workspace::run(command)),
        Command::Token(command) => run(token::run(command)),
        Command::Emulator(args) => run(emulator::run(args)),
    }
}

/// Prints what clap has to say: help and version are no failures. Where a private key stands among the arguments it would
/// print that too, several times.
fn explain(refusal: &clap::Error) -> ExitCode {
    let has_private_key = std::env::args_os().any(|argument| is_private_key(&argument.to_string_lossy()));
    if refusal.use_stderr() && has_private_key {
        eprintln!(
            "adit: the arguments can't be understood; a private key is among them, so they are not repeated here"
        );
    } else {
        // A terminal that is gone can't be told.
        refusal.print().ok();
    }
    let is_exec = std::env::args_os()
        .nth(1)
        .is_some_and(|command| command == "exec");
    match refusal.exit_code() {
        0 => ExitCode::SUCCESS,
        _ if is_exec => ExitCode::from(service_access::ADIT_FAILED),
        _ => ExitCode::from(2),
    }
}

fn run(command: impl Future<Output = Result<(), CliError>>) -> ExitCode {
    match actix_rt::System::new().block_on(command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("adit: {}", error.with_causes());
            error.exit_code()
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn arguments_are_consistent() {
        super::Cli::command().debug_assert();
    }
}
