//! Audit rows in PostgreSQL: a batch is one statement, and therefore one transaction.

use adit_actors::audit::{AuditRow, AuditStore, AuditStoreError, Chore, DueRow, Half};
use async_trait::async_trait;
use sqlx::Row;
use sqlx::postgres::PgRow;
use sqlx::types::Json;
use uuid::Uuid;

use super::PostgresStore;
use super::connections::Statement;
use crate::store::{audit_rows, failure};

/// The rows of a batch, locked in the order of their ids: batches that share some can't deadlock.
macro_rules! insert {
    () => {
        "
    INSERT INTO activity_logs (id, adit_attempt_nonce, adit_body_hmac, workspace_id, activity_type, method, summary,
                               request_body, response_body, duration_ms, status, error_detail, created_at)
    SELECT id, nonce, hmac, workspace_id, 'exec', 'POST /workspaces/:id/exec', summary, request, response, duration_ms,
           status, error_detail, created_at
    FROM unnest($1::UUID[], $2::UUID[], $3::BYTEA[], $4::UUID[], $5::TEXT[], $6::JSONB[], $7::JSONB[], $8::INTEGER[],
                $9::TEXT[], $10::TEXT[], $11::TIMESTAMPTZ[])
        AS batch (id, nonce, hmac, workspace_id, summary, request, response, duration_ms, status, error_detail,
                  created_at)
    ORDER BY id"
    };
}

pub(super) const BEGIN: &str = concat!(insert!(), audit_rows::begin_on_conflict!());

pub(super) const FINISH: &str = concat!(insert!(), audit_rows::finish_on_conflict!());

/// Does what a begin and a final row need, by their own statements, for a workspace that is there, and takes it back. What
/// the host has added to its tables since (a column that must not be null, a check, a trigger) may refuse any row of ours.
///
/// It passes where one workspace of a few takes both rows, whatever is wrong with the others: somebody's lock, a rule. They are
/// those that were served last and some more, in any order, so that no one of them can make every probe late. A lock is
/// waited for shortly, but that of the table, which an INSERT of no rows meets, for as long as a batch would.
///
/// It commits, for that must reach the disk: a message that goes into the write-ahead log and that nobody reads.
const PROBE: &str = concat!(
    "DO $probe$
    DECLARE
        row_id CONSTANT UUID := gen_random_uuid();
        picked UUID;
        state TEXT;
        problem TEXT;
    BEGIN
        PERFORM pg_logical_emit_message(true, 'adit', 'probe');
        INSERT INTO activity_logs (workspace_id, activity_type) SELECT row_id, 'exec' WHERE false;
        PERFORM set_config('lock_timeout', '50ms', true);
        FOR picked IN
            SELECT id FROM (
                (SELECT workspace_id AS id FROM activity_logs WHERE activity_type = 'exec'
                 ORDER BY created_at DESC, id DESC LIMIT 5)
                UNION (SELECT id FROM workspaces LIMIT 5)) AS candidates
            ORDER BY random()
        LOOP
            BEGIN
                EXECUTE $statement$",
    insert!(),
    audit_rows::begin_on_conflict!(),
    "$statement$ USING
                    ARRAY[row_id], ARRAY[row_id], ARRAY[NULL]::BYTEA[], ARRAY[picked], ARRAY['probe'],
                    ARRAY['{}'::JSONB], ARRAY[NULL]::JSONB[], ARRAY[NULL]::INTEGER[], ARRAY['running'],
                    ARRAY[NULL]::TEXT[], ARRAY[now()];
                EXECUTE $statement$",
    insert!(),
    audit_rows::finish_on_conflict!(),
    "$statement$ USING
                    ARRAY[row_id], ARRAY[row_id], ARRAY[NULL]::BYTEA[], ARRAY[picked], ARRAY['probe'],
                    ARRAY['{}'::JSONB], ARRAY['{}'::JSONB], ARRAY[0], ARRAY['ok'],
                    ARRAY[NULL]::TEXT[], ARRAY[now()];
                -- What would be looked at by the commit, which this has none of.
                SET CONSTRAINTS ALL IMMEDIATE;
                RAISE SQLSTATE 'ADIT0';
            EXCEPTION
                WHEN SQLSTATE 'ADIT0' THEN
                    RETURN;
                WHEN OTHERS THEN
                    GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, problem = MESSAGE_TEXT;
            END;
        END LOOP;
        IF state IS NOT NULL THEN
            RAISE EXCEPTION USING ERRCODE = state, MESSAGE = problem;
        END IF;
    END
    $probe$"
);

/// Still running, and begun more than `$1` seconds ago.
macro_rules! is_orphan {
    () => {
        "activity_type = 'exec' AND status = 'running' AND created_at < now() - make_interval(secs => $1)"
    };
}

/// Ended, and begun more than `$1` seconds ago. The attempts of one Idempotency-Key in one workspace have one HMAC. All of them stay
/// until the last is old: a key's attempts are counted from the first, so without that one the command would run again.
macro_rules! is_expired {
    () => {
        "activity_type = 'exec' AND status <> 'running' AND created_at < now() - make_interval(secs => $1)
          AND NOT EXISTS (
              SELECT FROM activity_logs AS later
              WHERE later.activity_type = 'exec' AND later.adit_body_hmac = old.adit_body_hmac
                AND later.workspace_id = old.workspace_id
                AND (later.status = 'running' OR later.created_at >= now() - make_interval(secs => $1)))"
    };
}

/// Of `old`: `$2` and `$3` time and id of the row to go on after, `$4` how many.
macro_rules! due {
    ($condition:expr) => {
        concat!(
            "
    SELECT created_at, id, workspace_id FROM activity_logs AS old
    WHERE ",
            $condition,
            "
      AND (created_at, id) > ($2, $3)
    ORDER BY created_at, id LIMIT $4"
        )
    };
}

pub(super) const ORPHANS: &str = due!(is_orphan!());

pub(super) const EXPIRED: &str = due!(is_expired!());

/// `$2` ids. What nobody knows any more (output, duration, timing) is null in the settled `Exec`: a zero would be a claim.
/// The summary's words are those of a final row that knows no end (`audit_row` of `adit-actors`). A row that another
/// replica's sweep or a late finish holds is theirs.
pub(super) const SETTLE: &str = concat!(
    r#"
    UPDATE activity_logs SET
        status = 'error',
        summary = CASE WHEN summary LIKE '%: running'
            THEN left(summary, -length('running')) || 'ended, how is not known'
            ELSE summary END,
        error_detail = 'the service stopped before this exec was settled',
        response_body = jsonb_build_object(
            'exec_id', id, 'state', 'ended', 'ran', 'unknown', 'outcome', 'unknown', 'ended_by', 'crash',
            'exit_code', NULL, 'signal', NULL, 'error', NULL,
            'started_at', to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), 'duration_ms', NULL,
            'timeout_s', request_body -> 'timeout_s', 'streams', NULL, 'kill', NULL, 'tunnel', NULL,
            'timing_ms', NULL, 'audit', jsonb_build_object('id', id, 'committed', true), 'aws_request_ids', NULL)
    WHERE id IN (
        SELECT id FROM activity_logs WHERE id = ANY($2) AND "#,
    is_orphan!(),
    "
        FOR NO KEY UPDATE SKIP LOCKED)
    RETURNING id"
);

/// `$2` ids.
pub(super) const DELETE: &str = concat!(
    "
    DELETE FROM activity_logs WHERE id IN (
        SELECT id FROM activity_logs AS old WHERE id = ANY($2) AND ",
    is_expired!(),
    "
        FOR UPDATE OF old SKIP LOCKED)
    RETURNING id"
);

#[async_trait]
impl AuditStore for PostgresStore {
    async fn write(&self, half: Half, rows: &[AuditRow]) -> Result<Vec<Uuid>, AuditStoreError> {
        let (lane, sql) = match half {
            Half::Begin => (&self.begins, BEGIN),
            Half::Finish => (&self.finishes, FINISH),
        };
        if rows.is_empty() {
            lane.rows(|| sqlx::query(PROBE)).await.map_err(failure::audit)?;
            return Ok(Vec::new());
        }
        rows.iter().try_for_each(audit_rows::check)?;
        let written = ids(lane.rows(|| batch(sql, rows)).await)?;
        Ok(audit_rows::owned_by_others(rows, &written))
    }

    async fn due(
        &self,
        chore: Chore,
        after: Option<DueRow>,
        limit: u32,
    ) -> Result<Vec<DueRow>, AuditStoreError> {
        let (sql, age) = match chore {
            Chore::Settle(age) => (ORPHANS, age),
            Chore::Delete(age) => (EXPIRED, age),
        };
        let after = after.unwrap_or(audit_rows::BEFORE_ALL);
        let statement = || {
            sqlx::query(sql)
                .bind(age.as_secs_f64())
                .bind(after.created_at)
                .bind(after.id)
                .bind(i64::from(limit))
        };
        let found = self.upkeep.rows(statement).await;
        found
            .and_then(|rows| rows.iter().map(audit_rows::due_row).collect())
            .map_err(failure::audit)
    }

    async fn perform(&self, chore: Chore, ids: &[Uuid]) -> Result<Vec<Uuid>, AuditStoreError> {
        let (sql, age) = match chore {
            Chore::Settle(age) => (SETTLE, age),
            Chore::Delete(age) => (DELETE, age),
        };
        let statement = || sqlx::query(sql).bind(age.as_secs_f64()).bind(ids);
        self::ids(self.upkeep.rows(statement).await)
    }
}

pub(super) fn batch<'q>(sql: &'static str, rows: &'q [AuditRow]) -> Statement<'q> {
    fn column<'q, T>(rows: &'q [AuditRow], value: impl Fn(&'q AuditRow) -> T) -> Vec<T> {
        rows.iter().map(value).collect()
    }
    sqlx::query(sql)
        .bind(column(rows, |row| row.id))
        .bind(column(rows, |row| row.attempt_nonce))
        .bind(column(rows, |row| {
            row.body_hmac.as_ref().map(<[u8; 32]>::as_slice)
        }))
        .bind(column(rows, |row| row.workspace_id))
        .bind(column(rows, |row| row.summary.as_str()))
        .bind(column(rows, |row| Json(&row.request_body)))
        .bind(column(rows, |row| row.response_body.as_ref().map(Json)))
        .bind(column(rows, |row| row.duration_ms))
        .bind(column(rows, |row| row.status.as_str()))
        .bind(column(rows, |row| row.error_detail.as_deref()))
        .bind(column(rows, |row| row.created_at))
}

fn ids(rows: Result<Vec<PgRow>, sqlx::Error>) -> Result<Vec<Uuid>, AuditStoreError> {
    rows.and_then(|rows| rows.iter().map(|row| row.try_get("id")).collect())
        .map_err(failure::audit)
}
