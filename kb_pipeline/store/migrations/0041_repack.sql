-- What changes in a partition of kb.contents while a copy of it is made (store/repack.py). A trigger on the partition writes it, only then.
-- Not logged: after a crash of the server the copy is thrown away and begun again.

CREATE UNLOGGED TABLE kb.repack_changes (
    change_id   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    leaf        oid NOT NULL,
    tenant_id   text NOT NULL,
    fingerprint bytea NOT NULL
);
ALTER TABLE kb.repack_changes ENABLE ROW LEVEL SECURITY;
ALTER TABLE kb.repack_changes FORCE ROW LEVEL SECURITY;
CREATE POLICY owner ON kb.repack_changes TO kb_owner USING (true) WITH CHECK (true);

-- SECURITY DEFINER: who writes contents needs no right on the list.
CREATE FUNCTION kb.repack_note() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP <> 'INSERT' THEN
        INSERT INTO kb.repack_changes (leaf, tenant_id, fingerprint) VALUES (TG_RELID, OLD.tenant_id, OLD.fingerprint);
    END IF;
    IF TG_OP = 'INSERT' OR TG_OP = 'UPDATE' AND (NEW.tenant_id, NEW.fingerprint) <> (OLD.tenant_id, OLD.fingerprint) THEN
        INSERT INTO kb.repack_changes (leaf, tenant_id, fingerprint) VALUES (TG_RELID, NEW.tenant_id, NEW.fingerprint);
    END IF;
    RETURN NULL;
END $$;
REVOKE ALL ON FUNCTION kb.repack_note FROM PUBLIC;
