-- no-transaction
-- The sweep looks every minute for execs that nobody finished: among millions of rows there are a handful.
CREATE INDEX CONCURRENTLY IF NOT EXISTS activity_logs_adit_running ON activity_logs (created_at)
    WHERE activity_type = 'exec' AND status = 'running';
