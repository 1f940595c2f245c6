//! Stand-in for EC2 Instance Connect, for its endpoint and for an instance, on one loopback HTTP listener.
//!
//! It speaks the real protocols (awsJson1.1 `SendSSHPublicKey`, EC2 Query's two calls of discovery, the signed `openTunnel` websocket, SSH), so that what
//! is tested against it is the code that runs against AWS. It must know nothing of Adit's service: no HTTP API, no
//! store, no command line, no environment variables.

mod authorized_keys;
mod clock;
mod counters;
mod ec2;
mod emulator;
mod faults;
mod host_key;
mod http;
mod instance;
mod keys;
mod open_tunnel;
mod pump;
mod relay;
mod send_key;
mod settings;
mod shared;
mod sigv4;
mod tls;
mod tunnels;

pub use clock::WallClock;
pub use counters::{Counters, EndpointTunnels};
pub use emulator::{Emulator, EmulatorError};
pub use faults::{Cut, CutAt, DiscoveryFaults, Faults, Times, TunnelRefusal};
pub use host_key::{HostKey, HostKeyAlgorithm, HostKeyError};
pub use instance::current_os_user;
pub use settings::{Credentials, Endpoint, Instance, InstanceBackend, InstanceState, Settings};
pub use tls::{TlsIdentity, TlsIdentityError};
