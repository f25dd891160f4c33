-- What people decide about builds, and the golden sets that eval runs measured with.

CREATE TABLE kb.reviews (
    review_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id text NOT NULL REFERENCES kb.tenants,
    build_id  bigint NOT NULL REFERENCES kb.builds,
    eval_id   bigint REFERENCES kb.eval_runs,    -- the newest eval run when it was decided: what the person had before them
    decision  text NOT NULL CHECK (decision IN ('approved', 'forced', 'rejected')),
    by        text NOT NULL,
    why       text,
    at        timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX reviews_build ON kb.reviews (tenant_id, build_id, review_id DESC);

-- One row per content of a set; `version` counts the contents that a name has had. An eval run names the hash, so that it can be repeated.
CREATE TABLE kb.golden_sets (
    tenant_id  text NOT NULL REFERENCES kb.tenants,
    name       text NOT NULL,
    version    integer NOT NULL,
    sha256     text NOT NULL,
    body       jsonb NOT NULL,                   -- questions, judgments, groups, synthetic question ids
    questions  integer NOT NULL,
    judgments  integer NOT NULL,
    synthetic  integer NOT NULL DEFAULT 0,
    registered boolean NOT NULL DEFAULT true,    -- false: kept only because an eval run used it
    added_by   text NOT NULL,
    added_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, name, version),
    UNIQUE (tenant_id, name, sha256)
);

SELECT kb.guard_tenant_table(name) FROM unnest(ARRAY['kb.reviews', 'kb.golden_sets']::regclass[]) AS name;
