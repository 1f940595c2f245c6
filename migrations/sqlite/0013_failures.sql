-- Lists of execs by a status that is rare would walk all of them. It costs nothing for those that end well. SQLite finds a status
-- in a condition with OR, and not in one with IN.
CREATE INDEX activity_logs_adit_workspace_failures ON activity_logs (workspace_id, status, created_at DESC, id DESC)
    WHERE activity_type = 'exec' AND (status = 'error' OR status = 'timeout');
CREATE INDEX activity_logs_adit_failures ON activity_logs (status, created_at DESC, id DESC)
    WHERE activity_type = 'exec' AND (status = 'error' OR status = 'timeout');
