//! One SSH connection to an in-process instance: login by pushed key, session channels, and refusals of the rest.
//!
//! It answers requests; what a command then does is the session's. It must know nothing of tunnels.

use std::sync::Arc;
use std::time::Duration;

use russh::keys::PublicKey;
use russh::server::{
    Auth, ChannelOpenHandle, Config, Handler, Msg, PublicKeyOffer, Session, VerifiedPublicKey,
};
use russh::{Channel, ChannelId, ChannelOpenFailure, Limits, MethodKind, MethodSet, Pty, SshId};
use tokio::io::DuplexStream;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::session;
use super::slots::Slots;
use crate::faults::CutAt;
use crate::host_key::HostKey;
use crate::keys::Login;
use crate::shared::{InstanceEntry, Shared};

/// Time for a login, sshd's `LoginGraceTime`.
const LOGIN_GRACE: Duration = Duration::from_secs(120);

/// Refused authentications per connection, sshd's `MaxAuthTries`.
const MAX_AUTH_TRIES: usize = 6;

/// OpenSSH renews keys by volume only; no tunnel lives as long as this.
const REKEY_TIME: Duration = Duration::from_secs(24 * 3600);

/// Volume after which keys are renewed, each way: OpenSSH's limit for AES and for ChaCha20.
const REKEY_BYTES: usize = 1 << 30;

/// Messages from the client that may wait for a session. The session takes them at once, up to its own bound.
const CHANNEL_BUFFER: usize = 16;

/// Messages from all sessions that may wait for the connection: 32 packets of 32 KiB.
const EVENT_BUFFER: usize = 32;

/// Channel opens that a connection may leave without an answer. A client asks for as many channels as sshd would give it,
/// and then for some more; the ones past this are refused.
const MAX_UNANSWERED_OPENS: usize = 256;

/// What a connection is about.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) shared: Arc<Shared>,
    pub(crate) entry: Arc<InstanceEntry>,
    pub(crate) host_key: HostKey,
    /// Cancelled by the server when it wants the transport closed.
    pub(crate) hang_up: CancellationToken,
    /// Cancelled by the server when it wants the tunnel cut.
    pub(crate) cut: CancellationToken,
}

/// Serves one connection until its transport is closed. Sessions may outlive it, as they do under sshd.
pub(crate) async fn serve(stream: DuplexStream, connection: Connection) {
    let (logged_in, login) = oneshot::channel();
    let config = Arc::new(config(&connection.host_key));
    let handler = Server {
        slots: Arc::new(Slots::new(
            Arc::clone(&connection.shared),
            Arc::clone(&connection.entry),
        )),
        // The endpoint's side has no port: there is no TCP connection.
        ssh_connection: format!("127.0.0.1 0 {} 22", connection.entry.instance.private_ip_address),
        shared: connection.shared,
        entry: connection.entry,
        cut: connection.cut,
        logged_in: Some(logged_in),
        unanswered_opens: Vec::new(),
    };
    let too_slow = async {
        match tokio::time::timeout(LOGIN_GRACE, login).await {
            Err(_) => {}
            Ok(_) => std::future::pending().await,
        }
    };
    let served = async {
        let running = russh::server::run_stream(config, stream, handler).await?;
        running.await
    };
    tokio::pin!(served);
    let result = tokio::select! {
        result = &mut served => result,
        () = too_slow => {
            connection.hang_up.cancel();
            served.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(
            error = &error as &dyn std::error::Error,
            "an SSH connection ended with an error"
        );
    }
}

fn config(host_key: &HostKey) -> Config {
    Config {
        server_id: SshId::Standard("SSH-2.0-AditEmulator".into()),
        methods: MethodSet::from([MethodKind::PublicKey].as_slice()),
        auth_rejection_time: Duration::ZERO,
        auth_rejection_time_initial: None,
        keys: vec![host_key.private_key()],
        limits: Limits {
            rekey_write_limit: REKEY_BYTES,
            rekey_read_limit: REKEY_BYTES,
            rekey_time_limit: REKEY_TIME,
        },
        channel_buffer_size: CHANNEL_BUFFER,
        event_buffer_size: EVENT_BUFFER,
        max_auth_attempts: MAX_AUTH_TRIES,
        inactivity_timeout: None,
        ..Config::default()
    }
}

/// The handler of one connection.
struct Server {
    shared: Arc<Shared>,
    entry: Arc<InstanceEntry>,
    cut: CancellationToken,
    ssh_connection: String,
    slots: Arc<Slots>,
    logged_in: Option<oneshot::Sender<()>>,
    /// Kept, because their drop would be an answer.
    unanswered_opens: Vec<ChannelOpenHandle>,
}

impl Server {
    fn authenticate(&self, user: &str, key: &PublicKey) -> Auth {
        let login = Login {
            instance_id: self.entry.instance.id.clone(),
            os_user: user.to_owned(),
        };
        if self.shared.keys.allows(&login, key.key_data()) {
            Auth::Accept
        } else {
            Auth::reject()
        }
    }

    /// Cuts the tunnel if it is to be cut at this place. The error ends the connection before it answers.
    fn cut_at(&self, place: CutAt) -> Result<(), russh::Error> {
        if self.entry.faults.take_cut_at(place) {
            self.cut.cancel();
            return Err(russh::Error::Disconnect);
        }
        Ok(())
    }

    fn refuses_session(&self) -> bool {
        self.entry.faults.take(|faults| &mut faults.refused_sessions)
    }

    async fn refuse_session(&self, reply: ChannelOpenHandle) {
        self.shared.tally.channel_opens_refused.add();
        // What sshd answers past MaxSessions: reason 2, this text.
        reply
            .reject(ChannelOpenFailure::Other {
                code: 2,
                reason: "open failed".to_owned(),
            })
            .await;
    }

    fn leaves_open_unanswered(&self) -> bool {
        self.unanswered_opens.len() < MAX_UNANSWERED_OPENS
            && self
                .entry
                .faults
                .take(|faults| &mut faults.unanswered_channel_opens)
    }
}

impl Handler for Server {
    type Error = russh::Error;

    async fn auth_publickey_offered(
        &mut self,
        user: &str,
        offer: PublicKeyOffer<'_>,
    ) -> Result<Auth, Self::Error> {
        self.shared.tally.login_attempts.add();
        let refused = self.entry.faults.take(|faults| &mut faults.refused_logins);
        let answer = match self.authenticate(user, offer.public_key) {
            Auth::Accept if !refused => return Ok(Auth::Accept),
            Auth::Accept => Auth::reject(),
            answer => answer,
        };
        self.shared.tally.logins_refused.add();
        Ok(answer)
    }

    async fn auth_publickey(&mut self, user: &str, key: VerifiedPublicKey<'_>) -> Result<Auth, Self::Error> {
        self.cut_at(CutAt::Login)?;
        Ok(self.authenticate(user, key.public_key))
    }

    async fn auth_succeeded(&mut self, _: &mut Session) -> Result<(), Self::Error> {
        if let Some(logged_in) = self.logged_in.take() {
            logged_in.send(()).ok(); // nobody waits when the emulator is stopping
        }
        Ok(())
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.cut_at(CutAt::ChannelOpen)?;
        if self.leaves_open_unanswered() {
            self.unanswered_opens.push(reply);
            return Ok(());
        }
        if self.refuses_session() {
            self.refuse_session(reply).await;
            return Ok(());
        }
        let Some(slot) = self.slots.take(channel.id()) else {
            self.refuse_session(reply).await;
            return Ok(());
        };
        reply.accept().await;
        let context = session::Context {
            shared: Arc::clone(&self.shared),
            entry: Arc::clone(&self.entry),
            cut: self.cut.clone(),
            connection: session.handle(),
            ssh_connection: self.ssh_connection.clone(),
            slot,
        };
        self.shared.spawn(session::run(channel, context));
        Ok(())
    }

    async fn exec_request(
        &mut self,
        channel: ChannelId,
        command: &[u8],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        // The session gets the command by its channel, and what becomes of it from here.
        if command.contains(&0) {
            self.slots.decide(channel, false);
            // sshd takes a NUL in a command for a broken packet and drops the whole connection.
            return Err(russh::Error::Inconsistent);
        }
        if let Err(cut) = self.cut_at(CutAt::ExecRequest) {
            self.slots.decide(channel, false);
            return Err(cut);
        }
        if self.entry.faults.take(|faults| &mut faults.unanswered_execs) {
            self.slots.decide(channel, false);
            return Ok(());
        }
        // The answer must leave here, before a next request is read: russh keeps only the last request's wish for one.
        if self.slots.decide(channel, true) {
            session.channel_success(channel)
        } else {
            session.channel_failure(channel)
        }
    }

    async fn env_request(
        &mut self,
        channel: ChannelId,
        _: &str,
        _: &str,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        session.channel_failure(channel)
    }

    async fn pty_request(
        &mut self,
        channel: ChannelId,
        _: &str,
        _: u32,
        _: u32,
        _: u32,
        _: u32,
        _: &[(Pty, u32)],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        session.channel_failure(channel)
    }

    async fn x11_request(
        &mut self,
        channel: ChannelId,
        _: bool,
        _: &str,
        _: &str,
        _: u32,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        session.channel_failure(channel)
    }

    async fn shell_request(&mut self, channel: ChannelId, session: &mut Session) -> Result<(), Self::Error> {
        session.channel_failure(channel)
    }

    async fn subsystem_request(
        &mut self,
        channel: ChannelId,
        _: &str,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        session.channel_failure(channel)
    }
}
