//! `/admin/tunnels`: what the pool does, and what an operator may have it do.

use actix_web::http::StatusCode;
use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};
use adit_actors::tunnel::{EndpointSnapshot, InstanceSnapshot};

use super::region::region;
use super::{Operator, admit};
use crate::http::admin_wire::TunnelListing;
use crate::http::options::HttpState;
use crate::http::problem::{Problem, ProblemCode};
use crate::http::respond;

/// `GET /admin/tunnels`: of one region, where it is named.
pub(crate) async fn list(request: HttpRequest, state: Data<HttpState>) -> HttpResponse {
    match listing(&request, &state).await {
        Ok(listing) => respond::json(&listing),
        Err(problem) => problem.into_response(),
    }
}

async fn listing(request: &HttpRequest, state: &HttpState) -> Result<TunnelListing, Problem> {
    admit(request, state).await?;
    let region = region(request)?;
    let is_wanted = |of: &str| region.as_deref().is_none_or(|region| region == of);
    let mut data = state.engine.tunnels().await;
    data.retain(|instance| is_wanted(&instance.region));
    let mut endpoints = state.engine.endpoints().await;
    endpoints.retain(|endpoint| is_wanted(&endpoint.region));
    Ok(TunnelListing { data, endpoints })
}

/// `GET /admin/tunnels/{instance_id}`: all logins on all instances with this id, which is one unless two regions share it.
/// This and the changes below concern one region only, where it is named.
pub(crate) async fn show(request: HttpRequest, state: Data<HttpState>) -> HttpResponse {
    match admit_named(&request, &state).await {
        Ok((_, named)) => answered(&state, &named, StatusCode::OK).await,
        Err(problem) => problem.into_response(),
    }
}

/// `POST /admin/tunnels/{instance_id}/drain`: no new exec gets on the instance's present tunnels. An instance that has none
/// just now is no error: what was asked for holds.
pub(crate) async fn drain(request: HttpRequest, state: Data<HttpState>) -> HttpResponse {
    let (operator, named) = match admit_named(&request, &state).await {
        Ok(admitted) => admitted,
        Err(problem) => return problem.into_closing_response(),
    };
    let (instance_id, region) = (named.instance_id, named.region.as_deref());
    if state.engine.drain(instance_id, region) == 0 {
        return unknown_instance();
    }
    tracing::info!(instance_id, region, %operator, "an operator drains an instance's tunnels");
    answered(&state, &named, StatusCode::ACCEPTED).await
}

/// `DELETE /admin/tunnels/{instance_id}`: the same, and the execs there end as cancelled.
pub(crate) async fn evict(request: HttpRequest, state: Data<HttpState>) -> HttpResponse {
    let (operator, named) = match admit_named(&request, &state).await {
        Ok(admitted) => admitted,
        Err(problem) => return problem.into_closing_response(),
    };
    let (instance_id, region) = (named.instance_id, named.region.as_deref());
    if state.engine.evict(instance_id, region) == 0 {
        return unknown_instance();
    }
    tracing::info!(instance_id, region, %operator, "an operator evicts an instance's tunnels");
    answered(&state, &named, StatusCode::ACCEPTED).await
}

/// Which instance is meant.
struct Named<'a> {
    instance_id: &'a str,
    /// None is all of them.
    region: Option<String>,
}

async fn admit_named<'a>(
    request: &'a HttpRequest,
    state: &HttpState,
) -> Result<(Operator, Named<'a>), Problem> {
    let operator = admit(request, state).await?;
    let named = Named {
        instance_id: request.match_info().query("instance_id"),
        region: region(request)?,
    };
    Ok((operator, named))
}

/// The snapshots: 202 with what a change has begun, which takes as long as the execs on the tunnels.
async fn answered(state: &HttpState, named: &Named<'_>, status: StatusCode) -> HttpResponse {
    let data = state
        .engine
        .tunnels_of(named.instance_id, named.region.as_deref())
        .await;
    if data.is_empty() && status == StatusCode::OK {
        return unknown_instance();
    }
    let mut endpoints = state.engine.endpoints().await;
    endpoints.retain(|endpoint| concerns(endpoint, &data));
    respond::json_as(status, &TunnelListing { data, endpoints })
}

fn unknown_instance() -> HttpResponse {
    Problem::new(ProblemCode::NotFound)
        .with_detail("this service has not asked for a tunnel to this instance")
        .into_response()
}

/// Whether one of the instances has a tunnel through the endpoint, or waits for one.
fn concerns(endpoint: &EndpointSnapshot, instances: &[InstanceSnapshot]) -> bool {
    instances
        .iter()
        .filter(|instance| instance.region == endpoint.region)
        .any(|instance| {
            let is_instance = |id: &str| instance.instance_id == id;
            let goes_through = instance
                .tunnels
                .iter()
                .any(|tunnel| tunnel.endpoint_id.as_deref() == Some(endpoint.endpoint_id.as_str()));
            goes_through
                || endpoint
                    .holders
                    .iter()
                    .any(|holder| is_instance(&holder.instance_id))
                || endpoint
                    .waiting
                    .iter()
                    .any(|waiter| is_instance(&waiter.instance_id))
        })
}

#[cfg(test)]
mod tests {
    use adit_actors::tunnel::{EndpointSnapshot, InstanceSnapshot};
    use serde_json::{Value, json};

    use super::concerns;

    fn instance(region: &str, tunnels: Value) -> InstanceSnapshot {
        serde_json::from_value(json!({
            "region": region, "instance_id": "i-1", "os_user": "ubuntu", "generation": 1, "waiters": 0,
            "longest_wait_s": null, "waiting_for": null, "tunnels": tunnels, "grant": null, "failures": 0,
            "retry_in_s": null, "last_error": null,
        }))
        .unwrap()
    }

    fn endpoint(holders: Value, waiting: Value) -> EndpointSnapshot {
        serde_json::from_value(json!({
            "region": "us-east-2", "endpoint_id": "eice-1", "limit": 16, "configured_limit": 16,
            "reserved_for_successors": 2, "in_use": 1, "retry_in_s": null, "holders": holders, "waiting": waiting,
        }))
        .unwrap()
    }

    #[test]
    fn an_instance_has_the_endpoints_that_it_uses_or_waits_for() {
        let tunnel = json!([{
            "tunnel_id": 1, "state": "ready", "purpose": "first", "endpoint_id": "eice-1", "refcount": 0,
            "channels_in_use": 0, "channel_cap": 10, "age_s": 1.0, "remaining_life_s": null, "replaced_in_s": null,
            "idle_s": null, "bytes_in": 0, "bytes_out": 0, "open_tunnel_request_id": null, "key_push_request_id": null,
        }]);
        let holder =
            |id: &str| json!([{ "instance_id": id, "os_user": "u", "tunnel_id": 1, "idle_s": null }]);
        let waiter =
            |id: &str| json!([{ "instance_id": id, "os_user": "u", "purpose": "first", "waiting_s": 1.0 }]);
        let nobody = || json!([]);
        for (region, tunnels, holders, waiting, expected) in [
            ("us-east-2", tunnel.clone(), nobody(), nobody(), true),
            ("us-west-2", tunnel, holder("i-1"), waiter("i-1"), false),
            ("us-east-2", nobody(), holder("i-1"), nobody(), true),
            ("us-east-2", nobody(), nobody(), waiter("i-1"), true),
            ("us-east-2", nobody(), holder("i-2"), waiter("i-2"), false),
        ] {
            let (endpoint, instance) = (endpoint(holders, waiting), instance(region, tunnels));
            assert_eq!(concerns(&endpoint, &[instance]), expected, "{endpoint:?}");
            assert!(!concerns(&endpoint, &[]));
        }
    }
}
