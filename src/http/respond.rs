//! Small answers that several handlers give.

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::http::header::CACHE_CONTROL;
use serde::Serialize;

use super::problem::{NO_STORE, Problem, ProblemCode};

/// 200 with a JSON body.
pub(crate) fn json(body: &impl Serialize) -> HttpResponse {
    json_as(StatusCode::OK, body)
}

/// A JSON body with another status.
pub(crate) fn json_as(status: StatusCode, body: &impl Serialize) -> HttpResponse {
    HttpResponse::build(status)
        .insert_header((CACHE_CONTROL, NO_STORE))
        .json(body)
}

/// The one 404: whatever is not there, and whatever this caller may not know of.
pub(crate) fn not_found() -> HttpResponse {
    Problem::new(ProblemCode::NotFound).into_response()
}
