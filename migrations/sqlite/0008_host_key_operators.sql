-- Who pinned a host key, where a person did. Nobody pins at first use: an instance that had no pin showed its key.
ALTER TABLE adit_host_keys ADD COLUMN pinned_by TEXT                    -- which admin token, and from which address
    CHECK (provenance = 'operator' OR pinned_by IS NULL);

-- Operators look for an instance and know no region, or page through all of them in the order of the primary key.
CREATE INDEX adit_host_keys_instance_id ON adit_host_keys (instance_id, region);
