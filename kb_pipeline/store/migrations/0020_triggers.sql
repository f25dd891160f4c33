-- What triggers and alerts look at. The numbers of an eval run stand in columns of their own, because one statement reads them for all tenants
-- and `measurements` is large.

ALTER TABLE kb.eval_runs
    ADD COLUMN recall double precision GENERATED ALWAYS AS ((measurements -> 'headline' ->> 'recall_at_10')::double precision) STORED,
    ADD COLUMN p95_ms double precision GENERATED ALWAYS AS ((measurements -> 'headline' ->> 'p95_ms')::double precision) STORED;

-- What was told to people, so that one cause is told once. `subject` is a tenant or a job; no message is kept.
CREATE TABLE kb.alerts (
    subject  text NOT NULL,
    cause    text NOT NULL,
    first_at timestamptz NOT NULL DEFAULT now(),
    last_at  timestamptz NOT NULL DEFAULT now(),
    told_at  timestamptz NOT NULL DEFAULT now(),
    times    bigint NOT NULL DEFAULT 1,
    PRIMARY KEY (subject, cause)
);
