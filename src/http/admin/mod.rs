//! `/admin`: what operators may see and do. Who is no operator is refused before anything else of the request is looked at.

pub(crate) mod execs;
pub(crate) mod host_keys;
mod region;
pub(crate) mod tunnels;

use std::fmt;
use std::net::IpAddr;

use actix_web::HttpRequest;

use super::options::HttpState;
use super::problem::{Problem, ProblemCode};
use super::{credentials, peer};
use crate::store::{Authorization, TokenHash};

/// Who was let in: admin tokens have no names, so the start of the token's SHA-256 and the address stand for the person.
#[derive(Debug)]
struct Operator {
    token: TokenHash,
    address: Option<IpAddr>,
}

impl fmt::Display for Operator {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // 32 bits tell two tokens apart; a token has 32 characters at least, so they help nobody to guess it.
        let [a, b, c, d, ..] = self.token;
        write!(formatter, "admin token sha256:{a:02x}{b:02x}{c:02x}{d:02x}")?;
        match self.address {
            Some(address) => write!(formatter, " from {address}"),
            None => Ok(()),
        }
    }
}

/// Lets in admin tokens only. A tenant's token is told apart from none at all, so that its owner sees the mistake.
async fn admit(request: &HttpRequest, state: &HttpState) -> Result<Operator, Problem> {
    let headers = request.headers();
    let Some(token) = credentials::bearer(headers) else {
        return Err(Problem::new(ProblemCode::Unauthenticated));
    };
    if credentials::is_admin(&token, &state.options.admin_tokens) {
        return Ok(Operator {
            token,
            address: peer::remote_addr(request.peer_addr(), headers, &state.options.trusted_proxies),
        });
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
