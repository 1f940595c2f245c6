-- The same for the tokens of orgs, in a transaction of its own: never two of the host's tables locked at once.
ALTER TABLE org_api_tokens ADD COLUMN IF NOT EXISTS adit_expires_at TIMESTAMPTZ;
COMMENT ON COLUMN org_api_tokens.adit_expires_at IS 'from then on it opens nothing; NULL: never';
