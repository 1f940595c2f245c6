//! What a tunnel needs from the world outside this crate, as traits.
//!
//! The service implements them with AWS and its store; tests with fakes. Implementations own their timeouts for a
//! single request; the supervisor adds a deadline around each call, so a hung implementation cannot hang an exec.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncWrite};

use super::failure::{DialError, GrantError, HostKeyError, LocateError};
use crate::instance::{EndpointHint, InstanceKey, InstanceTarget};

/// Lets a public key log in for a short while: EC2 Instance Connect's SendSSHPublicKey.
#[async_trait]
pub trait KeyGrants: Send + Sync + 'static {
    /// Pushes `public_key` (one OpenSSH line without comment) for the target's login.
    ///
    /// # Errors
    /// [`GrantError`] says whether AWS denied, throttled, did not know the instance or could not be reached.
    async fn push_key(
        &self,
        target: &InstanceTarget,
        public_key: &str,
    ) -> Result<KeyGrantReceipt, GrantError>;
}

/// What AWS answered to an accepted key push.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyGrantReceipt {
    /// AWS request id, which CloudTrail records too.
    pub request_id: Option<String>,
}

/// Finds the way to an instance.
#[async_trait]
pub trait Locator: Send + Sync + 'static {
    /// Says where the instance is and which endpoint leads there. May answer from what it found before.
    ///
    /// # Errors
    /// [`LocateError`] names what is missing, or why AWS did not say it.
    async fn locate(&self, target: &InstanceTarget) -> Result<Location, LocateError>;

    /// What was said of `target` may not lead to its sshd: the next [`Locator::locate`] must find it anew. Called by the
    /// supervisor when a dial or a handshake failed, a step took too long, or another host key was shown.
    fn forget(&self, target: &InstanceTarget);
}

/// The way to an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// The instance's private address.
    pub address: IpAddr,
    /// Its SSH port.
    pub port: u16,
    /// EC2 Instance Connect Endpoint that the tunnel goes through. `None` for a service that reaches the address itself:
    /// then no endpoint's connections are spent.
    pub endpoint: Option<EndpointHint>,
}

/// Opens a byte stream to an instance's sshd: EC2 Instance Connect Endpoint's OpenTunnel, or plain TCP.
#[async_trait]
pub trait Dialer: Send + Sync + 'static {
    /// Opens one stream. TCP_NODELAY is set on the socket below it.
    ///
    /// # Errors
    /// [`DialError`] says whether the endpoint refused, was full or could not be reached.
    async fn dial(&self, target: &InstanceTarget, location: &Location) -> Result<Dialed, DialError>;
}

/// A byte stream to an sshd, whatever carries it.
pub trait TunnelStream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> TunnelStream for S {}

/// An open stream and what is known of it.
pub struct Dialed {
    /// The bytes to and from sshd.
    pub stream: Box<dyn TunnelStream>,
    /// AWS request id of the OpenTunnel call.
    pub request_id: Option<String>,
    /// How long the endpoint keeps the tunnel open at most; 3,600 s on AWS unless less was asked for.
    pub max_duration: Option<Duration>,
}

impl fmt::Debug for Dialed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Dialed")
            .field("request_id", &self.request_id)
            .field("max_duration", &self.max_duration)
            .finish_non_exhaustive()
    }
}

/// The pinned host keys of instances.
#[async_trait]
pub trait HostKeys: Send + Sync + 'static {
    /// The key pinned for `instance`, if any.
    ///
    /// # Errors
    /// When the pins can't be read; no login is tried then.
    async fn pinned(&self, instance: &InstanceKey) -> Result<Option<HostKey>, HostKeyError>;

    /// Pins `key` unless the instance has a pin already, and returns the pin that holds afterwards: of two callers
    /// at once both get the same one.
    ///
    /// # Errors
    /// When the pin can't be written or read back; nothing may run then.
    async fn pin_first_use(&self, instance: &InstanceKey, key: &HostKey) -> Result<HostKey, HostKeyError>;
}

/// An SSH host key: RFC 4253, section 6.6.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostKey {
    /// Key type as SSH names it, for example `ssh-ed25519`.
    pub key_type: String,
    /// The base64 body, as in the second field of a `known_hosts` line's key.
    pub key_base64: String,
}
