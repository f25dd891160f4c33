-- A change of a tenant's embedding model under way, or held back. While a row is not `running` and names the configured embedder, the tenant
-- stays with the model that is live: kb.toml says what is wanted, this says not now.

CREATE TABLE kb.migrations (
    tenant_id   text PRIMARY KEY REFERENCES kb.tenants,
    target_hash bytea NOT NULL,                  -- of the embedder that is migrated to
    target      jsonb NOT NULL,                  -- its description
    state       text NOT NULL CHECK (state IN ('running', 'paused', 'aborted', 'rolled back')),
    changed_by  text NOT NULL DEFAULT '',
    changed_at  timestamptz NOT NULL DEFAULT now(),
    started_at  timestamptz NOT NULL DEFAULT now(),
    rows_done   bigint NOT NULL DEFAULT 0,       -- back-filled by the run that is under way or was the last
    rows_total  bigint NOT NULL DEFAULT 0,       -- that it had to
    rows_per_second double precision NOT NULL DEFAULT 0,
    progress_at timestamptz
);
SELECT kb.guard_tenant_table('kb.migrations');
