-- Retention keeps the rows of an Idempotency-Key together: it looks for later ones of the same key, which have the same HMAC.
CREATE INDEX activity_logs_adit_keyed_execs ON activity_logs (adit_body_hmac)
    WHERE activity_type = 'exec' AND adit_body_hmac IS NOT NULL;
