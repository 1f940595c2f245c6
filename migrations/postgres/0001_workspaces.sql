-- Workspaces: what an exec is asked for by. On a host platform's database the table is there, with many more columns,
-- and nothing of it is changed.
DO $$
BEGIN
    IF to_regclass('workspaces') IS NOT NULL THEN
        RETURN;
    END IF;
    CREATE TABLE workspaces (
        id          UUID PRIMARY KEY DEFAULT gen_random_uuid(),
        name        TEXT NOT NULL,
        role        TEXT,
        tier        INTEGER DEFAULT 1 CHECK (tier BETWEEN 1 AND 4),
        status      TEXT NOT NULL DEFAULT 'provisioning' CHECK (status IN (
                        'provisioning', 'online', 'offline', 'degraded', 'failed', 'removed', 'paused', 'hibernated')),
        parent_id   UUID REFERENCES workspaces (id),
        instance_id TEXT,
        created_at  TIMESTAMPTZ NOT NULL DEFAULT now(),
        updated_at  TIMESTAMPTZ NOT NULL DEFAULT now()
    );
    COMMENT ON COLUMN workspaces.tier IS '1 sandboxed, 2 standard, 3 privileged, 4 full host; NULL counts as 1';
    COMMENT ON COLUMN workspaces.status IS '`removed` is a tombstone: nothing operates on it';
    COMMENT ON COLUMN workspaces.instance_id IS 'EC2 instance id; NULL: no instance behind it';
END
$$;
