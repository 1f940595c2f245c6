-- no-transaction
-- Operators list the execs of all workspaces in the same order. It also leads retention to the oldest.
CREATE INDEX CONCURRENTLY IF NOT EXISTS activity_logs_adit_execs ON activity_logs (created_at DESC, id DESC)
    WHERE activity_type = 'exec';
