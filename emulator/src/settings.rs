//! What an emulator is told at its start: addresses, credentials, limits and the instances behind it.
//!
//! Plain data. It must know nothing of flags or environment variables: the command line fills it in.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use crate::clock::WallClock;
use crate::faults::Faults;
use crate::host_key::HostKey;
use crate::tls::TlsIdentity;

/// VPC of everything that is not told another.
const DEFAULT_VPC: &str = "vpc-0123456789abcdef0";

/// Subnet of everything that is not told another.
const DEFAULT_SUBNET: &str = "subnet-0123456789abcdef0";

/// Everything an [`Emulator`](crate::Emulator) needs to know. Start from [`Settings::new`] and change fields.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Address of the one HTTP listener. Port 0 takes a free one. Must be a loopback address: the emulator hands
    /// out shells.
    pub listen: SocketAddr,
    /// Certificate of the listener. With one it speaks https and wss only, without one http and ws only.
    pub tls: Option<TlsIdentity>,
    /// The one pair of credentials whose signatures are accepted.
    pub credentials: Credentials,
    /// Region that credential scopes must name.
    pub region: String,
    /// EC2 Instance Connect Endpoints. Each leads to the instances of its VPC.
    pub endpoints: Vec<Endpoint>,
    /// Instances that keys can be pushed to and tunnels opened to.
    pub instances: Vec<Instance>,
    /// Tunnels open at once through an endpoint that has no number of its own, past which `openTunnel` is refused.
    /// AWS: 20, not adjustable (EC2 user guide, EC2 Instance Connect Endpoint quotas).
    pub max_connections: usize,
    /// Life of a tunnel whose URL names no `maxTunnelDuration`. AWS: 3,600 s, which is also the longest that a URL
    /// may ask for.
    pub max_tunnel_duration: Duration,
    /// How long a pushed key works. AWS: 60 s.
    pub key_lifetime: Duration,
    /// Session channels per SSH connection to an in-process instance. OpenSSH: `MaxSessions` 10.
    pub max_sessions: usize,
    /// Shell of in-process instances. `None` takes that of the current user's passwd entry, then `/bin/sh`.
    pub shell: Option<PathBuf>,
    /// Wall clock by which pushed keys age. Keep a clone to move it. Signatures, and an external sshd, go by real time
    /// all the same.
    pub clock: WallClock,
}

impl Settings {
    /// AWS's own limits, a free loopback port, region `us-east-1`, one endpoint, [`Endpoint::default`], and
    /// one in-process instance, [`Instance::default`].
    #[must_use]
    pub fn new(credentials: Credentials) -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            tls: None,
            credentials,
            region: "us-east-1".to_owned(),
            endpoints: vec![Endpoint::default()],
            instances: vec![Instance::default()],
            max_connections: 20,
            max_tunnel_duration: Duration::from_secs(3600),
            key_lifetime: Duration::from_secs(60),
            max_sessions: 10,
            shell: None,
            clock: WallClock::new(),
        }
    }
}

/// AWS credentials that the emulator accepts.
#[derive(Clone)]
pub struct Credentials {
    /// Access key id, as in a credential scope.
    pub access_key_id: String,
    /// Secret access key. Never printed.
    pub secret_access_key: String,
    /// Session token that every request must then carry; `None` accepts requests without one only.
    pub session_token: Option<String>,
}

impl Credentials {
    /// Long-term credentials, without a session token.
    #[must_use]
    pub fn new(access_key_id: impl Into<String>, secret_access_key: impl Into<String>) -> Self {
        Self {
            access_key_id: access_key_id.into(),
            secret_access_key: secret_access_key.into(),
            session_token: None,
        }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Credentials")
            .field("access_key_id", &self.access_key_id)
            .finish_non_exhaustive()
    }
}

/// One EC2 Instance Connect Endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Endpoint id, `eice-` and hexadecimal digits. Unique among the endpoints.
    pub id: String,
    /// DNS name as `DescribeInstanceConnectEndpoints` tells it. `None` takes one of AWS's form. Nothing resolves it:
    /// every endpoint is at the emulator's one listener and is told from the others by its id.
    pub dns_name: Option<String>,
    /// FIPS DNS name; `None` has no such element, as in regions without FIPS.
    pub fips_dns_name: Option<String>,
    /// VPC whose instances it leads to.
    pub vpc_id: String,
    /// Subnet that it stands in.
    pub subnet_id: String,
    /// `state` as AWS names them, `create-complete` and so on. Only tells: tunnels open in any state.
    pub state: String,
    /// Tunnels open at once; `None` takes [`Settings::max_connections`].
    pub max_connections: Option<usize>,
}

impl Default for Endpoint {
    /// `eice-0123456789abcdef0` in the VPC and subnet of [`Instance::default`], ready.
    fn default() -> Self {
        Self {
            id: "eice-0123456789abcdef0".to_owned(),
            dns_name: None,
            fips_dns_name: None,
            vpc_id: DEFAULT_VPC.to_owned(),
            subnet_id: DEFAULT_SUBNET.to_owned(),
            state: "create-complete".to_owned(),
            max_connections: None,
        }
    }
}

impl Endpoint {
    pub(crate) fn dns_name_in(&self, region: &str) -> String {
        self.dns_name.clone().unwrap_or_else(|| {
            format!(
                "{}.0a1b2c3d.ec2-instance-connect-endpoint.{region}.amazonaws.com",
                self.id
            )
        })
    }
}

/// One EC2 instance.
#[derive(Debug, Clone)]
pub struct Instance {
    /// Instance id, `i-` and 8 to 30 hexadecimal digits. Unique among the instances.
    pub id: String,
    /// Private IP address as `openTunnel` names it. Unique in its VPC. An IPv6 address makes it an instance without
    /// IPv4.
    pub private_ip_address: String,
    /// IPv6 address beside it, by which `openTunnel` may name it too. Unique in its VPC.
    pub ipv6_address: Option<Ipv6Addr>,
    /// VPC that it is in. Tunnels lead to it through the endpoints of that VPC only.
    pub vpc_id: String,
    /// Subnet that it is in.
    pub subnet_id: String,
    /// Availability zone; a key push that names another one is refused. `None` accepts any.
    pub availability_zone: Option<String>,
    /// OS users that the credentials' IAM policy lets keys be pushed for (`ec2:osuser`). `None` allows all.
    pub allowed_os_users: Option<Vec<String>>,
    /// State at the start; [`Emulator::set_instance_state`](crate::Emulator::set_instance_state) changes it.
    pub state: InstanceState,
    /// What goes wrong with it at the start; [`Emulator::update_faults`](crate::Emulator::update_faults) changes it.
    pub faults: Faults,
    /// What answers on its port 22.
    pub backend: InstanceBackend,
}

impl Default for Instance {
    /// `i-0123456789abcdef0` at 10.0.0.10, running, in-process with a random host key.
    fn default() -> Self {
        Self {
            id: "i-0123456789abcdef0".to_owned(),
            private_ip_address: "10.0.0.10".to_owned(),
            ipv6_address: None,
            vpc_id: DEFAULT_VPC.to_owned(),
            subnet_id: DEFAULT_SUBNET.to_owned(),
            availability_zone: None,
            allowed_os_users: None,
            state: InstanceState::Running,
            faults: Faults::default(),
            backend: InstanceBackend::InProcess {
                host_key: HostKey::generate(),
            },
        }
    }
}

/// State of an instance, as far as Instance Connect cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InstanceState {
    /// Keys can be pushed and port 22 answers.
    Running,
    /// Key pushes get `EC2InstanceStateInvalidException`; tunnels open and then fail to connect.
    Stopped,
}

/// What stands behind an instance's port 22.
#[derive(Debug, Clone)]
pub enum InstanceBackend {
    /// An SSH server inside the emulator that runs real processes as the current OS user, whatever login name is
    /// asked for.
    InProcess {
        /// Key that the instance proves itself with at the start;
        /// [`Emulator::set_host_key`](crate::Emulator::set_host_key) changes it.
        host_key: HostKey,
    },
    /// An sshd that runs elsewhere and reads its authorized keys from `authorized_keys_dir`
    /// (`AuthorizedKeysFile DIR/%u`).
    External {
        /// Where that sshd listens.
        address: SocketAddr,
        /// Directory for one file per login name. It must exist, and the emulator must own what is in it.
        authorized_keys_dir: PathBuf,
    },
}
