//! A scripted instance: a real SSH server over an in-memory pipe, whose programs do what their name says.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::fakes::Connected;
use russh::keys::{Algorithm, PrivateKey};
use russh::server::{self, Auth, ChannelOpenHandle, Config, Msg, Session, VerifiedPublicKey};
use russh::{Channel, ChannelId, ChannelOpenFailure, Sig};

/// What the instance has seen, shared by all its connections.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) logins: AtomicUsize,
    pub(super) requests: AtomicUsize,
    pub(super) refused_opens: AtomicUsize,
}

/// One instance.
#[derive(Clone)]
pub(super) struct Instance {
    pub(super) config: Arc<Config>,
    pub(super) seen: Arc<Seen>,
    pub(super) max_sessions: usize,
    pub(super) refuses_logins: bool,
}

impl Instance {
    pub(super) fn new() -> Self {
        let key = PrivateKey::random(&mut rand::rng(), Algorithm::Ed25519).unwrap();
        let config = Config {
            keys: vec![key],
            auth_rejection_time: Duration::ZERO,
            ..Config::default()
        };
        Self {
            config: Arc::new(config),
            seen: Arc::default(),
            max_sessions: 10,
            refuses_logins: false,
        }
    }

    /// Serves one connection until it ends.
    pub(super) async fn serve(&self, stream: Connected) {
        let handler = Connection {
            instance: self.clone(),
            open: Arc::default(),
            programs: HashMap::new(),
        };
        let config = Arc::clone(&self.config);
        if let Ok(session) = server::run_stream(config, stream, handler).await {
            session.await.ok();
        }
    }
}

struct Connection {
    instance: Instance,
    open: Arc<AtomicUsize>,
    programs: HashMap<ChannelId, Heeds>,
}

/// Which signal ends a program.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Heeds {
    Term,
    Kill,
    Nothing,
}

impl Connection {
    fn end(&mut self, channel: ChannelId, session: &mut Session) -> Result<(), russh::Error> {
        session.eof(channel)?;
        session.close(channel)?;
        self.programs.remove(&channel);
        self.open.fetch_sub(1, Ordering::Relaxed);
        Ok(())
    }

    fn run(&mut self, channel: ChannelId, line: &str, session: &mut Session) -> Result<(), russh::Error> {
        let words = line.rsplit("exec ").next().unwrap();
        if !words.contains("forced") {
            let mark = line.split("printf '").nth(1).unwrap().split(' ').next().unwrap();
            session.extended_data(channel, 1, format!("{mark} 4711\n"))?;
        }
        match words.split('\'').nth(1).unwrap() {
            "hang" => drop(self.programs.insert(channel, Heeds::Term)),
            "stubborn" => drop(self.programs.insert(channel, Heeds::Kill)),
            "immortal" => drop(self.programs.insert(channel, Heeds::Nothing)),
            "hold" => {
                session.data(channel, "held\n")?;
                session.exit_status_request(channel, 3)?;
            }
            "vanish" => return Err(russh::Error::Disconnect),
            "five_seconds" => {
                let (handle, open) = (session.handle(), Arc::clone(&self.open));
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_secs(5)).await;
                    handle.exit_status_request(channel, 0).await.ok();
                    handle.eof(channel).await.ok();
                    open.fetch_sub(1, Ordering::Relaxed);
                    handle.close(channel).await.ok();
                });
            }
            "segv" => {
                session.exit_signal_request(channel, Sig::SEGV, false, "", "")?;
                self.end(channel, session)?;
            }
            _ => {
                session.data(channel, "out\n")?;
                session.extended_data(channel, 1, "err\n")?;
                session.exit_status_request(channel, 0)?;
                self.end(channel, session)?;
            }
        }
        Ok(())
    }
}

impl server::Handler for Connection {
    type Error = russh::Error;

    async fn auth_publickey(&mut self, _: &str, _: VerifiedPublicKey<'_>) -> Result<Auth, Self::Error> {
        self.instance.seen.logins.fetch_add(1, Ordering::Relaxed);
        Ok(if self.instance.refuses_logins {
            Auth::reject()
        } else {
            Auth::Accept
        })
    }

    async fn channel_open_session(
        &mut self,
        _: Channel<Msg>,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        if self.open.load(Ordering::Relaxed) >= self.instance.max_sessions {
            self.instance.seen.refused_opens.fetch_add(1, Ordering::Relaxed);
            reply.reject(ChannelOpenFailure::ConnectFailed).await;
        } else {
            self.open.fetch_add(1, Ordering::Relaxed);
            reply.accept().await;
        }
        Ok(())
    }

    async fn exec_request(
        &mut self,
        channel: ChannelId,
        line: &[u8],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.instance.seen.requests.fetch_add(1, Ordering::Relaxed);
        if std::str::from_utf8(line).unwrap().contains("nofork") {
            return session.channel_failure(channel);
        }
        session.channel_success(channel)?;
        self.run(channel, std::str::from_utf8(line).unwrap(), session)
    }

    async fn channel_close(&mut self, _: ChannelId, _: &mut Session) -> Result<(), Self::Error> {
        self.open.fetch_sub(1, Ordering::Relaxed);
        Ok(())
    }

    async fn signal(
        &mut self,
        channel: ChannelId,
        signal: Sig,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let ends = match (self.programs.get(&channel), &signal) {
            (Some(Heeds::Term), _) | (Some(Heeds::Kill), Sig::KILL) => true,
            (Some(Heeds::Kill | Heeds::Nothing) | None, _) => false,
        };
        if ends {
            session.exit_signal_request(channel, signal, false, "", "")?;
            self.end(channel, session)?;
        }
        Ok(())
    }
}
