-- The tables of the platform that Adit joins, as a host has them before Adit comes: with columns, indexes, rows and a
-- migration history of its own. STATUS_TYPE is TEXT on older hosts, and `workspace_status` on newer ones.
CREATE TYPE workspace_status AS ENUM (
    'provisioning', 'online', 'offline', 'degraded', 'failed', 'removed', 'paused', 'hibernated');

CREATE TABLE schema_migrations (
    filename   TEXT PRIMARY KEY,
    applied_at TIMESTAMPTZ NOT NULL DEFAULT now()
);
INSERT INTO schema_migrations (filename) VALUES ('001_workspaces.sql'), ('043_workspace_status_enum.sql');

CREATE TABLE workspaces (
    id           UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    name         TEXT NOT NULL,
    role         TEXT,
    tier         INTEGER DEFAULT 1,
    status       STATUS_TYPE NOT NULL DEFAULT 'provisioning',
    parent_id    UUID REFERENCES workspaces (id) ON DELETE SET NULL,
    instance_id  TEXT,
    agent_card   JSONB,
    error_rate   DOUBLE PRECISION DEFAULT 0,
    budget_limit BIGINT,
    created_at   TIMESTAMPTZ DEFAULT now(),
    updated_at   TIMESTAMPTZ DEFAULT now()
);
COMMENT ON COLUMN workspaces.tier IS 'the host''s own comment';
CREATE INDEX idx_workspaces_status ON workspaces (status);

CREATE TABLE workspace_auth_tokens (
    id           UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    workspace_id UUID NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    token_hash   BYTEA NOT NULL UNIQUE,
    prefix       TEXT NOT NULL,
    created_at   TIMESTAMPTZ NOT NULL DEFAULT now(),
    last_used_at TIMESTAMPTZ,
    revoked_at   TIMESTAMPTZ
);
CREATE INDEX idx_workspace_auth_tokens_workspace ON workspace_auth_tokens (workspace_id) WHERE revoked_at IS NULL;

CREATE TABLE org_api_tokens (
    id           UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    token_hash   BYTEA NOT NULL UNIQUE,
    prefix       TEXT NOT NULL,
    name         TEXT,
    created_by   TEXT,
    created_at   TIMESTAMPTZ NOT NULL DEFAULT now(),
    last_used_at TIMESTAMPTZ,
    revoked_at   TIMESTAMPTZ,
    org_id       UUID REFERENCES workspaces (id) ON DELETE SET NULL
);

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
    duration_ms   INTEGER,
    status        TEXT DEFAULT 'ok',
    error_detail  TEXT,
    created_at    TIMESTAMPTZ DEFAULT now(),
    message_id    TEXT
);
CREATE INDEX idx_activity_ws_type_time ON activity_logs (workspace_id, activity_type, created_at DESC);
CREATE INDEX idx_activity_created ON activity_logs (created_at);

INSERT INTO workspaces (id, name, tier, status, instance_id, agent_card) VALUES
    ('11111111-0000-4000-8000-000000000001', 'online', 4, 'online', 'i-0123456789abcdef0', '{"a": 1}'),
    ('11111111-0000-4000-8000-000000000002', 'failed', 3, 'failed', 'i-0123456789abcdef1', NULL),
    ('11111111-0000-4000-8000-000000000003', 'removed', 4, 'removed', 'i-0123456789abcdef2', NULL),
    ('11111111-0000-4000-8000-000000000004', 'bare', NULL, 'hibernated', NULL, NULL);
INSERT INTO workspace_auth_tokens (workspace_id, token_hash, prefix)
    SELECT id, decode(repeat('0' || right(id::TEXT, 1), 32), 'hex'), 'wwwwwwww' FROM workspaces;
INSERT INTO org_api_tokens (token_hash, prefix, name, created_by, revoked_at) VALUES
    (decode(repeat('0a', 32), 'hex'), 'oooooooo', 'ci', 'somebody', NULL),
    (decode(repeat('0b', 32), 'hex'), 'rrrrrrrr', 'old', 'somebody', now());
INSERT INTO activity_logs (workspace_id, activity_type, status, request_body, created_at, message_id)
    SELECT id, kind, 'ok', '{"n": 1}', now() - INTERVAL '90 days', 'm1'
    FROM workspaces, unnest(ARRAY['a2a_send', 'task_update', 'running']) AS kind;
