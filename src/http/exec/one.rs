//! `/workspaces/{workspace_id}/exec/{exec_id}`: how an exec stands, and its end by its tenant's word.
//!
//! Tier, instance and the workspace's status do not matter here: what has run may be looked at, and what runs may be stopped,
//! also when nothing new may run.

use actix_web::http::StatusCode;
use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};
use adit_actors::exec::EndedBy;
use uuid::Uuid;

use super::answer;
use super::stored::{self, ExecObject};
use crate::http::options::HttpState;
use crate::http::problem::{Problem, ProblemCode};
use crate::http::tenant::{self, Tenant, hyphenated};
use crate::http::{access_log, respond};

/// `GET`.
pub(crate) async fn show(request: HttpRequest, state: Data<HttpState>) -> HttpResponse {
    shown(&request, &state)
        .await
        .unwrap_or_else(Problem::into_response)
}

async fn shown(request: &HttpRequest, state: &HttpState) -> Result<HttpResponse, Problem> {
    let named = admit(request, state).await?;
    let exec = find(state, &named).await?;
    Ok(named.answered(StatusCode::OK, &exec))
}

/// `DELETE`: 202 with the exec as it stood, whose end is on its way; 200 with one that had ended already.
pub(crate) async fn cancel(request: HttpRequest, state: Data<HttpState>) -> HttpResponse {
    // A body, which nobody reads, may follow.
    cancelled(&request, &state)
        .await
        .unwrap_or_else(Problem::into_closing_response)
}

async fn cancelled(request: &HttpRequest, state: &HttpState) -> Result<HttpResponse, Problem> {
    let named = admit(request, state).await?;
    let exec = find(state, &named).await?;
    if stored::has_ended(&exec) {
        return Ok(named.answered(StatusCode::OK, &exec));
    }
    if state
        .engine
        .cancel(named.exec_id, named.workspace_id(), EndedBy::Delete)
    {
        let caller = &named.tenant.caller;
        tracing::info!(
            exec.id = %named.exec_id,
            token.kind = ?caller.kind,
            token.id = %caller.id,
            "a tenant cancels an exec"
        );
        return Ok(named.answered(StatusCode::ACCEPTED, &exec));
    }
    // It may have ended meanwhile.
    let exec = find(state, &named).await?;
    if stored::has_ended(&exec) {
        Ok(named.answered(StatusCode::OK, &exec))
    } else {
        Ok(named.not_here(exec))
    }
}

/// An exec that the path names, of a workspace that the caller may know of.
struct Named<'a> {
    request: &'a HttpRequest,
    tenant: Tenant,
    exec_id: Uuid,
}

async fn admit<'a>(request: &'a HttpRequest, state: &HttpState) -> Result<Named<'a>, Problem> {
    let tenant = tenant::admit(request, state).await?;
    let exec_id = hyphenated(request.match_info().query("exec_id"))
        .ok_or_else(|| Problem::new(ProblemCode::NotFound))?;
    Ok(Named {
        request,
        tenant,
        exec_id,
    })
}

async fn find(state: &HttpState, named: &Named<'_>) -> Result<ExecObject, Problem> {
    let (exec_id, workspace_id) = (named.exec_id, named.workspace_id());
    // Without a query where it runs here, so that it can be looked at while the store is away.
    if let Some(exec) = stored::live(&state.engine, exec_id, workspace_id).await {
        return Ok(exec);
    }
    let row = state
        .store
        .exec(exec_id, Some(workspace_id))
        .await
        .map_err(|error| Problem::store_unavailable(&error, "an exec can't be looked up"))?;
    row.map(|row| stored::of_row(&row))
        .ok_or_else(|| Problem::new(ProblemCode::NotFound))
}

impl Named<'_> {
    fn workspace_id(&self) -> Uuid {
        self.tenant.workspace.id
    }

    fn answered(&self, status: StatusCode, exec: &ExecObject) -> HttpResponse {
        self.named(respond::json_as(status, exec))
    }

    /// A promise to cancel it would be empty: nobody passes the word on.
    fn not_here(&self, exec: ExecObject) -> HttpResponse {
        let problem = Problem::new(ProblemCode::ExecInProgress)
            .with_detail(
                "the exec does not run in the process that was asked, which can't cancel it: it runs in another replica, \
                 or its process died and it is settled soon",
            )
            .with_member("exec", exec.into());
        self.named(problem.into_response())
    }

    /// Once the exec is found to be the caller's.
    fn named(&self, response: HttpResponse) -> HttpResponse {
        access_log::name_exec(self.request, self.exec_id);
        answer::with_headers(response, self.exec_id)
    }
}
