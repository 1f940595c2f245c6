//! Whether a request may run what it asks for. The order of the checks is part of the contract: each refusal tells
//! only what the caller may know by then, and nothing of a body is looked at for a caller who may not know that the
//! workspace exists.

use actix_web::HttpRequest;
use actix_web::web::Payload;
use adit_actors::engine::{AdmissionScope, Permit, TooManyExecs};
use adit_actors::exec::{Caller, ErrorCode, ExecSpec};
use adit_actors::instance::InstanceTarget;
use uuid::Uuid;

use super::idempotency_key::IdempotencyKey;
use super::request_body;
use crate::http::host_access::may_exec_on_host;
use crate::http::options::HttpState;
use crate::http::peer;
use crate::http::problem::{Problem, ProblemCode};
use crate::http::read_body::{check_declared_length, check_media_type, read_body};
use crate::http::request_ids::RequestIds;
use crate::http::tenant::{self, Tenant};
use crate::store::Workspace;

/// A request that has passed every check.
#[derive(Debug)]
pub(crate) struct Admitted {
    /// What to run.
    pub(crate) spec: ExecSpec,
    /// Its place among the execs in flight.
    pub(crate) permit: Permit,
    /// Whether the caller wants the head as soon as the program runs.
    pub(crate) announce: bool,
    /// Under which key, if any: then the exec gets another id.
    pub(crate) key: Option<IdempotencyKey>,
}

/// A caller that may run something in a workspace, and where.
pub(crate) struct Known {
    caller: Caller,
    workspace_id: Uuid,
    target: InstanceTarget,
    permit: Permit,
}

/// What can be checked without the body, in order: tenant guard, token, workspace, tier, instance, media type, declared
/// length, limits. The limits come before the body and not after it, so that they bound the bodies that are being read
/// as well: otherwise one token could hold any number of them in memory.
pub(crate) async fn admit_caller(request: &HttpRequest, state: &HttpState) -> Result<Known, Problem> {
    let Tenant {
        caller,
        org_id,
        workspace,
    } = tenant::admit(request, state).await?;
    let target = check_workspace(&workspace)?;
    check_media_type(request.headers())?;
    check_declared_length(request.headers(), state.options.max_body)?;
    let permit = check_limits(state, &caller, org_id)?;
    Ok(Known {
        caller,
        workspace_id: workspace.id,
        target,
        permit,
    })
}

/// The rest: the body, and the Idempotency-Key.
pub(crate) async fn admit_exec(
    known: Known,
    request: &HttpRequest,
    payload: &mut Payload,
    state: &HttpState,
) -> Result<Admitted, Problem> {
    let options = &state.options;
    let headers = request.headers();
    let body = read_body(payload, options.max_body, options.body_timeout).await?;
    let body = request_body::parse(&body)?;
    let key = IdempotencyKey::of(headers)?;
    let spec = ExecSpec {
        exec_id: Uuid::new_v4(),
        workspace_id: known.workspace_id,
        target: known.target,
        request: body.request,
        caller: known.caller,
        remote_addr: peer::remote_addr(request.peer_addr(), headers, &options.trusted_proxies),
        request_id: RequestIds::read(headers).request_id().map(str::to_owned),
        body_hmac: None,
    };
    Ok(Admitted {
        spec,
        permit: known.permit,
        announce: body.announce,
        key,
    })
}

/// Tier, then instance. A workspace whose agent is `failed`, `degraded` or `offline` stays reachable: that is when one
/// wants to look at its machine. Only the statuses in which there is no running machine are refused.
fn check_workspace(workspace: &Workspace) -> Result<InstanceTarget, Problem> {
    if !may_exec_on_host(workspace) {
        return Err(Problem::new(ProblemCode::TierForbidden));
    }
    let Some(target) = &workspace.target else {
        return Err(Problem::new(ProblemCode::NoInstance));
    };
    match workspace.status.as_str() {
        "paused" | "hibernated" | "provisioning" => Err(Problem::new(ErrorCode::InstanceNotRunning)),
        _ => Ok(target.clone()),
    }
}

fn check_limits(state: &HttpState, caller: &Caller, org_id: Option<Uuid>) -> Result<Permit, Problem> {
    if state.engine.is_shutting_down() {
        return Err(Problem::new(ErrorCode::ShuttingDown));
    }
    state
        .engine
        .admit(caller.id, org_id)
        .map_err(|TooManyExecs { scope }| {
            Problem::new(match scope {
                AdmissionScope::Token | AdmissionScope::Org => ErrorCode::TooManyExecs,
                AdmissionScope::Process => ErrorCode::InstanceBusy,
            })
        })
}

#[cfg(test)]
mod tests {
    use super::check_workspace;
    use crate::http::test_support::workspace;
    use crate::store::Workspace;

    #[test]
    fn tier_is_checked_before_the_instance_and_the_instance_before_its_status() {
        let target = workspace().target;
        let table = [
            (1, None, "online", Some("tier_forbidden")),
            (2, target.clone(), "paused", Some("tier_forbidden")),
            (3, None, "paused", Some("no_instance")),
            (3, target.clone(), "paused", Some("instance_not_running")),
            (4, target.clone(), "hibernated", Some("instance_not_running")),
            (4, target.clone(), "provisioning", Some("instance_not_running")),
            (3, target.clone(), "online", None),
            (3, target.clone(), "failed", None),
            (3, target.clone(), "degraded", None),
            (4, target.clone(), "offline", None),
            (4, target, "some new status", None),
        ];
        for (tier, target, status, refusal) in table {
            let workspace = Workspace {
                tier,
                target,
                status: status.to_owned(),
                ..workspace()
            };
            let refused = check_workspace(&workspace)
                .err()
                .map(|problem| problem.code().as_str());
            assert_eq!(refused, refusal, "tier {tier}, {status}");
        }
    }
}
