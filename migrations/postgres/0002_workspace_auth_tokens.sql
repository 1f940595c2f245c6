-- Tokens that open one workspace. A token's own text is nowhere.
DO $$
BEGIN
    IF to_regclass('workspace_auth_tokens') IS NOT NULL THEN
        RETURN;
    END IF;
    CREATE TABLE workspace_auth_tokens (
        id           UUID PRIMARY KEY DEFAULT gen_random_uuid(),
        workspace_id UUID NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
        token_hash   BYTEA NOT NULL UNIQUE CHECK (octet_length(token_hash) = 32),
        prefix       TEXT NOT NULL,
        created_at   TIMESTAMPTZ NOT NULL DEFAULT now(),
        last_used_at TIMESTAMPTZ,
        revoked_at   TIMESTAMPTZ
    );
    CREATE INDEX workspace_auth_tokens_workspace_id ON workspace_auth_tokens (workspace_id);
    COMMENT ON COLUMN workspace_auth_tokens.token_hash IS 'SHA-256 of the token''s text';
    COMMENT ON COLUMN workspace_auth_tokens.prefix IS 'first 8 characters of the token''s text, for people';
    COMMENT ON COLUMN workspace_auth_tokens.revoked_at IS 'the token is live while this is NULL';
END
$$;
