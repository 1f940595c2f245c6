-- no-transaction
-- The same for operators, who list the execs of all workspaces.
CREATE INDEX CONCURRENTLY IF NOT EXISTS activity_logs_adit_failures ON activity_logs (status, created_at DESC, id DESC)
    WHERE activity_type = 'exec' AND status IN ('error', 'timeout');
