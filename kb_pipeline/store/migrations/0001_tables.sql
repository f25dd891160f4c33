-- The tables of kb_pipeline. A released migration is never edited: add a new file.
-- Runs as the schema's owner role (kb_owner), in one transaction, under the migration lock; roles exist already (roles.sql).

CREATE TABLE kb.tenants (
    tenant_id        text PRIMARY KEY CHECK (tenant_id ~ '^[a-z0-9][a-z0-9_-]{0,62}$'),
    config           jsonb NOT NULL DEFAULT '{}',
    state            text NOT NULL DEFAULT 'active' CHECK (state IN ('active', 'paused')),
    contents         bigint NOT NULL DEFAULT 0,  -- contents that a chunk refers to
    inserted_total   bigint NOT NULL DEFAULT 0,  -- contents that came to be referred to, ever
    deleted_total    bigint NOT NULL DEFAULT 0,  -- contents that ceased to be referred to, ever
    applied_manifest bigint NOT NULL DEFAULT 0,  -- the documents output last applied: staged outputs must follow from it
    created_at       timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE kb.documents (
    tenant_id      text NOT NULL REFERENCES kb.tenants,
    doc_id         text NOT NULL,
    uri            text NOT NULL,
    content_sha256 bytea NOT NULL,               -- of the source bytes (a file) or of the canonical record
    source_state   jsonb NOT NULL DEFAULT '{}',  -- size, mtime_ns, etag: equal means not read again
    metadata       jsonb NOT NULL DEFAULT '{}',
    format         text NOT NULL,
    chunker        text NOT NULL,                -- the chunker's version and settings
    updated_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, doc_id)
);
CREATE INDEX documents_metadata ON kb.documents USING gin (metadata jsonb_path_ops);

CREATE TABLE kb.chunks (
    tenant_id    text NOT NULL,
    doc_id       text NOT NULL,
    ordinal      integer NOT NULL,
    fingerprint  bytea NOT NULL,
    start_offset bigint NOT NULL,                -- characters of the decoded source text
    end_offset   bigint NOT NULL,
    heading_path text[] NOT NULL DEFAULT '{}',
    kind         text NOT NULL,
    PRIMARY KEY (tenant_id, doc_id, ordinal),
    FOREIGN KEY (tenant_id, doc_id) REFERENCES kb.documents ON DELETE CASCADE
);
CREATE INDEX chunks_fingerprint ON kb.chunks (tenant_id, fingerprint);

CREATE TABLE kb.contents (
    tenant_id   text NOT NULL,
    fingerprint bytea NOT NULL,
    context     text NOT NULL,
    body        text NOT NULL,
    tokens      integer NOT NULL,
    lang        regconfig NOT NULL DEFAULT 'english',
    orphaned_at timestamptz,                     -- since when no chunk refers to it; NULL while one does
    PRIMARY KEY (tenant_id, fingerprint)
) PARTITION BY HASH (tenant_id);

DO $$
BEGIN
    FOR i IN 0..7 LOOP
        EXECUTE format('CREATE TABLE kb.contents_p%s PARTITION OF kb.contents FOR VALUES WITH (MODULUS 8, REMAINDER %s)', i, i);
    END LOOP;
END $$;

CREATE TABLE kb.embedding_versions (
    version       integer PRIMARY KEY CHECK (version >= 1),
    embedder_hash bytea NOT NULL UNIQUE,
    embedder      jsonb NOT NULL,                -- provider, model, dims, storage, prefixes, normalise
    dims          integer NOT NULL,
    storage       text NOT NULL CHECK (storage IN ('vector', 'halfvec')),
    column_state  text NOT NULL DEFAULT 'present' CHECK (column_state IN ('present', 'dropping', 'dropped')),
    created_at    timestamptz NOT NULL DEFAULT now()
);
-- Numbers are never used again, also after a version is dropped.
CREATE SEQUENCE kb.embedding_version_number AS integer;

CREATE TABLE kb.tenant_versions (
    tenant_id  text NOT NULL REFERENCES kb.tenants,
    version    integer NOT NULL REFERENCES kb.embedding_versions,
    state      text NOT NULL CHECK (state IN ('backfilling', 'complete', 'live', 'previous', 'retired')),
    changed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, version)
);

CREATE TABLE kb.builds (
    build_id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id      text NOT NULL REFERENCES kb.tenants,
    version        integer NOT NULL REFERENCES kb.embedding_versions,
    method         text NOT NULL CHECK (method IN ('exact', 'hnsw')),
    slot           text CHECK (slot IN ('a', 'b')),
    params         jsonb NOT NULL DEFAULT '{}',  -- m, ef_construction, storage, ef_search fitted per profile
    index_name     text,
    rows_at_build  bigint NOT NULL DEFAULT 0,
    inserted_at_build bigint NOT NULL DEFAULT 0, -- tenants.inserted_total and deleted_total when it was built
    deleted_at_build  bigint NOT NULL DEFAULT 0,
    seconds        double precision,
    bytes          bigint,
    state          text NOT NULL CHECK (state IN ('building', 'candidate', 'live', 'previous', 'dropped', 'failed')),
    detail         jsonb NOT NULL DEFAULT '{}',  -- reason, workers, memory used and allowed, error
    run_id         text,
    created_at     timestamptz NOT NULL DEFAULT now(),
    changed_at     timestamptz NOT NULL DEFAULT now(),
    CHECK ((method = 'hnsw') = (slot IS NOT NULL))
);
CREATE INDEX builds_tenant ON kb.builds (tenant_id, state);
-- Two builds never share a slot of one column while either exists.
CREATE UNIQUE INDEX builds_slot ON kb.builds (tenant_id, version, slot)
    WHERE slot IS NOT NULL AND state IN ('building', 'candidate', 'live', 'previous');
CREATE UNIQUE INDEX builds_live ON kb.builds (tenant_id) WHERE state = 'live';

CREATE TABLE kb.eval_runs (
    eval_id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id    text NOT NULL REFERENCES kb.tenants,
    build_id     bigint NOT NULL REFERENCES kb.builds,
    measurements jsonb NOT NULL,
    verdict      text NOT NULL CHECK (verdict IN ('pass', 'fail')),
    reasons      jsonb NOT NULL DEFAULT '[]',
    hashes       jsonb NOT NULL DEFAULT '{}',    -- corpus, labels, parameters
    report_url   text,
    run_id       text,
    created_at   timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX eval_runs_build ON kb.eval_runs (tenant_id, build_id, eval_id DESC);

CREATE TABLE kb.live (
    tenant_id         text PRIMARY KEY REFERENCES kb.tenants,
    version           integer NOT NULL REFERENCES kb.embedding_versions,
    build_id          bigint NOT NULL REFERENCES kb.builds,
    previous_version  integer REFERENCES kb.embedding_versions,
    previous_build_id bigint REFERENCES kb.builds,
    promoted_at       timestamptz NOT NULL DEFAULT now(),
    promoted_by       text NOT NULL,
    why               text,
    eval_id           bigint REFERENCES kb.eval_runs
);

CREATE TABLE kb.stage_outputs (
    output_id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id     text NOT NULL REFERENCES kb.tenants,
    asset         text NOT NULL,
    run_id        text NOT NULL,
    url           text NOT NULL,
    root_id       bigint,                        -- the documents output it descends from (itself for documents)
    base_manifest bigint NOT NULL,               -- tenants.applied_manifest when the root was made
    rows          bigint NOT NULL,
    summary       jsonb NOT NULL DEFAULT '{}',
    created_at    timestamptz NOT NULL DEFAULT now(),
    applied_at    timestamptz
);
CREATE INDEX stage_outputs_newest ON kb.stage_outputs (tenant_id, asset, output_id DESC);

CREATE TABLE kb.trigger_attempts (
    tenant_id  text NOT NULL REFERENCES kb.tenants,
    trigger    text NOT NULL,
    cause      text NOT NULL,
    attempts   integer NOT NULL DEFAULT 0,
    last_at    timestamptz NOT NULL DEFAULT now(),
    last_error text,
    PRIMARY KEY (tenant_id, trigger, cause)
);

CREATE TABLE kb.dead_letters (
    dead_letter_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id   text NOT NULL REFERENCES kb.tenants,
    stage       text NOT NULL,                   -- documents, chunks, embeddings
    doc_id      text NOT NULL,
    uri         text NOT NULL DEFAULT '',
    ordinal     integer,                         -- the chunk, where one chunk is at fault
    fingerprint bytea,
    reason      text NOT NULL,
    detail      text NOT NULL,
    content_sha256 bytea,                        -- of the refused source: the same bytes are not tried again until they change or a retry is asked
    run_id      text,
    created_at  timestamptz NOT NULL DEFAULT now(),
    retry_asked_at timestamptz
);
CREATE UNIQUE INDEX dead_letters_place ON kb.dead_letters (tenant_id, stage, md5(doc_id), coalesce(ordinal, -1));

CREATE TABLE kb.spend (
    tenant_id text NOT NULL REFERENCES kb.tenants,
    run_id    text NOT NULL,
    model     text NOT NULL,
    lane      text NOT NULL DEFAULT 'sync',
    day       date NOT NULL DEFAULT current_date,
    texts     bigint NOT NULL DEFAULT 0,
    tokens    bigint NOT NULL DEFAULT 0,
    usd       numeric(18, 9) NOT NULL DEFAULT 0,
    requests  bigint NOT NULL DEFAULT 0,
    retries   bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant_id, run_id, model, lane, day)
);
