-- What Adit needs of a workspace and the host platform does not say. All nullable: the settings hold the defaults.
ALTER TABLE workspaces ADD COLUMN adit_org_id TEXT CHECK (length(adit_org_id) = 36);
    -- the org it belongs to, when one store serves many; then a workspace without one is invisible
ALTER TABLE workspaces ADD COLUMN adit_region TEXT;                     -- AWS region of the instance
ALTER TABLE workspaces ADD COLUMN adit_os_user TEXT;                    -- login name on the instance
ALTER TABLE workspaces ADD COLUMN adit_availability_zone TEXT;          -- passed on with the key push
ALTER TABLE workspaces ADD COLUMN adit_address TEXT;                    -- private IP address of the instance
ALTER TABLE workspaces ADD COLUMN adit_port INTEGER CHECK (adit_port BETWEEN 1 AND 65535);      -- of its sshd
ALTER TABLE workspaces ADD COLUMN adit_endpoint_id TEXT;                -- EC2 Instance Connect Endpoint that leads there
ALTER TABLE workspaces ADD COLUMN adit_endpoint_dns_name TEXT           -- DNS name of that endpoint
    CHECK ((adit_endpoint_dns_name IS NULL) = (adit_endpoint_id IS NULL));
