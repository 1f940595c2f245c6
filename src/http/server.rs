//! The listeners: sockets, time limits, and what happens to a connection before it is a request.

use std::any::Any;
use std::io;
use std::net::TcpListener;
use std::time::Duration;

use actix_tls::accept::rustls_0_23::TlsStream;
use actix_web::dev::Server;
use actix_web::middleware::from_fn;
use actix_web::rt::net::TcpStream;
use actix_web::web::ServiceConfig;
use actix_web::{App, HttpServer};

use super::access_log::log_access;
use super::options::{HttpOptions, HttpState, Surface};
use super::routes;

/// Idle connections are kept for longer than the 60 s of common load balancers (AWS ALB's default), so that it is they
/// who close one and no request is sent into a closing connection.
const KEEP_ALIVE: Duration = Duration::from_secs(75);

/// Longest time that the kernel keeps data which the peer does not take. Longer than the longest answer may last (35 s
/// to start, 120 s to run, 17 s to end) and a stalled reader is waited for afterwards (30 s), so it never cuts a stream
/// that may still be read; it ends connections whose peer has vanished without a word.
const UNTAKEN_DATA: Duration = Duration::from_secs(210);

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

/// Serves whatever `configure` registers, with the connection rules of this service.
pub(crate) fn listen(
    listener: TcpListener,
    options: &HttpOptions,
    configure: impl Fn(&mut ServiceConfig) + Clone + Send + 'static,
) -> io::Result<Server> {
    let server = HttpServer::new(move || App::new().wrap(from_fn(log_access)).configure(configure.clone()))
        .workers(options.workers.max(1))
        .disable_signals()
        .shutdown_timeout(options.shutdown_timeout.as_secs())
        .keep_alive(KEEP_ALIVE)
        .client_request_timeout(options.head_timeout)
        .tls_handshake_timeout(options.head_timeout)
        // Small frames must not wait for the acknowledgement of the one before.
        .tcp_nodelay(true)
        // A client that has closed its side is gone, also while its answer has not begun: the handler is dropped, and
        // with it the exec. By default actix-web would notice only when it writes.
        .h1_allow_half_closed(false)
        .on_connect(|socket, _| limit_untaken_data(socket));
    let server = match &options.tls {
        None => server.listen(listener)?,
        Some(identity) => server.listen_rustls_0_23(listener, identity.server_config())?,
    };
    Ok(server.run())
}

/// Best effort: without it a vanished peer's connection ends with the kernel's own, longer, patience.
#[cfg(target_os = "linux")]
fn limit_untaken_data(socket: &dyn Any) {
    let milliseconds = u32::try_from(UNTAKEN_DATA.as_millis()).unwrap_or(u32::MAX);
    if let Some(stream) = tcp_stream(socket)
        && let Err(error) = rustix::net::sockopt::set_tcp_user_timeout(stream, milliseconds)
    {
        tracing::debug!(error = %error, "TCP_USER_TIMEOUT could not be set");
    }
}

/// Below TLS, where there is some.
#[cfg(target_os = "linux")]
fn tcp_stream(socket: &dyn Any) -> Option<&TcpStream> {
    match socket.downcast_ref::<TlsStream<TcpStream>>() {
        Some(encrypted) => Some(encrypted.get_ref().0),
        None => socket.downcast_ref(),
    }
}

#[cfg(not(target_os = "linux"))]
fn limit_untaken_data(_socket: &dyn Any) {}
