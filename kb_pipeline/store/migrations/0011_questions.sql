-- What eval runs ask, as vectors, so that a run can be repeated to the last digit whatever the embedder answers today.

CREATE TABLE kb.question_vectors (
    tenant_id text NOT NULL REFERENCES kb.tenants,
    version   integer NOT NULL REFERENCES kb.embedding_versions,
    question  bytea NOT NULL,                    -- SHA-256 of the text
    vector    bytea NOT NULL,                    -- float32, little-endian: as the embedder gave it, before any column rounds it
    used_at   date NOT NULL DEFAULT current_date,
    PRIMARY KEY (tenant_id, version, question)
);
SELECT kb.guard_tenant_table('kb.question_vectors');

-- Length of the decoded text that offsets refer to; NULL for documents that were indexed before it was noted.
ALTER TABLE kb.documents ADD COLUMN characters bigint;
