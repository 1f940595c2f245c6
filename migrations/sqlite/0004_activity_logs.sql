-- What was done, one row an activity. Shared with other writers: Adit reads and changes only rows with
-- activity_type 'exec'.
CREATE TABLE activity_logs (
    id            TEXT NOT NULL PRIMARY KEY CHECK (length(id) = 36),      -- of an exec: the exec's id
    workspace_id  TEXT NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    activity_type TEXT NOT NULL,                                        -- 'exec': written by Adit
    source_id     TEXT,
    target_id     TEXT,
    method        TEXT,                                                 -- of an exec: 'POST /workspaces/:id/exec'
    summary       TEXT,                                                 -- one line for people
    request_body  TEXT CHECK (json_valid(request_body)),                -- who asked for what; never stdin, never env values
    response_body TEXT CHECK (json_valid(response_body)),               -- how it ended; never output. NULL while it runs
    tool_trace    TEXT CHECK (json_valid(tool_trace)),
    duration_ms   INTEGER CHECK (duration_ms >= 0),
    status        TEXT DEFAULT 'ok' CHECK (status IN ('running', 'ok', 'error', 'timeout')),
    error_detail  TEXT,
    created_at    TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f000Z', 'now'))
                      CHECK (created_at GLOB '????-??-??T??:??:??.??????Z')
) STRICT;

CREATE INDEX activity_logs_workspace_id_activity_type_created_at
    ON activity_logs (workspace_id, activity_type, created_at DESC);
CREATE INDEX activity_logs_created_at ON activity_logs (created_at);
