-- The SSH host key that each instance must show. An instance is region and id together, never an address.
CREATE TABLE IF NOT EXISTS adit_host_keys (
    region      TEXT NOT NULL,
    instance_id TEXT NOT NULL,
    key_type    TEXT NOT NULL,
    key_base64  TEXT NOT NULL,
    provenance  TEXT NOT NULL CHECK (provenance IN ('operator', 'first_use')),
    pinned_by   TEXT CHECK (provenance = 'operator' OR pinned_by IS NULL),
    pinned_at   TIMESTAMPTZ NOT NULL DEFAULT now(),
    PRIMARY KEY (region, instance_id)
);

-- Operators look for an instance and know no region, or page through all of them in the order of the primary key.
CREATE INDEX IF NOT EXISTS adit_host_keys_instance_id ON adit_host_keys (instance_id, region);

COMMENT ON COLUMN adit_host_keys.key_type IS 'as SSH names it: `ssh-ed25519`';
COMMENT ON COLUMN adit_host_keys.key_base64 IS 'the key, as in a known_hosts line';
COMMENT ON COLUMN adit_host_keys.pinned_by IS 'which admin token, and from which address; nobody pins at first use';
