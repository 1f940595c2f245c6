//! `/admin`: what operators may see.

use actix_web::http::header::HeaderMap;
use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};
use serde_json::json;

use super::credentials;
use super::options::HttpState;
use super::problem::{Problem, ProblemCode};
use super::respond;
use crate::store::Authorization;

/// `GET /admin/tunnels`.
pub(crate) async fn list_tunnels(request: HttpRequest, state: Data<HttpState>) -> HttpResponse {
    if let Err(problem) = admit(&state, request.headers()).await {
        return problem.into_response();
    }
    respond::json(&json!({ "data": state.engine.tunnels().await }))
}

/// `GET /admin/tunnels/{instance_id}`: all instances with this id, which is one unless two regions share it.
pub(crate) async fn show_tunnels(request: HttpRequest, state: Data<HttpState>) -> HttpResponse {
    if let Err(problem) = admit(&state, request.headers()).await {
        return problem.into_response();
    }
    let found = state
        .engine
        .tunnels_of(request.match_info().query("instance_id"))
        .await;
    if found.is_empty() {
        respond::not_found()
    } else {
        respond::json(&json!({ "data": found }))
    }
}

/// Lets in admin tokens only. A tenant's token is told apart from none at all, so that its owner sees the mistake.
async fn admit(state: &HttpState, headers: &HeaderMap) -> Result<(), Problem> {
    let Some(token) = credentials::bearer(headers) else {
        return Err(Problem::new(ProblemCode::Unauthenticated));
    };
    if credentials::is_admin(&token, &state.options.admin_tokens) {
        return Ok(());
    }
    match state.store.authorize(token, None, state.options.tenant_org).await {
        Ok(Authorization::Known { .. }) => Err(Problem::new(ProblemCode::NotAdmin)),
        Ok(Authorization::UnknownToken) => Err(Problem::new(ProblemCode::Unauthenticated)),
        Err(error) => {
            // It is no admin token; which kind of refusal it gets is not worth an outage's 503.
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "a refused admin token could not be looked up"
            );
            Err(Problem::new(ProblemCode::Unauthenticated))
        }
    }
}
