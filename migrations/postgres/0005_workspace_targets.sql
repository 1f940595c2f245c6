-- What Adit needs of a workspace and the host platform does not say. All nullable: the settings hold the defaults.
-- A CHECK that is NOT VALID holds for every row written from now on, and reads none of those that are there.
ALTER TABLE workspaces
    ADD COLUMN IF NOT EXISTS adit_org_id UUID,
    ADD COLUMN IF NOT EXISTS adit_region TEXT,
    ADD COLUMN IF NOT EXISTS adit_os_user TEXT,
    ADD COLUMN IF NOT EXISTS adit_availability_zone TEXT,
    ADD COLUMN IF NOT EXISTS adit_address TEXT,
    ADD COLUMN IF NOT EXISTS adit_port INTEGER,
    ADD COLUMN IF NOT EXISTS adit_endpoint_id TEXT,
    ADD COLUMN IF NOT EXISTS adit_endpoint_dns_name TEXT,
    DROP CONSTRAINT IF EXISTS workspaces_adit_port_check,
    ADD CONSTRAINT workspaces_adit_port_check CHECK (adit_port BETWEEN 1 AND 65535) NOT VALID,
    DROP CONSTRAINT IF EXISTS workspaces_adit_endpoint_check,
    ADD CONSTRAINT workspaces_adit_endpoint_check
        CHECK ((adit_endpoint_dns_name IS NULL) = (adit_endpoint_id IS NULL)) NOT VALID;

COMMENT ON COLUMN workspaces.adit_org_id IS
    'the org it belongs to, when one store serves many; then a workspace without one is invisible';
COMMENT ON COLUMN workspaces.adit_region IS 'AWS region of the instance';
COMMENT ON COLUMN workspaces.adit_os_user IS 'login name on the instance';
COMMENT ON COLUMN workspaces.adit_availability_zone IS 'passed on with the key push';
COMMENT ON COLUMN workspaces.adit_address IS 'private IP address of the instance';
COMMENT ON COLUMN workspaces.adit_port IS 'of the instance''s sshd';
COMMENT ON COLUMN workspaces.adit_endpoint_id IS 'EC2 Instance Connect Endpoint that leads there';
COMMENT ON COLUMN workspaces.adit_endpoint_dns_name IS 'DNS name of that endpoint';
