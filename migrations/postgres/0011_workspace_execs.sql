-- no-transaction
-- The execs of one workspace are listed newest first, a page after (created_at, id).
CREATE INDEX CONCURRENTLY IF NOT EXISTS activity_logs_adit_workspace_execs
    ON activity_logs (workspace_id, created_at DESC, id DESC) WHERE activity_type = 'exec';
