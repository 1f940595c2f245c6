//! `POST /workspaces/{workspace_id}/exec`.
//!
//! [`admission`] decides whether the caller may run what it asks for; nothing has happened before it says yes.
//! [`answer`] turns what the exec does into one of the two forms. Whatever drops the answer's future or its body, drops
//! the exec's handle with it, and that cancels the exec.

mod admission;
mod answer;
mod client_watch;
mod events;
mod form;
mod frame_queue;
mod json_form;
mod outcome;
mod pace;
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

/// The handler.
pub(crate) async fn create(
    request: HttpRequest,
    mut payload: Payload,
    state: Data<HttpState>,
) -> HttpResponse {
    let known = match admission::admit_caller(&request, &state).await {
        Ok(known) => known,
        // The body is not read, so the connection can't go on; said always, so that no refusal differs from another
        // by whether the body was there already.
        Err(problem) => return problem.into_closing_response(),
    };
    let admitted = match admission::admit_exec(known, &request, &mut payload, &state).await {
        Ok(admitted) => admitted,
        Err(problem) => return problem.into_response(),
    };
    access_log::name_exec(&request, admitted.spec.exec_id);
    let form = Form::asked_for(request.headers(), admitted.announce);
    let running = state.engine.run(admitted.spec, admitted.permit);
    let answering = answer::answer(running, form, &state.options);
    client_watch::watched(&request, payload, answering).await
}
