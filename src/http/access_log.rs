//! One log line for each request, once its answer is out or its client gone; and the caller's ids on each answer.
//!
//! The line has no path, query, header or body: a path that was typed wrongly may hold a token.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::Method;
use actix_web::middleware::Next;
use actix_web::web::Data;
use actix_web::{Error, HttpMessage, HttpRequest};
use bytes::Bytes;
use tokio::time::Instant;
use tokio_util::task::task_tracker::TaskTrackerToken;
use uuid::Uuid;

use super::options::HttpState;
use super::request_ids::RequestIds;

/// What a handler tells the log of its request. Shared with the line, which outlives a handler that is dropped because
/// its client has gone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Subject(Rc<RefCell<Named>>);

#[derive(Debug, Default)]
struct Named {
    route: Option<String>,
    workspace_id: Option<Uuid>,
    exec_id: Option<Uuid>,
    client_left: bool,
}

impl Subject {
    /// That of a request.
    pub(crate) fn of(request: &HttpRequest) -> Option<Self> {
        request.extensions().get::<Self>().cloned()
    }

    /// The client has gone and takes nothing more of its answer.
    pub(crate) fn client_left(&self) {
        self.0.borrow_mut().client_left = true;
    }

    fn update(request: &HttpRequest, change: impl FnOnce(&mut Named)) {
        if let Some(Self(named)) = Self::of(request) {
            change(&mut named.borrow_mut());
        }
    }
}

/// Names the workspace in the request's log line; only once the caller is known to have a right to it.
pub(crate) fn name_workspace(request: &HttpRequest, workspace_id: Uuid) {
    Subject::update(request, |named| {
        named.workspace_id = Some(workspace_id);
        named.route = request.match_pattern();
    });
}

/// Names the exec in the request's log line.
pub(crate) fn name_exec(request: &HttpRequest, exec_id: Uuid) {
    Subject::update(request, |named| named.exec_id = Some(exec_id));
}

/// The middleware.
pub(crate) async fn log_access(
    request: ServiceRequest,
    next: Next<BoxBody>,
) -> Result<ServiceResponse<LoggedBody>, Error> {
    let ids = RequestIds::read(request.headers());
    let subject = Subject::default();
    let state = request.app_data::<Data<HttpState>>();
    request.extensions_mut().insert(subject.clone());
    let mut line = Line {
        method: request.method().clone(),
        status: None,
        subject,
        request_id: ids.request_id().map(str::to_owned),
        begun: Instant::now(),
        finished: false,
        _unanswered: state.map(|state| state.answers.token()),
    };
    let mut response = next.call(request).await?;
    line.status = {
        let mut named = line.subject.0.borrow_mut();
        named.route = response.request().match_pattern();
        (!named.client_left).then(|| response.status().as_u16())
    };
    ids.write(response.headers_mut());
    Ok(response.map_body(|_, body| LoggedBody { body, line }))
}

/// A body that writes the log line when it is gone.
#[derive(Debug)]
pub(crate) struct LoggedBody {
    body: BoxBody,
    line: Line,
}

impl MessageBody for LoggedBody {
    type Error = <BoxBody as MessageBody>::Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        let polled = Pin::new(&mut self.body).poll_next(context);
        if let Poll::Ready(None) = &polled {
            self.line.finished = true;
        }
        polled
    }
}

/// The line, written by its drop so that a client which went away while the head was held is logged too.
#[derive(Debug)]
struct Line {
    method: Method,
    status: Option<u16>,
    subject: Subject,
    request_id: Option<String>,
    begun: Instant,
    finished: bool,
    _unanswered: Option<TaskTrackerToken>,
}

impl Drop for Line {
    fn drop(&mut self) {
        let named = self.subject.0.borrow();
        tracing::info!(
            http.method = %self.method,
            http.route = named.route.as_deref(),
            http.status = self.status,
            http.finished = self.finished && !named.client_left,
            duration_ms = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX),
            workspace.id = named.workspace_id.map(tracing::field::display),
            exec.id = named.exec_id.map(tracing::field::display),
            request.id = self.request_id.as_deref(),
            "{}",
            if self.status.is_some() { "request answered" } else { "client left before its answer" }
        );
    }
}
