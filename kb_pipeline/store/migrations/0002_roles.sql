-- Who sees what. Every table with tenant rows goes through kb.guard_tenant_table, here and in later migrations.

-- Enables and forces row-level security on a table (and on its partitions), and grants what the roles need:
-- the writer reads and writes rows of the tenant in kb.tenant, the reader reads them where `for_reader` says so.
-- A partition gets the owner's policy only and no grant: a parent's policy does not guard a partition that is named directly.
-- Without kb.tenant a writer or reader sees no row.
CREATE FUNCTION kb.guard_tenant_table(relation regclass, for_reader boolean DEFAULT false) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    partition regclass;
    is_partition boolean := (SELECT relispartition FROM pg_class WHERE oid = relation);
BEGIN
    EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', relation);
    EXECUTE format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', relation);
    EXECUTE format('CREATE POLICY owner ON %s TO kb_owner USING (true) WITH CHECK (true)', relation);
    IF is_partition THEN
        RETURN;
    END IF;
    EXECUTE format('CREATE POLICY search ON %s FOR SELECT TO kb_search USING (true)', relation);
    EXECUTE format('CREATE POLICY writer ON %s TO kb_writer USING (tenant_id = current_setting(''kb.tenant'', true)) '
                   'WITH CHECK (tenant_id = current_setting(''kb.tenant'', true))', relation);
    EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %s TO kb_writer', relation);
    IF for_reader THEN
        EXECUTE format('CREATE POLICY reader ON %s FOR SELECT TO kb_reader '
                       'USING (tenant_id = current_setting(''kb.tenant'', true))', relation);
        EXECUTE format('GRANT SELECT ON %s TO kb_reader, kb_search', relation);
    END IF;
    FOR partition IN SELECT inhrelid::regclass FROM pg_inherits WHERE inhparent = relation LOOP
        PERFORM kb.guard_tenant_table(partition);
    END LOOP;
END $$;
REVOKE ALL ON FUNCTION kb.guard_tenant_table FROM PUBLIC;

SELECT kb.guard_tenant_table(name, true)
FROM unnest(ARRAY['kb.tenants', 'kb.documents', 'kb.chunks', 'kb.contents', 'kb.tenant_versions', 'kb.builds', 'kb.live']::regclass[]) AS name;
SELECT kb.guard_tenant_table(name)
FROM unnest(ARRAY['kb.eval_runs', 'kb.stage_outputs', 'kb.trigger_attempts', 'kb.dead_letters', 'kb.spend']::regclass[]) AS name;

-- Embedders are shared by all tenants and name no tenant.
GRANT SELECT ON kb.embedding_versions TO kb_writer, kb_reader, kb_search;
