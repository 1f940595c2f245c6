//! What every store must do, whatever database it is: the tests of [`super::Store`], run by each implementation.
//!
//! An implementation gives a [`Harness`] on an empty database and calls `store_suite!` with the function that makes it.

pub(in crate::store) mod accounts;
pub(in crate::store) mod audit;
pub(in crate::store) mod execs;
pub(in crate::store) mod host_keys;
pub(in crate::store) mod tokens;
pub(in crate::store) mod upkeep;

use std::sync::Arc;

use adit_actors::audit::{AuditRow, AuditStore, Chore, RowStatus};
use adit_actors::clock::Clock;
use async_trait::async_trait;
use serde_json::{Value, json};
use uuid::Uuid;

use super::row::Columns;
use super::{NewToken, NewWorkspace, Store, TargetDefaults, TokenScope};

/// A store on an empty, migrated database, and a way past it.
pub(in crate::store) struct Harness {
    pub(in crate::store) store: Arc<dyn Store>,
    pub(in crate::store) database: Box<dyn Database>,
}

/// The database below the store, for what the store itself does not do.
#[async_trait]
pub(in crate::store) trait Database: Send + Sync {
    /// Runs one statement, in SQL that all databases share.
    async fn execute(&self, statement: &str);

    /// The same, for a statement that a CHECK may refuse: whether it was taken.
    async fn try_execute(&self, statement: &str) -> bool;

    /// The `activity_logs` rows, oldest first.
    async fn activities(&self) -> Vec<Activity>;
}

/// A row of `activity_logs` as it is stored.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::store) struct Activity {
    pub(in crate::store) id: Uuid,
    pub(in crate::store) workspace_id: Uuid,
    pub(in crate::store) activity_type: String,
    pub(in crate::store) method: Option<String>,
    pub(in crate::store) summary: Option<String>,
    pub(in crate::store) request_body: Option<Value>,
    pub(in crate::store) response_body: Option<Value>,
    pub(in crate::store) duration_ms: Option<i32>,
    pub(in crate::store) status: Option<String>,
    pub(in crate::store) error_detail: Option<String>,
}

impl Activity {
    pub(in crate::store) fn of(row: &impl Columns) -> Self {
        Self {
            id: row.uuid("id").unwrap().unwrap(),
            workspace_id: row.uuid("workspace_id").unwrap().unwrap(),
            activity_type: row.text("activity_type").unwrap().unwrap(),
            method: row.text("method").unwrap(),
            summary: row.text("summary").unwrap(),
            request_body: row.json("request_body").unwrap(),
            response_body: row.json("response_body").unwrap(),
            duration_ms: row.integer("duration_ms").unwrap(),
            status: row.text("status").unwrap(),
            error_detail: row.text("error_detail").unwrap(),
        }
    }
}

pub(in crate::store) fn defaults() -> TargetDefaults {
    TargetDefaults {
        region: "us-east-2".to_owned(),
        os_user: "ubuntu".to_owned(),
        port: 22,
    }
}

/// Runs every test of the suite on the harnesses that `$harness().await` makes, a fresh one each.
macro_rules! store_suite {
    ($harness:path) => {
        $crate::store::suite::store_suite!($harness:
            accounts::authorises_by_token_and_workspace,
            accounts::a_guard_opens_the_whole_store_to_org_tokens,
            accounts::revoked_tokens_are_unknown_at_once,
            accounts::removed_workspaces_are_invisible,
            accounts::a_bare_workspace_takes_the_defaults,
            accounts::lists_and_refusals_for_operators,
            audit::a_batch_is_written_whole,
            audit::a_begin_never_replaces_and_a_finish_always_does,
            audit::a_row_stays_with_the_try_that_began_it,
            audit::of_many_tries_at_once_one_gets_the_row,
            audit::a_poisoned_batch_writes_nothing,
            audit::another_writers_row_is_never_touched,
            upkeep::sweep_settles_only_old_running_execs,
            upkeep::a_late_finish_replaces_what_the_sweep_wrote,
            upkeep::retention_deletes_the_oldest_that_have_ended,
            upkeep::rows_are_due_page_by_page,
            upkeep::retention_keeps_the_attempts_of_a_key_together,
            execs::an_exec_is_read_back_as_it_was_written,
            execs::execs_are_listed_page_by_page,
            tokens::an_expired_token_is_unknown,
            tokens::uses_are_noted_coarsely,
            host_keys::the_first_host_key_holds,
            host_keys::an_operators_pin_replaces_and_first_use_does_not,
            host_keys::a_forgotten_pin_makes_room,
            host_keys::pins_are_listed_page_by_page,
            host_keys::only_an_operators_pin_has_an_author,
            audit::concurrent_writers_lose_nothing,
        );
    };
    ($harness:path: $($room:ident::$test:ident,)*) => {
        $(
            #[tokio::test]
            async fn $test() {
                $crate::store::suite::$room::$test($harness().await).await;
            }
        )*
    };
}
pub(super) use store_suite;

pub(in crate::store) fn workspace(name: &str, org_id: Option<Uuid>) -> NewWorkspace {
    NewWorkspace {
        id: Uuid::new_v4(),
        name: name.to_owned(),
        org_id,
        tier: 3,
        instance_id: Some("i-0123456789abcdef0".to_owned()),
        region: None,
        os_user: None,
        address: None,
        endpoint_id: None,
        endpoint_dns_name: None,
    }
}

fn token(scope: TokenScope, first: u8) -> NewToken {
    let mut hash = [0; 32];
    hash[0] = first;
    let name = matches!(scope, TokenScope::Org(_)).then(|| "ci".to_owned());
    NewToken {
        id: Uuid::new_v4(),
        scope,
        hash,
        prefix: format!("prefix{first:02}"),
        name,
        expires_at: None,
    }
}

pub(in crate::store) fn running(workspace_id: Uuid) -> AuditRow {
    AuditRow {
        id: Uuid::new_v4(),
        attempt_nonce: Uuid::new_v4(),
        body_hmac: None,
        workspace_id,
        status: RowStatus::Running,
        summary: "exec `true`".to_owned(),
        request_body: json!({"cmd": ["printf", "%s", "é\u{1f600}\"\\u0000\n"], "timeout_s": 30}),
        response_body: None,
        duration_ms: None,
        error_detail: None,
        created_at: Clock::system().now(),
    }
}

/// Does a chore to the first `limit` rows that it is due for.
pub(in crate::store) async fn perform(store: &dyn AuditStore, chore: Chore, limit: u32) -> Vec<Uuid> {
    let due = store.due(chore, None, limit).await.unwrap();
    let ids: Vec<_> = due.iter().map(|row| row.id).collect();
    store.perform(chore, &ids).await.unwrap()
}

async fn added(harness: &Harness, new: NewWorkspace) -> Uuid {
    harness.store.add_workspace(&new).await.unwrap();
    new.id
}

async fn issued(harness: &Harness, scope: TokenScope, first: u8) -> NewToken {
    let new = token(scope, first);
    harness.store.add_token(&new).await.unwrap();
    new
}
