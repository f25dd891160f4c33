-- Vectors that are here before the contents they belong to: imported by a person, or collected from the provider's Batch API.
CREATE TABLE kb.vector_bank (
    tenant_id text NOT NULL REFERENCES kb.tenants,
    space     bytea NOT NULL,                    -- SHA-256 of provider, model, dims and prefixes
    key       bytea NOT NULL,                    -- a content's fingerprint, or SHA-256 of the embedded text
    origin    text NOT NULL CHECK (origin IN ('import', 'batch')),
    vector    vector NOT NULL,
    added_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, space, key)
);
ALTER TABLE kb.vector_bank ALTER COLUMN vector SET STORAGE EXTERNAL;

-- Jobs at the provider's Batch API.
--   planned -> uploaded -> submitted -> ended -> collected, or failed. The key stands in the file's name and in the job's metadata at
--   the provider: a run that was killed between two steps finds there what it did.
CREATE TABLE kb.batch_jobs (
    job_id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id      text NOT NULL REFERENCES kb.tenants,
    key            text NOT NULL UNIQUE,
    space          bytea NOT NULL,
    embedder       jsonb NOT NULL,
    state          text NOT NULL CHECK (state IN ('planned', 'uploaded', 'submitted', 'ended', 'collected', 'failed')),
    provider_state text NOT NULL DEFAULT '',     -- in the provider's words
    file_id        text,
    batch_id       text,
    output_file_id text,
    error_file_id  text,
    texts          bigint NOT NULL,
    tokens         bigint NOT NULL,
    usd            numeric(18, 9) NOT NULL DEFAULT 0,  -- expected
    got            bigint NOT NULL DEFAULT 0,
    refused        bigint NOT NULL DEFAULT 0,
    detail         text NOT NULL DEFAULT '',
    run_id         text NOT NULL,                -- that pays for it
    created_at     timestamptz NOT NULL DEFAULT now(),
    changed_at     timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX batch_jobs_tenant ON kb.batch_jobs (tenant_id, state);

-- Texts of the jobs that are not collected, and those that the provider refused: they go through the sync lane.
CREATE TABLE kb.batch_items (
    tenant_id   text NOT NULL REFERENCES kb.tenants,
    space       bytea NOT NULL,
    fingerprint bytea NOT NULL,
    job_id      bigint NOT NULL REFERENCES kb.batch_jobs ON DELETE CASCADE,
    tokens      integer NOT NULL,
    refused     boolean NOT NULL DEFAULT false,
    PRIMARY KEY (tenant_id, space, fingerprint)
);
CREATE INDEX batch_items_job ON kb.batch_items (job_id);

SELECT kb.guard_tenant_table(name) FROM unnest(ARRAY['kb.vector_bank', 'kb.batch_jobs', 'kb.batch_items']::regclass[]) AS name;
