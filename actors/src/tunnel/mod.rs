//! Tunnels to instances: one supervisor per instance owns the key grant, the tunnels and their channels.

pub mod boundary;
mod connection;
mod endpoint_budget;
pub mod failure;
mod grant;
mod inbox;
mod lease;
mod life;
mod observe;
mod pool;
mod refused_logins;
pub mod snapshot;
mod state;
mod stream;
mod supervisor;
mod supervisor_core;
mod warden;

pub use boundary::{
    Dialed, Dialer, HostKey, HostKeys, KeyGrantReceipt, KeyGrants, Location, Locator, TunnelStream,
};
pub use failure::{DialError, GrantError, HostKeyError, LocateError, Source, TunnelError, chain};
pub use snapshot::{
    EndpointHolder, EndpointSnapshot, EndpointWaiter, GrantSnapshot, InstanceSnapshot, LastError,
    TunnelSnapshot,
};

pub(crate) use endpoint_budget::{BudgetSettings, EndpointBudgets};
pub(crate) use inbox::{Drain, Evict, HostKeyReplaced};
pub(crate) use lease::{Lease, LeasedChannel};
pub(crate) use pool::{Login, TunnelPool};
pub(crate) use supervisor::Surroundings;
pub(crate) use supervisor_core::CoreSettings;
pub(crate) use warden::{NoReceipt, Receipt, TUNNEL_MARK_LENGTH, WardenHandle};
