//! The in-process instance: an SSH server that behaves as OpenSSH does, with real processes behind it.
//!
//! It owns what happens from the first byte of an SSH connection to the reaping of the last child. It must know nothing
//! of tunnels, HTTP or AWS.

mod account;
mod cut;
mod server;
mod session;
mod slots;

pub(crate) use account::Account;
pub use account::current_os_user;
pub(crate) use server::{Connection, serve};
