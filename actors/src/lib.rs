//! Adit's actors: tunnels to instances, execs on them, and the audit rows they leave.
//!
//! The crate owns everything between "this tenant may run this argv on this instance" and "here are its
//! output, its end and its committed row". It knows no HTTP, no SQL, no command line and no environment
//! variables: what it needs from those worlds comes in through the traits [`tunnel::KeyGrants`],
//! [`tunnel::Dialer`], [`tunnel::Locator`], [`tunnel::HostKeys`] and [`audit::AuditStore`].
//!
//! Three rooms:
//!
//! - [`tunnel`]: one supervisor per instance owns the key grant, the SSH tunnels and who may use their channels.
//! - [`exec`]: one actor per exec owns its phases, its two output buffers and its end.
//! - [`audit`]: one actor per process turns begin and finish records into committed rows.
//!
//! Every actor is a thin shell: a message becomes an event, the event goes into a plain struct that returns
//! effects, and the shell performs them. The plain structs import no actix and no russh.

mod alarm;
mod arbiters;
pub mod audit;
pub mod clock;
pub mod engine;
pub mod exec;
pub mod host_key;
pub mod instance;
pub mod tunnel;
