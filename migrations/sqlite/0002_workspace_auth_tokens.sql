-- Tokens that open one workspace. A token's own text is nowhere.
CREATE TABLE workspace_auth_tokens (
    id           TEXT NOT NULL PRIMARY KEY CHECK (length(id) = 36),
    workspace_id TEXT NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    token_hash   BLOB NOT NULL UNIQUE CHECK (length(token_hash) = 32),  -- SHA-256 of the token's text
    prefix       TEXT NOT NULL,                                         -- its first 8 characters, for people
    created_at   TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f000Z', 'now'))
                     CHECK (created_at GLOB '????-??-??T??:??:??.??????Z'),
    last_used_at TEXT CHECK (last_used_at GLOB '????-??-??T??:??:??.??????Z'),
    revoked_at   TEXT CHECK (revoked_at GLOB '????-??-??T??:??:??.??????Z')     -- the token is live while this is NULL
) STRICT;

CREATE INDEX workspace_auth_tokens_workspace_id ON workspace_auth_tokens (workspace_id);
