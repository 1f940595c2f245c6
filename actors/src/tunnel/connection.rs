//! The SSH side of a tunnel: key exchange, login and channels, by russh. Each step is one function with one deadline;
//! which step comes when is the supervisor's to say.

use std::borrow::Cow;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rand::RngExt as _;
use russh::Channel;
use russh::client::{self, AuthResult, DisconnectReason, Handle, Msg};
use russh::keys::{Algorithm, PrivateKey, PrivateKeyWithHashAlg, PublicKeyOrCertificate};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::boundary::{Dialer, HostKey, HostKeys, Location, Locator};
use super::failure::{DialError, LOGIN_STEP, TunnelError};
use super::stream::{CountedStream, StreamParts, Traffic};
use crate::instance::InstanceTarget;

/// Looking up the way: at most two AWS calls.
const LOCATE_DEADLINE: Duration = Duration::from_secs(10);
/// Credentials, TCP, TLS and the websocket upgrade. Longer than a dialer's own deadlines together, so that their more
/// telling errors come first.
const DIAL_DEADLINE: Duration = Duration::from_secs(25);
/// SSH version and key exchange; sshd may be busy with others (MaxStartups), and TCP to the instance happens in here.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(15);
/// The instance runs its AuthorizedKeysCommand twice, each time with up to 5 s of its own.
const LOGIN_DEADLINE: Duration = Duration::from_secs(20);
/// One round trip; sshd answers at once.
const CHANNEL_OPEN_DEADLINE: Duration = Duration::from_secs(10);
/// Reading or writing one pin.
const PIN_DEADLINE: Duration = Duration::from_secs(5);
/// Sent when nothing was received for this long; three unanswered mean that the tunnel is lost.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_MAX: usize = 3;
/// A peer that takes nothing any more is lost after this.
const INACTIVITY_TIMEOUT: Duration = Duration::from_secs(45);
/// A tunnel lives 3,600 s at most, so a rekey by time must never come due.
const REKEY_TIME_LIMIT: Duration = Duration::from_secs(2 * 3_600);
/// Packets that wait for one channel's task before its whole connection stalls; each is at most 32 KiB, and the
/// channel's window of 2 MiB bounds their sum.
const CHANNEL_BUFFER: usize = 1_024;
/// What sshd says in place of its version while it penalises an address (OpenSSH 9.8) or is over MaxStartups.
const PENALTY_TEXT: &str = "Not allowed at this time";

/// An open stream, and what is known of it.
pub(crate) struct Opened {
    pub(crate) stream: CountedStream,
    pub(crate) request_id: Option<String>,
    pub(crate) max_duration: Option<Duration>,
}

/// A transport after key exchange, not logged in.
pub(crate) struct Transport {
    pub(crate) handle: Handle<TransportHandler>,
    pub(crate) host_key: HostKey,
    /// Whether that was checked against a pin.
    pub(crate) was_pinned: bool,
    /// Ends when the connection does, with the reason where russh has one.
    pub(crate) lost: oneshot::Receiver<String>,
    /// Whether the peer ended the connection by a message of SSH's.
    hung_up: Arc<AtomicBool>,
}

/// A channel open ended without one.
#[derive(Debug)]
pub(crate) enum OpenError {
    /// sshd has no session left.
    Busy,
    /// sshd did not answer in time; others on the connection may well go on.
    Unanswered,
    /// The connection is of no use any more.
    Broken,
}

/// A new key for one grant.
pub(crate) fn new_key() -> Result<PrivateKey, TunnelError> {
    PrivateKey::random(&mut rand::rng(), Algorithm::Ed25519).map_err(|_| TunnelError::LoginRefused {
        reason: "no key could be made",
    })
}

/// The line that SendSSHPublicKey takes.
pub(crate) fn public_line(key: &PrivateKey) -> Result<String, TunnelError> {
    key.public_key()
        .to_openssh()
        .map_err(|_| TunnelError::LoginRefused {
            reason: "the key could not be written",
        })
}

/// Between 5 and 20 ms: sshd frees a session slot later than the client thinks, and tries in step would collide again.
pub(crate) fn refusal_pause() -> Duration {
    Duration::from_micros(rand::rng().random_range(5_000..20_000))
}

/// A number in 0..1 for spreading retries.
pub(crate) fn jitter() -> f64 {
    rand::rng().random_range(0.0..1.0)
}

/// Finds the way.
pub(crate) async fn locate(
    locator: Arc<dyn Locator>,
    target: InstanceTarget,
) -> Result<Location, TunnelError> {
    within("locate", LOCATE_DEADLINE, locator.locate(&target))
        .await?
        .map_err(|error| TunnelError::Locate(Arc::new(error)))
}

/// Opens the stream. Tells the endpoint's budget whether the endpoint took it.
pub(crate) async fn dial(
    dialer: Arc<dyn Dialer>,
    target: InstanceTarget,
    location: Location,
    mut parts: StreamParts,
) -> Result<Opened, TunnelError> {
    let dialed = within("dial", DIAL_DEADLINE, dialer.dial(&target, &location)).await?;
    if let Err(DialError::EndpointBusy(_)) = &dialed
        && let Some(slot) = parts.slot.take()
    {
        slot.refused();
    }
    let dialed = dialed.map_err(|error| TunnelError::Dial(Arc::new(error)))?;
    if let Some(slot) = &parts.slot {
        slot.opened();
    }
    Ok(Opened {
        stream: CountedStream::new(dialed.stream, parts),
        request_id: dialed.request_id,
        max_duration: dialed.max_duration,
    })
}

/// SSH version, key exchange, host key check against the pin.
pub(crate) async fn handshake(
    stream: CountedStream,
    host_keys: Arc<dyn HostKeys>,
    target: InstanceTarget,
    traffic: Arc<Traffic>,
) -> Result<Transport, TunnelError> {
    let pinned = within(
        "read the host key pin",
        PIN_DEADLINE,
        host_keys.pinned(&target.instance),
    )
    .await?
    .map_err(|error| TunnelError::HostKeys(Arc::new(error)))?;
    let shown = Arc::new(Mutex::new(None));
    let (lost_guard, lost) = oneshot::channel();
    let hung_up = Arc::new(AtomicBool::new(false));
    let config = Arc::new(config(pinned.as_ref()));
    let handler = TransportHandler {
        pinned: pinned.clone(),
        shown: Arc::clone(&shown),
        hung_up: Arc::clone(&hung_up),
        lost: Some(lost_guard),
    };
    let connected = within(
        "SSH handshake",
        HANDSHAKE_DEADLINE,
        client::connect_stream(config, stream, handler),
    )
    .await;
    let shown = shown.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let (Some(pinned), Some(shown)) = (&pinned, &shown)
        && pinned != shown
    {
        return Err(changed(shown, Some(pinned)));
    }
    match (connected?, shown) {
        (Ok(handle), Some(host_key)) => Ok(Transport {
            handle,
            host_key,
            was_pinned: pinned.is_some(),
            lost,
            hung_up,
        }),
        (Ok(_), None) => Err(handshake_error(&traffic, None)),
        (Err(error), _) => Err(handshake_error(&traffic, Some(error))),
    }
}

fn handshake_error(traffic: &Traffic, error: Option<russh::Error>) -> TunnelError {
    let peer_said = traffic.refusal();
    if peer_said
        .as_deref()
        .is_some_and(|text| text.contains(PENALTY_TEXT))
    {
        return TunnelError::LoginPenalised;
    }
    TunnelError::Handshake {
        peer_said,
        source: error.map(|error| Arc::new(error.into())),
    }
}

/// Logs in and, on first use, pins the host key: after the login succeeded and before anything runs.
pub(crate) async fn log_in(
    mut transport: Transport,
    key: Arc<PrivateKey>,
    host_keys: Arc<dyn HostKeys>,
    target: InstanceTarget,
) -> Result<Transport, TunnelError> {
    let key = PrivateKeyWithHashAlg::new(key, None);
    let login = transport
        .handle
        .authenticate_publickey(target.os_user.clone(), key);
    match within(LOGIN_STEP, LOGIN_DEADLINE, login).await? {
        Ok(AuthResult::Success) => {}
        Ok(AuthResult::Failure { .. }) => return Err(login_failure(&transport)),
        Err(error) => {
            return Err(TunnelError::Handshake {
                peer_said: None,
                source: Some(Arc::new(error.into())),
            });
        }
    }
    let pins = async {
        if transport.was_pinned {
            // Whoever took the pin back meanwhile must not find it there again.
            host_keys.pinned(&target.instance).await
        } else {
            let pinned = host_keys.pin_first_use(&target.instance, &transport.host_key);
            pinned.await.map(Some)
        }
    };
    let pinned = within("pin the host key", PIN_DEADLINE, pins)
        .await?
        .map_err(|error| TunnelError::HostKeys(Arc::new(error)))?;
    if pinned.as_ref() == Some(&transport.host_key) {
        Ok(transport)
    } else {
        Err(changed(&transport.host_key, pinned.as_ref()))
    }
}

fn changed(shown: &HostKey, pinned: Option<&HostKey>) -> TunnelError {
    let name = |key: &HostKey| {
        let fingerprint = key.fingerprint().unwrap_or_else(|| "that is none".to_owned());
        format!("{} {fingerprint}", key.key_type)
    };
    TunnelError::HostKeyChanged {
        shown: name(shown),
        pinned: pinned.map_or_else(|| "none any more".to_owned(), name),
    }
}

/// russh calls it a refusal, too, when the connection ends before an answer. Only what sshd said counts as one: it penalises
/// refusals, and a network that breaks is not its doing. It says goodbye after the last try of `MaxAuthTries`.
fn login_failure(transport: &Transport) -> TunnelError {
    if transport.handle.is_closed() && !transport.hung_up.load(Ordering::Acquire) {
        return TunnelError::Handshake {
            peer_said: None,
            source: Some(Arc::new(russh::Error::Disconnect.into())),
        };
    }
    TunnelError::LoginRefused {
        reason: "the key was refused",
    }
}

/// Opens one session channel.
pub(crate) async fn open_channel(
    handle: Arc<Handle<TransportHandler>>,
) -> Result<(Channel<Msg>, Duration), OpenError> {
    let asked = Instant::now();
    match tokio::time::timeout(CHANNEL_OPEN_DEADLINE, handle.channel_open_session()).await {
        Ok(Ok(channel)) => Ok((channel, asked.elapsed())),
        // Whatever the reason it gives: the connection and its other channels are sound.
        Ok(Err(russh::Error::ChannelOpenFailure(_))) => Err(OpenError::Busy),
        Ok(Err(_)) => Err(OpenError::Broken),
        Err(_) => Err(OpenError::Unanswered),
    }
}

async fn within<F: Future>(step: &'static str, limit: Duration, future: F) -> Result<F::Output, TunnelError> {
    tokio::time::timeout(limit, future)
        .await
        .map_err(|_| TunnelError::Deadline { step, limit })
}

fn config(pinned: Option<&HostKey>) -> client::Config {
    let mut config = client::Config {
        keepalive_interval: Some(KEEPALIVE_INTERVAL),
        keepalive_max: KEEPALIVE_MAX,
        inactivity_timeout: Some(INACTIVITY_TIMEOUT),
        channel_buffer_size: CHANNEL_BUFFER,
        ..client::Config::default()
    };
    config.limits.rekey_time_limit = REKEY_TIME_LIMIT;
    if let Some(algorithm) = pinned.and_then(|key| key.key_type.parse::<Algorithm>().ok()) {
        // sshd shows one key of the type that the client names first; another type would look like a changed key.
        let mut offered: Vec<Algorithm> = config.preferred.key.to_vec();
        offered.sort_by_key(|candidate| !is_same_family(candidate, &algorithm));
        config.preferred.key = Cow::Owned(offered);
    }
    config
}

/// `rsa-sha2-256` and `rsa-sha2-512` sign with a key of type `ssh-rsa`.
fn is_same_family(candidate: &Algorithm, pinned: &Algorithm) -> bool {
    match (candidate, pinned) {
        (Algorithm::Rsa { .. }, Algorithm::Rsa { .. }) => true,
        _ => candidate == pinned,
    }
}

/// russh's view of us: it checks the host key and, by its own end, says that the connection is over.
pub(crate) struct TransportHandler {
    pinned: Option<HostKey>,
    shown: Arc<Mutex<Option<HostKey>>>,
    hung_up: Arc<AtomicBool>,
    /// Takes the reason; dropped without one when russh gives none.
    lost: Option<oneshot::Sender<String>>,
}

impl client::Handler for TransportHandler {
    type Error = russh::Error;

    async fn check_server_key(&mut self, shown: &PublicKeyOrCertificate) -> Result<bool, russh::Error> {
        let PublicKeyOrCertificate::PublicKey { key, .. } = shown else {
            return Ok(false);
        };
        let line = key.to_openssh().map_err(russh::Error::from)?;
        let mut fields = line.split_whitespace();
        let (Some(key_type), Some(key_base64)) = (fields.next(), fields.next()) else {
            return Ok(false);
        };
        let shown = HostKey {
            key_type: key_type.to_owned(),
            key_base64: key_base64.to_owned(),
        };
        let is_accepted = self.pinned.as_ref().is_none_or(|pinned| *pinned == shown);
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = Some(shown);
        Ok(is_accepted)
    }

    /// Comes before russh ends whatever waits for an answer.
    async fn disconnected(&mut self, reason: DisconnectReason<russh::Error>) -> Result<(), russh::Error> {
        let told = match &reason {
            DisconnectReason::ReceivedDisconnect(goodbye) => {
                let text: String = goodbye
                    .message
                    .chars()
                    .filter(|letter| !letter.is_control())
                    .collect();
                format!("the instance said goodbye: {:?} {text}", goodbye.reason_code)
            }
            DisconnectReason::Error(error) => error.to_string(),
        };
        if let Some(lost) = self.lost.take() {
            // Nobody listens before the login, whose own error says more.
            lost.send(told).ok();
        }
        match reason {
            DisconnectReason::ReceivedDisconnect(_) => {
                self.hung_up.store(true, Ordering::Release);
                Ok(())
            }
            DisconnectReason::Error(error) => Err(error),
        }
    }
}
