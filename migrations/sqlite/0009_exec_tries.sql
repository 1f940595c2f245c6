-- Which of several tries for one exec id a row is of: an Idempotency-Key gives the same id to every replica.
ALTER TABLE activity_logs ADD COLUMN adit_attempt_nonce TEXT CHECK (length(adit_attempt_nonce) = 36);
ALTER TABLE activity_logs ADD COLUMN adit_body_hmac BLOB CHECK (length(adit_body_hmac) = 32);
    -- HMAC-SHA256 of the request under its Idempotency-Key; NULL where it had none
