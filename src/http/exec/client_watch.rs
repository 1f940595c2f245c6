//! Notices that the client of a request has gone.
//!
//! On HTTP/1 actix-web drops the handler, or its body, when the connection ends; that the end is seen in any case is the
//! [`Connection`]'s part. On HTTP/2 it runs them in a task that notices a reset stream or a lost connection only when it
//! sends, which a silent exec does not. The request's own payload knows: h2 answers with an error for a stream that was
//! reset, or whose connection is gone, also after the request has been received to its end. It wakes nobody for it, so it
//! is asked from time to time.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::http::{ConnectionType, Version};
use actix_web::web::Payload;
use actix_web::{HttpRequest, HttpResponse};
use bytes::Bytes;
use futures_util::Stream as _;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use crate::http::access_log::Subject;
use crate::http::connection::{Answering, Connection};

/// How long a program may run on before it is noticed that nobody waits for it. One look is a lock and a timer: with all
/// of a process's execs in flight (4,096) they are some 16,000 a second.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Runs `answering`, which must be dropped for a client that has gone, and so must the body that it answers with.
/// `payload` is the request's, read to its end.
pub(crate) async fn watched(
    request: &HttpRequest,
    payload: Payload,
    answering: impl Future<Output = HttpResponse>,
) -> HttpResponse {
    let mut watch = if request.version() == Version::HTTP_2 {
        ClientWatch::OfStream(StreamWatch::new(payload, Subject::of(request)))
    } else {
        ClientWatch::OfConnection {
            _answering: Connection::of(request).map(|connection| connection.answering()),
        }
    };
    let mut response = tokio::select! {
        biased;
        response = answering => response,
        // Nobody receives this.
        () = poll_fn(|context| watch.poll_gone(context)) => return HttpResponse::BadRequest().finish(),
    };
    if response.body().size() != BodySize::Stream {
        // It is whole, so its exec has ended.
        return response;
    }
    if request.version() < Version::HTTP_11 {
        end_with_the_connection(&mut response);
    }
    response.map_body(|_, body| {
        BoxBody::new(WatchedBody {
            body: Some(body),
            watch,
        })
    })
}

/// HTTP/1.0 has no chunks, and a server must not send it any (RFC 9112 section 6.1): its bodies of unknown length end
/// where the connection does.
fn end_with_the_connection(response: &mut HttpResponse) {
    let head = response.head_mut();
    head.no_chunking(true);
    head.set_connection_type(ConnectionType::Close);
}

enum ClientWatch {
    /// HTTP/1: the connection is watched, and what waits here is dropped with it.
    OfConnection { _answering: Option<Answering> },
    /// HTTP/2.
    OfStream(StreamWatch),
}

impl ClientWatch {
    /// Ready once the client has gone.
    fn poll_gone(&mut self, context: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::OfConnection { .. } => Poll::Pending,
            Self::OfStream(watch) => watch.poll_gone(context),
        }
    }
}

struct StreamWatch {
    payload: Payload,
    looks: Interval,
    subject: Option<Subject>,
}

impl StreamWatch {
    fn new(payload: Payload, subject: Option<Subject>) -> Self {
        let mut looks = interval_at(Instant::now() + LOOK_EVERY, LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            payload,
            looks,
            subject,
        }
    }

    /// Ready once the client has gone.
    fn poll_gone(&mut self, context: &mut Context<'_>) -> Poll<()> {
        loop {
            ready!(self.looks.poll_tick(context));
            if let Poll::Ready(Some(Err(_))) = Pin::new(&mut self.payload).poll_next(context) {
                if let Some(subject) = &self.subject {
                    subject.client_left();
                }
                return Poll::Ready(());
            }
        }
    }
}

/// A body that is dropped, and over, when the client has gone.
struct WatchedBody {
    body: Option<BoxBody>,
    watch: ClientWatch,
}

impl MessageBody for WatchedBody {
    type Error = <BoxBody as MessageBody>::Error;

    fn size(&self) -> BodySize {
        self.body.as_ref().map_or(BodySize::None, MessageBody::size)
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        let Some(body) = &mut self.body else {
            return Poll::Ready(None);
        };
        if let Poll::Ready(polled) = Pin::new(body).poll_next(context) {
            return Poll::Ready(polled);
        }
        ready!(self.watch.poll_gone(context));
        self.body = None;
        Poll::Ready(None)
    }
}
