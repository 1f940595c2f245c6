//! The command line, one file a command.

pub mod exec;
pub mod tunnels;
