//! The listeners: sockets, time limits, and what happens to a connection before it is a request.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use actix_http::{HttpService, Protocol};
use actix_service::{ServiceFactory, ServiceFactoryExt as _, fn_service, map_config};
use actix_tls::accept::rustls_0_23::{Acceptor, TlsStream};
use actix_web::App;
use actix_web::dev::{AppConfig, Server};
use actix_web::middleware::from_fn;
use actix_web::rt::net::TcpStream;
use actix_web::web::ServiceConfig;
#[cfg(target_os = "linux")]
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};

use super::access_log::log_access;
use super::connection::{self, ClientStream};
use super::options::{HttpOptions, HttpState, Surface};
use super::routes;
use super::tls::H2;

/// Idle connections are kept for longer than the 60 s of common load balancers (AWS ALB's default), so that it is they
/// who close one and no request is sent into a closing connection.
const KEEP_ALIVE: Duration = Duration::from_secs(75);

/// How long a connection is waited for that is to close, while its client takes nothing or sends on. actix-web's own default.
const CLOSING: Duration = Duration::from_secs(1);

/// Longest time that the kernel keeps data which the peer does not take. Longer than the longest answer may last (35 s
/// to start, 120 s to run, 17 s to end) and a stalled reader is waited for afterwards (30 s), so it never cuts a stream
/// that may still be read; it ends connections whose peer has vanished without a word.
const UNTAKEN_DATA: Duration = Duration::from_secs(210);

/// Bytes that may wait in the kernel unsent. More would say that a slow reader takes nothing while it empties them, and
/// this much keeps a fast one busy: what is on its way does not count.
const UNSENT_DATA: u32 = 131_072;

/// Starts serving a surface on a listening socket. Signals are the caller's to handle; it stops the server through
/// [`Server::handle`]. Must be called inside an actix `System`.
///
/// # Errors
/// When the socket can't be used by the runtime.
pub fn start(listener: TcpListener, state: HttpState, surface: Surface) -> io::Result<Server> {
    let options = state.options.clone();
    listen(listener, &options, move |config| {
        routes::configure(config, state.clone(), surface)
    })
}

/// Serves whatever `configure` registers, with the connection rules of this service. Put together here and not by
/// actix-web's `HttpServer`, whose connections can't be [`ClientStream`]s.
pub(crate) fn listen(
    listener: TcpListener,
    options: &HttpOptions,
    configure: impl Fn(&mut ServiceConfig) + Clone + Send + 'static,
) -> io::Result<Server> {
    let server = Server::build()
        .workers(options.workers.max(1))
        .disable_signals()
        .shutdown_timeout(options.shutdown_timeout.as_secs());
    let stopping = server.graceful_shutdown_signal();
    let stopped = move || {
        let stopping = stopping.clone();
        async move { stopping.notified().await }
    };
    let head_timeout = options.head_timeout;
    let server =
        match &options.tls {
            None => server.listen("http", listener, move || {
                fn_service(async |tcp: TcpStream| Ok(accepted(tcp, |tcp| tcp, Protocol::Http1)))
                    .and_then(http(head_timeout, stopped.clone(), configure.clone()))
            })?,
            Some(identity) => {
                let tls = identity.server_config();
                server.listen("https", listener, move || {
                    let mut acceptor = Acceptor::new(tls.clone());
                    acceptor.set_handshake_timeout(head_timeout);
                    acceptor
                        .map_err(|error| tracing::debug!(error = %error, "a TLS handshake failed"))
                        .map(|tls: TlsStream<TcpStream>| {
                            let protocol = spoken(&tls);
                            accepted(tls, |tls| tls.get_ref().0, protocol)
                        })
                        .and_then(http(head_timeout, stopped.clone(), configure.clone()))
                })?
            }
        };
    Ok(server.run())
}

/// A connection as actix-web takes it.
type Accepted<S> = (ClientStream<S>, Protocol, Option<SocketAddr>);

/// Makes a connection ready. `tcp` gives what is below TLS.
fn accepted<S: AsyncRead + Unpin>(
    stream: S,
    tcp: impl Fn(&S) -> &TcpStream,
    protocol: Protocol,
) -> Accepted<S> {
    let below = tcp(&stream);
    // Small frames must not wait for the acknowledgement of the one before.
    if let Err(error) = below.set_nodelay(true) {
        tracing::debug!(error = %error, "TCP_NODELAY could not be set");
    }
    limit_untaken_data(below);
    limit_unsent_data(below);
    let peer = below.peer_addr().ok();
    (ClientStream::new(stream), protocol, peer)
}

/// What was negotiated (ALPN); HTTP/1.1 where nothing was.
fn spoken(tls: &TlsStream<TcpStream>) -> Protocol {
    match tls.get_ref().1.alpn_protocol() {
        Some(protocol) if protocol == H2 => Protocol::Http2,
        _ => Protocol::Http1,
    }
}

/// Speaks HTTP on connections, until `stopped` says that no more requests are to be begun.
fn http<S, Stopped>(
    head_timeout: Duration,
    stopped: impl Fn() -> Stopped + 'static,
    configure: impl Fn(&mut ServiceConfig) + 'static,
) -> impl ServiceFactory<Accepted<S>, Config = (), Response = (), Error = (), InitError = ()>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
    Stopped: Future<Output = ()> + 'static,
{
    let app = App::new().wrap(from_fn(log_access)).configure(configure);
    HttpService::build()
        .keep_alive(KEEP_ALIVE)
        .client_request_timeout(head_timeout)
        .client_disconnect_timeout(CLOSING)
        .graceful_shutdown_signal(stopped)
        // A client that has closed its side is gone, also while its answer has not begun: the handler is dropped, and
        // with it the exec. By default actix-web would notice only when it writes.
        .h1_allow_half_closed(false)
        .on_connect_ext(connection::introduce)
        // Nothing here asks actix-web for the service's own name or address.
        .finish(map_config(app, |()| AppConfig::default()))
        .map_err(|error| tracing::debug!(error = %error, "a connection failed"))
}

/// Best effort: without it a vanished peer's connection ends with the kernel's own, longer, patience.
#[cfg(target_os = "linux")]
fn limit_untaken_data(stream: &TcpStream) {
    let milliseconds = u32::try_from(UNTAKEN_DATA.as_millis()).unwrap_or(u32::MAX);
    if let Err(error) = rustix::net::sockopt::set_tcp_user_timeout(stream, milliseconds) {
        tracing::debug!(error = %error, "TCP_USER_TIMEOUT could not be set");
    }
}

#[cfg(not(target_os = "linux"))]
fn limit_untaken_data(_stream: &TcpStream) {}

/// Best effort: without it a reader of a few kilobytes a second shows nothing for half a minute at a time.
#[cfg(target_os = "linux")]
fn limit_unsent_data(stream: &TcpStream) {
    if let Err(error) = SockRef::from(stream).set_tcp_notsent_lowat(UNSENT_DATA) {
        tracing::debug!(error = %error, "TCP_NOTSENT_LOWAT could not be set");
    }
}

#[cfg(not(target_os = "linux"))]
fn limit_unsent_data(_stream: &TcpStream) {}
