//! The command line, one file a command.

pub mod exec;
mod service_access;
pub mod tunnels;
