-- Which of several tries for one exec id a row is of: an Idempotency-Key gives the same id to every replica.
ALTER TABLE activity_logs
    ADD COLUMN IF NOT EXISTS adit_attempt_nonce UUID,
    ADD COLUMN IF NOT EXISTS adit_body_hmac BYTEA,
    DROP CONSTRAINT IF EXISTS activity_logs_adit_body_hmac_check,
    ADD CONSTRAINT activity_logs_adit_body_hmac_check CHECK (octet_length(adit_body_hmac) = 32) NOT VALID;

COMMENT ON COLUMN activity_logs.adit_attempt_nonce IS 'the try that this row is of; no other one may change it';
COMMENT ON COLUMN activity_logs.adit_body_hmac IS 'HMAC-SHA256 of the request under its Idempotency-Key, where it had one';
