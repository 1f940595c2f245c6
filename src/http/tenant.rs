//! Who asks, and for which workspace: what stands before every route of the tenants' API.

use actix_web::HttpRequest;
use adit_actors::exec::Caller;
use uuid::Uuid;

use super::options::HttpState;
use super::problem::{Problem, ProblemCode};
use super::{access_log, credentials, tenant_guard};
use crate::store::{Authorization, Workspace};

/// A caller that may know of a workspace.
#[derive(Debug)]
pub(crate) struct Tenant {
    /// Who asks.
    pub(crate) caller: Caller,
    /// The org whose limits count.
    pub(crate) org_id: Option<Uuid>,
    /// The workspace of the path. It is not removed; its tier and status are not looked at.
    pub(crate) workspace: Workspace,
}

/// Tenant guard, token, workspace, in this order.
pub(crate) async fn admit(request: &HttpRequest, state: &HttpState) -> Result<Tenant, Problem> {
    if !tenant_guard::admits(&state.options, request.headers()) {
        return Err(Problem::new(ProblemCode::NotFound));
    }
    let tenant = identify(request, state).await?;
    access_log::name_workspace(request, tenant.workspace.id);
    Ok(tenant)
}

async fn identify(request: &HttpRequest, state: &HttpState) -> Result<Tenant, Problem> {
    let Some(token) = credentials::bearer(request.headers()) else {
        return Err(Problem::new(ProblemCode::Unauthenticated));
    };
    let workspace_id = hyphenated(request.match_info().query("workspace_id"));
    let authorization = state
        .store
        .authorize(token, workspace_id, state.options.tenant_org)
        .await
        .map_err(|error| Problem::store_unavailable(&error, "a token can't be looked up"))?;
    let Authorization::Known {
        caller,
        org_id,
        workspace,
    } = authorization
    else {
        return Err(Problem::new(ProblemCode::Unauthenticated));
    };
    state.token_uses.note(caller.kind, caller.id);
    match workspace {
        Some(workspace) => Ok(Tenant {
            caller,
            org_id,
            workspace,
        }),
        None => Err(Problem::new(ProblemCode::NotFound)),
    }
}

/// An id in a path, in the hyphenated form only: one workspace or exec, one path.
pub(crate) fn hyphenated(text: &str) -> Option<Uuid> {
    (text.len() == uuid::fmt::Hyphenated::LENGTH)
        .then(|| Uuid::try_parse(text).ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::hyphenated;

    #[test]
    fn only_hyphenated_uuids_name_something() {
        for (text, valid) in [
            ("0b0f7c9e-52a1-4a0e-9a39-0c1f5f7b0a11", true),
            ("0B0F7C9E-52A1-4A0E-9A39-0C1F5F7B0A11", true),
            ("0b0f7c9e52a14a0e9a390c1f5f7b0a11", false),
            ("{0b0f7c9e-52a1-4a0e-9a39-0c1f5f7b0a11}", false),
            ("x", false),
            ("", false),
        ] {
            assert_eq!(hyphenated(text).is_some(), valid, "{text:?}");
        }
    }
}
