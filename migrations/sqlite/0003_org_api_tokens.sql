-- Tokens that open every workspace of an org. A token's own text is nowhere.
CREATE TABLE org_api_tokens (
    id           TEXT NOT NULL PRIMARY KEY CHECK (length(id) = 36),
    token_hash   BLOB NOT NULL UNIQUE CHECK (length(token_hash) = 32),  -- SHA-256 of the token's text
    prefix       TEXT NOT NULL,                                         -- its first 8 characters, for people
    name         TEXT,
    created_by   TEXT,
    created_at   TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f000Z', 'now'))
                     CHECK (created_at GLOB '????-??-??T??:??:??.??????Z'),
    last_used_at TEXT CHECK (last_used_at GLOB '????-??-??T??:??:??.??????Z'),
    revoked_at   TEXT CHECK (revoked_at GLOB '????-??-??T??:??:??.??????Z'),    -- the token is live while this is NULL
    org_id       TEXT REFERENCES workspaces (id) ON DELETE SET NULL     -- an org is named by its root workspace
) STRICT;

CREATE INDEX org_api_tokens_org_id ON org_api_tokens (org_id);
