//! The engine's outer world, scripted: AWS with latencies and refusals.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::time::Sleep;

use super::instance::Instance;
use super::store::Store;
use crate::instance::{EndpointHint, InstanceKey, InstanceTarget};
use crate::tunnel::{
    DialError, Dialed, Dialer, GrantError, HostKey, HostKeyError, HostKeys, KeyGrantReceipt, KeyGrants,
    LocateError, Location, Locator,
};

/// AWS and the way to one instance.
pub(super) struct World {
    pub(super) instance: Mutex<Instance>,
    pub(super) pushes: AtomicUsize,
    pub(super) dials: AtomicUsize,
    pub(super) push_latency: Duration,
    pub(super) dial_latency: Duration,
    pub(super) denies_push: AtomicBool,
    pub(super) panics_on_push: AtomicBool,
    pub(super) is_silent: Arc<AtomicBool>,
    pub(super) pins: Mutex<HashMap<InstanceKey, HostKey>>,
    /// How long the endpoint keeps a tunnel.
    pub(super) max_duration: Duration,
    /// Connections that the endpoint takes.
    pub(super) endpoint_limit: AtomicUsize,
    /// Connections that it has, and the most it ever had.
    pub(super) open: Arc<AtomicUsize>,
    pub(super) peak: AtomicUsize,
    pub(super) refused_dials: AtomicUsize,
}

impl World {
    pub(super) fn new(instance: Instance) -> Self {
        Self {
            instance: Mutex::new(instance),
            pushes: AtomicUsize::new(0),
            dials: AtomicUsize::new(0),
            push_latency: Duration::ZERO,
            dial_latency: Duration::ZERO,
            denies_push: AtomicBool::new(false),
            panics_on_push: AtomicBool::new(false),
            is_silent: Arc::default(),
            pins: Mutex::default(),
            max_duration: Duration::from_secs(3_600),
            endpoint_limit: AtomicUsize::new(20),
            open: Arc::default(),
            peak: AtomicUsize::new(0),
            refused_dials: AtomicUsize::new(0),
        }
    }
}

#[async_trait]
impl KeyGrants for World {
    async fn push_key(&self, _: &InstanceTarget, public_key: &str) -> Result<KeyGrantReceipt, GrantError> {
        assert!(
            public_key.starts_with("ssh-ed25519 ") && public_key.len() == 80,
            "{public_key}"
        );
        tokio::time::sleep(self.push_latency).await;
        self.pushes.fetch_add(1, Ordering::Relaxed);
        assert!(
            !self.panics_on_push.swap(false, Ordering::Relaxed),
            "a push that panics, as it should"
        );
        if self.denies_push.load(Ordering::Relaxed) {
            return Err(GrantError::Denied("AccessDeniedException".into()));
        }
        Ok(KeyGrantReceipt {
            request_id: Some("push".to_owned()),
        })
    }
}

#[async_trait]
impl Locator for World {
    async fn locate(&self, _: &InstanceTarget) -> Result<Location, LocateError> {
        Ok(Location {
            address: IpAddr::V4(Ipv4Addr::new(10, 0, 0, 10)),
            port: 22,
            endpoint: Some(EndpointHint {
                endpoint_id: "eice-1".to_owned(),
                dns_name: "eice-1.example".to_owned(),
            }),
        })
    }

    fn forget(&self, _: &InstanceTarget) {}
}

#[async_trait]
impl Dialer for World {
    async fn dial(&self, _: &InstanceTarget, _: &Location) -> Result<Dialed, DialError> {
        tokio::time::sleep(self.dial_latency).await;
        self.dials.fetch_add(1, Ordering::Relaxed);
        if self.open.load(Ordering::Relaxed) >= self.endpoint_limit.load(Ordering::Relaxed) {
            self.refused_dials.fetch_add(1, Ordering::Relaxed);
            return Err(DialError::EndpointBusy("no connection left".into()));
        }
        let open = self.open.fetch_add(1, Ordering::Relaxed) + 1;
        self.peak.fetch_max(open, Ordering::Relaxed);
        let (near, far) = tokio::io::duplex(1 << 20);
        let instance = self.instance.lock().unwrap().clone();
        let far = Connected {
            pipe: far,
            open: Arc::clone(&self.open),
            ends: Box::pin(tokio::time::sleep(self.max_duration)),
        };
        tokio::spawn(async move { instance.serve(far).await });
        let max_duration = Some(self.max_duration);
        Ok(Dialed {
            stream: Box::new(Silenceable {
                pipe: near,
                is_silent: Arc::clone(&self.is_silent),
            }),
            request_id: Some("tunnel".to_owned()),
            max_duration,
        })
    }
}

#[async_trait]
impl HostKeys for World {
    async fn pinned(&self, instance: &InstanceKey) -> Result<Option<HostKey>, HostKeyError> {
        Ok(self.pins.lock().unwrap().get(instance).cloned())
    }

    async fn pin_first_use(&self, instance: &InstanceKey, key: &HostKey) -> Result<HostKey, HostKeyError> {
        Ok(self
            .pins
            .lock()
            .unwrap()
            .entry(instance.clone())
            .or_insert_with(|| key.clone())
            .clone())
    }
}

/// One of many instances, all alike. Most tests need but the first.
pub(super) fn target(number: usize) -> InstanceTarget {
    InstanceTarget {
        instance: InstanceKey {
            region: "us-east-2".to_owned(),
            instance_id: format!("i-{number:017x}"),
        },
        os_user: "ubuntu".to_owned(),
        availability_zone: None,
        address: None,
        port: None,
        endpoint: None,
    }
}

/// Everything behind one engine.
pub(super) fn boundaries(world: &Arc<World>, store: &Arc<Store>) -> super::Boundaries {
    super::Boundaries {
        key_grants: world.clone(),
        dialer: world.clone(),
        locator: world.clone(),
        host_keys: world.clone(),
        audit_store: store.clone(),
    }
}

/// A pipe that can fall silent: then nothing comes, what is sent vanishes, and it can't even be shut down.
struct Silenceable {
    pipe: DuplexStream,
    is_silent: Arc<AtomicBool>,
}

impl Silenceable {
    fn is_silent(&self) -> bool {
        self.is_silent.load(Ordering::Relaxed)
    }
}

impl AsyncRead for Silenceable {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.is_silent() {
            return Poll::Pending;
        }
        Pin::new(&mut self.pipe).poll_read(context, buffer)
    }
}

impl AsyncWrite for Silenceable {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.is_silent() {
            return Poll::Ready(Ok(data.len()));
        }
        Pin::new(&mut self.pipe).poll_write(context, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_silent() {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.pipe).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_silent() {
            return Poll::Pending;
        }
        Pin::new(&mut self.pipe).poll_shutdown(context)
    }
}

/// The endpoint's side of a tunnel: counted while it is open, and cut at its end.
pub(super) struct Connected {
    pipe: DuplexStream,
    open: Arc<AtomicUsize>,
    ends: Pin<Box<Sleep>>,
}

impl Drop for Connected {
    fn drop(&mut self) {
        // Before the pipe itself, so that whoever sees its end finds the connection free.
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl AsyncRead for Connected {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.ends.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        Pin::new(&mut self.pipe).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connected {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.pipe).poll_write(context, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_shutdown(context)
    }
}
