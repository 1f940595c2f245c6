-- The SSH host key that each instance must show. An instance is region and id together, never an address.
CREATE TABLE adit_host_keys (
    region      TEXT NOT NULL,
    instance_id TEXT NOT NULL,
    key_type    TEXT NOT NULL,                                          -- as SSH names it: `ssh-ed25519`
    key_base64  TEXT NOT NULL,                                          -- the key, as in a known_hosts line
    provenance  TEXT NOT NULL CHECK (provenance IN ('operator', 'first_use')),
    pinned_at   TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f000Z', 'now'))
                    CHECK (pinned_at GLOB '????-??-??T??:??:??.??????Z'),
    PRIMARY KEY (region, instance_id)
) STRICT;
