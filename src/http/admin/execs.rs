//! `/admin/execs`: every workspace's execs, with what their tenants are not told.

use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};
use serde::Deserialize;
use serde_json::Value;
use uuid::Uuid;

use super::admit;
use crate::http::admin_wire::{ExecListing, ExecRecord};
use crate::http::exec::list::{Filters, as_they_stand, page};
use crate::http::exec::stored::{self, ExecObject};
use crate::http::options::HttpState;
use crate::http::problem::{Problem, ProblemCode};
use crate::http::tenant::hyphenated;
use crate::http::{paging, respond};
use crate::store::StoredExec;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    workspace_id: Option<String>,
    limit: Option<String>,
    cursor: Option<String>,
    status: Option<String>,
    since: Option<String>,
}

/// `GET /admin/execs`: newest first; of one workspace, where it is named, removed ones too.
pub(crate) async fn list(request: HttpRequest, state: Data<HttpState>) -> HttpResponse {
    match listing(&request, &state).await {
        Ok(listing) => respond::json(&listing),
        Err(problem) => problem.into_response(),
    }
}

async fn listing(request: &HttpRequest, state: &HttpState) -> Result<ExecListing, Problem> {
    admit(request, state).await?;
    let ListQuery {
        workspace_id,
        limit,
        cursor,
        status,
        since,
    } = paging::query(request)?;
    let workspace_id = workspace_id.as_deref().map(valid_workspace_id).transpose()?;
    let query = Filters {
        limit,
        cursor,
        status,
        since,
    }
    .of(workspace_id)?;
    let (rows, next_cursor) = page(state.store.as_ref(), query).await?;
    let execs = as_they_stand(&state.engine, &rows).await;
    let data = rows.into_iter().zip(execs);
    Ok(ExecListing {
        data: data.map(|(row, exec)| record(row, exec)).collect(),
        next_cursor,
    })
}

fn valid_workspace_id(text: &str) -> Result<Uuid, Problem> {
    hyphenated(text).ok_or_else(|| {
        Problem::invalid("`workspace_id`: must be a UUID as in `0b0f7c9e-52a1-4a0e-9a39-0c1f5f7b0a11`")
    })
}

/// `GET /admin/execs/{exec_id}`.
pub(crate) async fn show(request: HttpRequest, state: Data<HttpState>) -> HttpResponse {
    match shown(&request, &state).await {
        Ok(record) => respond::json(&record),
        Err(problem) => problem.into_response(),
    }
}

async fn shown(request: &HttpRequest, state: &HttpState) -> Result<ExecRecord, Problem> {
    admit(request, state).await?;
    let not_found = || Problem::new(ProblemCode::NotFound);
    let exec_id = hyphenated(request.match_info().query("exec_id")).ok_or_else(not_found)?;
    let row = state
        .store
        .exec(exec_id, None)
        .await
        .map_err(|error| Problem::store_unavailable(&error, "an exec can't be looked up"))?
        .ok_or_else(not_found)?;
    let exec = stored::as_it_stands(&state.engine, &row).await;
    Ok(record(row, exec))
}

fn record(row: StoredExec, exec: ExecObject) -> ExecRecord {
    let aws_request_ids = row
        .response_body
        .as_ref()
        .and_then(|body| body.get("aws_request_ids"))
        .filter(|ids| **ids != Value::Null);
    ExecRecord {
        workspace_id: row.workspace_id,
        status: row.status,
        created_at: row.created_at,
        summary: row.summary,
        request_body: row.request_body,
        error_detail: row.error_detail,
        aws_request_ids: aws_request_ids.cloned(),
        exec,
    }
}
