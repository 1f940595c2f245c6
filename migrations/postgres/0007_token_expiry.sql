-- From when on a token opens nothing any more.
ALTER TABLE workspace_auth_tokens ADD COLUMN IF NOT EXISTS adit_expires_at TIMESTAMPTZ;
COMMENT ON COLUMN workspace_auth_tokens.adit_expires_at IS 'from then on it opens nothing; NULL: never';
