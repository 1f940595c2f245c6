-- Tokens that open every workspace of an org. A token's own text is nowhere.
DO $$
BEGIN
    IF to_regclass('org_api_tokens') IS NOT NULL THEN
        RETURN;
    END IF;
    CREATE TABLE org_api_tokens (
        id           UUID PRIMARY KEY DEFAULT gen_random_uuid(),
        token_hash   BYTEA NOT NULL UNIQUE CHECK (octet_length(token_hash) = 32),
        prefix       TEXT NOT NULL,
        name         TEXT,
        created_by   TEXT,
        created_at   TIMESTAMPTZ NOT NULL DEFAULT now(),
        last_used_at TIMESTAMPTZ,
        revoked_at   TIMESTAMPTZ,
        org_id       UUID REFERENCES workspaces (id) ON DELETE SET NULL
    );
    CREATE INDEX org_api_tokens_org_id ON org_api_tokens (org_id);
    COMMENT ON COLUMN org_api_tokens.token_hash IS 'SHA-256 of the token''s text';
    COMMENT ON COLUMN org_api_tokens.prefix IS 'first 8 characters of the token''s text, for people';
    COMMENT ON COLUMN org_api_tokens.revoked_at IS 'the token is live while this is NULL';
    COMMENT ON COLUMN org_api_tokens.org_id IS 'an org is named by its root workspace';
END
$$;
