//! `/workspaces/{workspace_id}/exec`: an exec, the list of them, and one that was asked for before.
//!
//! [`admission`] decides whether the caller may run what it asks for; nothing has happened before it says yes.
//! [`idempotent`] decides whether a request with an Idempotency-Key is the one that runs. [`answer`] turns what the exec does into one of the two forms. Whatever drops the answer's future or its body, drops
//! the exec's handle with it, and that cancels the exec.

mod admission;
mod answer;
mod attempts;
mod client_watch;
mod events;
mod form;
mod frame_queue;
mod idempotency_key;
mod idempotent;
pub(crate) mod json_form;
pub(crate) mod list;
pub(crate) mod one;
mod outcome;
mod pace;
pub(crate) mod request_body;
pub(crate) mod stored;
mod stream;
mod utf8_framer;

#[cfg(test)]
pub(crate) use idempotency_key::IdempotencyKey;

#[cfg(test)]
mod answer_tests;
#[cfg(test)]
mod request_body_tests;

use actix_web::web::{Data, Payload};
use actix_web::{HttpRequest, HttpResponse};

use super::access_log;
use super::options::HttpState;
use super::problem::Problem;
use super::read_body::discard_body;
use admission::Admitted;
use form::Form;
use idempotent::Turn;

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
        Err(problem) => {
            discard_body(&request, &mut payload, state.options.max_body).await;
            return problem.into_closing_response();
        }
    };
    let admitted = match admission::admit_exec(known, &request, &mut payload, &state).await {
        Ok(admitted) => admitted,
        Err(problem) => {
            discard_body(&request, &mut payload, state.options.max_body).await;
            return problem.into_response();
        }
    };
    let form = Form::asked_for(request.headers(), admitted.announce);
    let answering = async {
        match run(&state, admitted).await {
            Ok(Turn::Own(running)) => {
                access_log::name_exec(&request, running.exec_id());
                answer::answer(running, form, &state.options).await
            }
            Ok(Turn::Earlier(earlier)) => {
                access_log::name_exec(&request, earlier.exec_id);
                earlier.into_response(form)
            }
            Err(problem) => problem.into_response(),
        }
    };
    client_watch::watched(&request, payload, answering).await
}

async fn run(state: &HttpState, admitted: Admitted) -> Result<Turn, Problem> {
    let Admitted {
        spec, permit, key, ..
    } = admitted;
    match key {
        Some(key) => idempotent::take_turn(state, spec, permit, &key).await,
        None => Ok(Turn::Own(state.engine.run(spec, permit))),
    }
}
