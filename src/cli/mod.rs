//! The command line, one file a command.
//!
//! Here the process's world comes in: arguments, environment, files, signals and the terminal. The rest of the library
//! gets it passed in.

mod config;
mod data_directory;
mod dev;
mod emulator;
pub mod exec;
mod service_access;
mod failure;
mod logging;
mod migrate;
mod serve;
mod signals;
mod table;
mod token;
pub mod tunnels;
mod workspace;

use std::future::Future;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use failure::CliError;

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
    #[command(subcommand)]
    Workspace(workspace::Command),
    #[command(subcommand)]
    Token(token::Command),
    Emulator(emulator::Args),
}

/// Parses the arguments, runs the command, and says with which code the process ends: 0 done, 1 failed, 2 wrong
/// arguments; `exec` has its own.
#[must_use]
pub fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Dev(args) => run(dev::run(args)),
        Command::Serve(args) => run(serve::run(args)),
        Command::Migrate(args) => run(migrate::run(args)),
        Command::Workspace(command) => run(workspace::run(command)),
        Command::Token(command) => run(token::run(command)),
        Command::Emulator(args) => run(emulator::run(args)),
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
