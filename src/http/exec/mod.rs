//! `POST /workspaces/{workspace_id}/exec`.
//!
//! [`admission`] decides whether the caller may run what it asks for; nothing has happened before it says yes, but that
//! the exec has its place among those in flight before [`read_body`] takes its body in.
//! [`answer`] turns what the exec does into one of the two forms. Whatever drops the answer's future or its body, drops
//! the exec's handle with it, and that cancels the exec.

mod admission;
mod answer;
mod events;
mod form;
mod frame_queue;
mod json_form;
mod outcome;
mod read_body;
mod request_body;
mod stream;
mod utf8_framer;

#[cfg(test)]
mod answer_tests;
#[cfg(test)]
mod request_body_tests;

use actix_web::web::{Data, Payload};
use actix_web::{HttpRequest, HttpResponse};

use super::access_log;
use super::options::HttpState;
use form::Form;
use read_body::read_body;

/// The handler.
pub(crate) async fn create(request: HttpRequest, payload: Payload, state: Data<HttpState>) -> HttpResponse {
    let options = &state.options;
    let known = match admission::admit_caller(&request, &state).await {
        Ok(known) => known,
        // The body is not read, so the connection can't go on; said always, so that no refusal differs from another
        // by whether the body was there already.
        Err(problem) => return problem.into_closing_response(),
    };
    let body = match read_body(payload, options.max_body, options.body_timeout).await {
        Ok(body) => body,
        Err(problem) => return problem.into_closing_response(),
    };
    let admitted = match admission::admit_exec(known, &request, &body, &state) {
        Ok(admitted) => admitted,
        Err(problem) => return problem.into_response(),
    };
    // The exec has what it needs of it, and may run for long.
    drop(body);
    access_log::name_exec(&request, admitted.spec.exec_id);
    let form = Form::asked_for(request.headers(), admitted.announce);
    let running = state.engine.run(admitted.spec, admitted.permit);
    answer::answer(running, form, options).await
}
