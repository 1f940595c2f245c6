//! A scripted instance: a real SSH server over an in-memory pipe, whose programs do what their name says.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::fakes::Connected;
use russh::keys::{Algorithm, PrivateKey};
use russh::server::{self, Auth, ChannelOpenHandle, Config, Msg, Session, VerifiedPublicKey};
use russh::{Channel, ChannelId, ChannelOpenFailure, Sig};

/// What the instance has seen, shared by all its connections.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) logins: AtomicUsize,
    /// Execs; wardens are counted apart.
    pub(super) requests: AtomicUsize,
    pub(super) wardens: AtomicUsize,
    pub(super) refused_opens: AtomicUsize,
}

/// One instance.
#[derive(Clone)]
pub(super) struct Instance {
    pub(super) config: Arc<Config>,
    pub(super) seen: Arc<Seen>,
    pub(super) max_sessions: usize,
    pub(super) refuses_logins: bool,
    pub(super) warden: Warden,
    /// As sshd does after a root login before OpenSSH 10, and with a forced command.
    pub(super) ignores_signals: bool,
}

/// What becomes of a warden there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Warden {
    /// It does its work.
    Works,
    /// It takes orders and answers none.
    IsDeaf,
    /// Something else runs in its place, as with a forced command.
    IsNone,
    /// sshd starts nothing.
    IsRefused,
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
            warden: Warden::Works,
            ignores_signals: false,
        }
    }

    /// Serves one connection until it ends.
    pub(super) async fn serve(&self, stream: Connected) {
        let handler = Connection {
            instance: self.clone(),
            open: Arc::default(),
            programs: Arc::default(),
            wardens: HashMap::new(),
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
    programs: Programs,
    /// What they have heard of the line that is not complete.
    wardens: HashMap<ChannelId, Vec<u8>>,
}

type Programs = Arc<Mutex<HashMap<ChannelId, Program>>>;

/// A program that does not end by itself.
#[derive(Clone, Debug)]
struct Program {
    exec_id: String,
    heeds: Heeds,
}

/// Which signal ends a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heeds {
    Term,
    Kill,
    Nothing,
}

impl Connection {
    fn end(&self, channel: ChannelId, session: &mut Session) -> Result<(), russh::Error> {
        session.eof(channel)?;
        session.close(channel)?;
        self.programs.lock().unwrap().remove(&channel);
        self.open.fetch_sub(1, Ordering::Relaxed);
        Ok(())
    }

    fn start(&self, channel: ChannelId, line: &str, heeds: Heeds) {
        let export = line.split("ADIT_EXEC_ID=").nth(1).unwrap();
        let exec_id = export.split(';').next().unwrap().to_owned();
        self.programs
            .lock()
            .unwrap()
            .insert(channel, Program { exec_id, heeds });
    }

    fn run_warden(
        &mut self,
        channel: ChannelId,
        line: &str,
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        self.instance.seen.wardens.fetch_add(1, Ordering::Relaxed);
        if self.instance.warden == Warden::IsRefused {
            return session.channel_failure(channel);
        }
        session.channel_success(channel)?;
        if self.instance.warden == Warden::IsNone {
            return self.end(channel, session);
        }
        let nonce = line.rsplit(' ').nth(1).unwrap();
        self.wardens.insert(channel, Vec::new());
        session.data(channel, format!("ready {nonce}\n"))
    }

    /// As the script does it: TERM, two seconds later KILL, two seconds later it gives up.
    fn order(&self, warden: ChannelId, order: &str, session: &Session) {
        let exec_id = order.split(' ').nth(1).unwrap().to_owned();
        let (handle, programs, open) = (
            session.handle(),
            Arc::clone(&self.programs),
            Arc::clone(&self.open),
        );
        tokio::spawn(async move {
            let find = || {
                let programs = programs.lock().unwrap();
                let mut all = programs.iter();
                all.find(|(_, program)| program.exec_id == exec_id)
                    .map(|(channel, program)| (*channel, program.heeds))
            };
            let mut sent = "-";
            for (signals, signal, heeded_by) in [
                ("TERM", Sig::TERM, Heeds::Term),
                ("TERM,KILL", Sig::KILL, Heeds::Kill),
            ] {
                let Some((channel, heeds)) = find() else { break };
                sent = signals;
                if heeds == heeded_by {
                    programs.lock().unwrap().remove(&channel);
                    open.fetch_sub(1, Ordering::Relaxed);
                    let nothing = String::new;
                    handle
                        .exit_signal_request(channel, signal, false, nothing(), nothing())
                        .await
                        .ok();
                    handle.eof(channel).await.ok();
                    handle.close(channel).await.ok();
                    break;
                }
                tokio::time::sleep(Duration::from_secs(2)).await;
            }
            let left = usize::from(find().is_some());
            handle
                .data(warden, format!("ended {exec_id} {sent} {left}\n"))
                .await
                .ok();
        });
    }

    fn run(&mut self, channel: ChannelId, line: &str, session: &mut Session) -> Result<(), russh::Error> {
        let words = line.rsplit("exec ").next().unwrap();
        if !words.contains("forced") {
            let mark = line.split("printf '").nth(1).unwrap().split(' ').next().unwrap();
            session.extended_data(channel, 1, format!("{mark} 4711\n"))?;
        }
        match words.split('\'').nth(1).unwrap() {
            "hang" => self.start(channel, line, Heeds::Term),
            "stubborn" => self.start(channel, line, Heeds::Kill),
            "immortal" => self.start(channel, line, Heeds::Nothing),
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
        if std::str::from_utf8(line).unwrap().contains("adit-warden") {
            return self.run_warden(channel, std::str::from_utf8(line).unwrap(), session);
        }
        self.instance.seen.requests.fetch_add(1, Ordering::Relaxed);
        if std::str::from_utf8(line).unwrap().contains("nofork") {
            return session.channel_failure(channel);
        }
        session.channel_success(channel)?;
        self.run(channel, std::str::from_utf8(line).unwrap(), session)
    }

    async fn data(
        &mut self,
        channel: ChannelId,
        data: &[u8],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let Some(heard) = self.wardens.get_mut(&channel) else {
            return Ok(());
        };
        heard.extend_from_slice(data);
        while let Some(end) = self.wardens[&channel].iter().position(|byte| *byte == b'\n') {
            let order: Vec<u8> = self.wardens.get_mut(&channel).unwrap().drain(..=end).collect();
            if self.instance.warden == Warden::Works {
                self.order(channel, std::str::from_utf8(&order).unwrap(), session);
            }
        }
        Ok(())
    }

    /// The end of its input is the end of a warden.
    async fn channel_eof(&mut self, channel: ChannelId, session: &mut Session) -> Result<(), Self::Error> {
        if self.wardens.remove(&channel).is_some() {
            session.exit_status_request(channel, 0)?;
            self.end(channel, session)?;
        }
        Ok(())
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
        if self.instance.ignores_signals {
            return Ok(());
        }
        let heeds = self
            .programs
            .lock()
            .unwrap()
            .get(&channel)
            .map(|program| program.heeds);
        let ends = match (heeds, &signal) {
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
