//! A service with one workspace, and rows of execs that no process of these tests runs.

use adit_actors::audit::{AuditRow, Half, RowStatus};
use adit_actors::engine::EngineSettings;
use adit_actors::exec::Exec;
use serde_json::json;
use time::OffsetDateTime;
use time::macros::datetime;
use uuid::Uuid;

use super::{ADMIN, Answer, Aws, Service};
use crate::http::{HttpOptions, Surface};
use crate::store::TokenScope;

/// When the execs of the rows were admitted.
pub(super) const ADMITTED: OffsetDateTime = datetime!(2026-01-02 03:04:05.123456 UTC);

/// Headers of an exec under a key.
pub(super) const KEY: [(&str, &str); 2] = [("content-type", "application/json"), ("idempotency-key", "k")];

/// A service with a workspace, and a token that opens it.
pub(super) struct House {
    pub(super) service: Service,
    pub(super) workspace: Uuid,
    pub(super) token_id: Uuid,
    pub(super) token: String,
}

impl House {
    pub(super) async fn with(options: HttpOptions) -> Self {
        let service = Service::with(options, EngineSettings::default(), Aws::default(), Surface::Both).await;
        let workspace = service.workspace(3, Some(service.org().await), true).await;
        let (token_id, token) = service.token(TokenScope::Workspace(workspace)).await;
        Self {
            service,
            workspace,
            token_id,
            token,
        }
    }

    pub(super) async fn new() -> Self {
        Self::with(HttpOptions::default()).await
    }

    /// A call below the workspace's execs.
    pub(super) async fn ask(&self, method: &str, rest: &str) -> Answer {
        let path = format!("/workspaces/{}/exec{rest}", self.workspace);
        self.service.ask(method, &path, Some(&self.token), &[], "").await
    }

    pub(super) async fn admin(&self, rest: &str) -> Answer {
        let path = format!("/admin/execs{rest}");
        self.service.ask("GET", &path, Some(ADMIN), &[], "").await
    }

    pub(super) async fn exec_under_key(&self, body: &str) -> Answer {
        let path = format!("/workspaces/{}/exec", self.workspace);
        self.service
            .ask("POST", &path, Some(&self.token), &KEY, body)
            .await
    }

    pub(super) fn begun(&self) -> AuditRow {
        AuditRow {
            id: Uuid::new_v4(),
            attempt_nonce: Uuid::new_v4(),
            body_hmac: None,
            workspace_id: self.workspace,
            status: RowStatus::Running,
            summary: "exec true: running".to_owned(),
            request_body: json!({ "cmd": ["true"], "timeout_s": 30, "actor": { "prefix": "12345678" } }),
            response_body: None,
            duration_ms: None,
            error_detail: None,
            created_at: ADMITTED,
        }
    }

    pub(super) async fn write(&self, half: Half, row: &AuditRow) {
        let rows = std::slice::from_ref(row);
        let foreign = self.service.store.write(half, rows).await.unwrap();
        assert!(foreign.is_empty());
    }

    pub(super) async fn write_ended(&self, row: AuditRow, status: RowStatus, exec: Exec) -> AuditRow {
        let mut body = json!(Exec {
            exec_id: row.id,
            ..exec
        });
        body["aws_request_ids"] = json!({ "key_push": "confidential" });
        let row = AuditRow {
            status,
            response_body: Some(body),
            error_detail: Some("grant_denied: the cause".to_owned()),
            ..row
        };
        self.write(Half::Finish, &row).await;
        row
    }
}
