-- Maps from a new model's space to the one that is searched (migrate/bridge.py), while the new model's vectors are being made.
CREATE TABLE kb.bridges (
    tenant_id    text NOT NULL REFERENCES kb.tenants,
    from_version integer NOT NULL REFERENCES kb.embedding_versions,
    to_version   integer NOT NULL REFERENCES kb.embedding_versions,
    kind         text NOT NULL,
    map          bytea NOT NULL,                 -- numpy .npz: left, right, shift
    pairs        integer NOT NULL,               -- it was fitted on
    questions    integer NOT NULL,               -- held-out contents it was measured with
    recall       double precision NOT NULL,      -- recall@10 of the new model's mapped vectors against the old model's exact results
    floor        double precision NOT NULL,
    verdict      text NOT NULL CHECK (verdict IN ('pass', 'fail')),
    made_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, from_version, to_version)
);
ALTER TABLE kb.bridges ALTER COLUMN map SET STORAGE EXTERNAL;
SELECT kb.guard_tenant_table('kb.bridges', true);
