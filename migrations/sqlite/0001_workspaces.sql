-- Workspaces: what an exec is asked for by. Names as on the host platform; of its many columns only those that Adit
-- reads. UUIDs are lower-case hyphenated text and times RFC 3339 in UTC with six decimals, so that a person with
-- the sqlite3 shell can read them and text order is time order.
CREATE TABLE workspaces (
    id          TEXT NOT NULL PRIMARY KEY CHECK (length(id) = 36),
    name        TEXT NOT NULL,
    role        TEXT,
    tier        INTEGER DEFAULT 1 CHECK (tier BETWEEN 1 AND 4),     -- 1 sandboxed, 2 standard, 3 privileged, 4 full host; NULL counts as 1
    status      TEXT NOT NULL DEFAULT 'provisioning' CHECK (status IN (
                    'provisioning', 'online', 'offline', 'degraded', 'failed', 'removed', 'paused', 'hibernated')),
                                                                    -- `removed` is a tombstone: nothing operates on it
    parent_id   TEXT REFERENCES workspaces (id),
    instance_id TEXT,                                               -- EC2 instance id; NULL: no instance behind it
    created_at  TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f000Z', 'now'))
                    CHECK (created_at GLOB '????-??-??T??:??:??.??????Z'),
    updated_at  TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f000Z', 'now'))
                    CHECK (updated_at GLOB '????-??-??T??:??:??.??????Z')
) STRICT;
