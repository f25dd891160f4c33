-- What a run of the embedding lane leaves for people and for the next run.

-- The circuit breaker of each endpoint as a run last saw it.
CREATE TABLE kb.breakers (
    tenant_id  text NOT NULL REFERENCES kb.tenants,
    endpoint   text NOT NULL,
    state      text NOT NULL CHECK (state IN ('closed', 'open', 'half-open')),
    opened     bigint NOT NULL DEFAULT 0,        -- how often it opened, ever
    run_id     text NOT NULL,
    changed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, endpoint)
);

-- Texts that were handed to a paid provider and whose vectors are not committed. What is here when a run starts was on its way when
-- the one before was killed: it may be paid for twice.
CREATE TABLE kb.in_flight (
    in_flight_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id    text NOT NULL REFERENCES kb.tenants,
    run_id       text NOT NULL,
    version      integer NOT NULL,
    fingerprints bytea[] NOT NULL,
    sent_at      timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX in_flight_tenant ON kb.in_flight (tenant_id);

-- Texts of new and changed documents that had a vector already.
ALTER TABLE kb.spend ADD COLUMN saved_texts bigint NOT NULL DEFAULT 0;
ALTER TABLE kb.spend ADD COLUMN saved_tokens bigint NOT NULL DEFAULT 0;
ALTER TABLE kb.spend ADD COLUMN saved_usd numeric(18, 9) NOT NULL DEFAULT 0;
-- Texts sent again although they may have been billed before.
ALTER TABLE kb.spend ADD COLUMN paid_again_texts bigint NOT NULL DEFAULT 0;

SELECT kb.guard_tenant_table(name) FROM unnest(ARRAY['kb.breakers', 'kb.in_flight']::regclass[]) AS name;
