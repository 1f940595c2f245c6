-- What was done, one row an activity. Shared with other writers: Adit reads and changes only rows with
-- activity_type 'exec'. The two indexes are the host platform's; Adit's own come in migrations of their own.
DO $$
BEGIN
    IF to_regclass('activity_logs') IS NOT NULL THEN
        RETURN;
    END IF;
    CREATE TABLE activity_logs (
        id            UUID PRIMARY KEY DEFAULT gen_random_uuid(),
        workspace_id  UUID NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
        activity_type TEXT NOT NULL,
        source_id     UUID,
        target_id     UUID,
        method        TEXT,
        summary       TEXT,
        request_body  JSONB,
        response_body JSONB,
        tool_trace    JSONB,
        duration_ms   INTEGER CHECK (duration_ms >= 0),
        status        TEXT DEFAULT 'ok' CHECK (status IN ('running', 'ok', 'error', 'timeout')),
        error_detail  TEXT,
        created_at    TIMESTAMPTZ NOT NULL DEFAULT now()
    );
    CREATE INDEX activity_logs_workspace_id_activity_type_created_at
        ON activity_logs (workspace_id, activity_type, created_at DESC);
    CREATE INDEX activity_logs_created_at ON activity_logs (created_at);
    COMMENT ON COLUMN activity_logs.id IS 'of an exec: the exec''s id';
    COMMENT ON COLUMN activity_logs.activity_type IS '`exec`: written by Adit';
    COMMENT ON COLUMN activity_logs.method IS 'of an exec: `POST /workspaces/:id/exec`';
    COMMENT ON COLUMN activity_logs.summary IS 'one line for people';
    COMMENT ON COLUMN activity_logs.request_body IS 'who asked for what; never stdin, never env values';
    COMMENT ON COLUMN activity_logs.response_body IS 'how it ended; never output. NULL while it runs';
END
$$;
