-- What the role of `adit serve` needs, here named `adit`; run it after `adit migrate`, as the owner of the tables.
-- `adit migrate` itself alters tables, and so runs as their owner.
GRANT SELECT ON adit_migrations, workspaces, workspace_auth_tokens, org_api_tokens TO adit;
GRANT UPDATE (last_used_at) ON workspace_auth_tokens, org_api_tokens TO adit;
GRANT SELECT, INSERT, UPDATE, DELETE ON activity_logs, adit_host_keys TO adit;
-- Whether the table takes its rows is asked by a block in PL/pgSQL. Everybody may, unless that was taken from them.
GRANT USAGE ON LANGUAGE plpgsql TO adit;
