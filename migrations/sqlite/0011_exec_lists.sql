-- Execs are listed newest first, a page after (created_at, id): those of one workspace, and for operators all of them.
-- The second index also leads retention to the oldest.
CREATE INDEX activity_logs_adit_workspace_execs ON activity_logs (workspace_id, created_at DESC, id DESC)
    WHERE activity_type = 'exec';
CREATE INDEX activity_logs_adit_execs ON activity_logs (created_at DESC, id DESC)
    WHERE activity_type = 'exec';
