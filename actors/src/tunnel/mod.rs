//! Tunnels to instances: one supervisor per instance owns the key grant, the tunnels and their channels.

pub mod boundary;
pub mod failure;
pub mod snapshot;

pub use boundary::{
    Dialed, Dialer, HostKey, HostKeys, KeyGrantReceipt, KeyGrants, Location, Locator, TunnelStream,
};
pub use failure::{DialError, GrantError, HostKeyError, LocateError, Source, TunnelError};
pub use snapshot::{GrantSnapshot, InstanceSnapshot, LastError, TunnelSnapshot};
