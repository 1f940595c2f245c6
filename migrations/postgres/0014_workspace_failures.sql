-- no-transaction
-- Lists of a workspace's execs by a status that is rare would walk all of its execs. It costs nothing for those that end well.
CREATE INDEX CONCURRENTLY IF NOT EXISTS activity_logs_adit_workspace_failures
    ON activity_logs (workspace_id, status, created_at DESC, id DESC)
    WHERE activity_type = 'exec' AND status IN ('error', 'timeout');
