-- Search, in the one place that writes the ANN SQL. Owned by kb_search and SECURITY DEFINER: under a row policy `@>` and `@?` lose GIN
-- and statistics, because they are not leakproof, so the functions check the tenant themselves. Python side: search_sql.py.

-- The first place of a content, in order, without reading the ten thousand files that carry the same licence header.
DROP INDEX kb.chunks_fingerprint;
CREATE INDEX chunks_place ON kb.chunks (tenant_id, fingerprint, doc_id, ordinal);

-- Conditions on `d.metadata` as SQL text that refers to parameter `param`, the jsonb array of conditions. Only indices (integers) and
-- fragments of this function enter the text: keys and values stay inside the bound parameter.
CREATE FUNCTION kb.search_filter(conditions jsonb, param text) RETURNS text
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    result text := 'true';
    item   jsonb;
    i      int := 0;
    place  text;
    field  text;
    value  text;
    sign   text;
BEGIN
    IF jsonb_typeof(conditions) <> 'array' OR jsonb_array_length(conditions) > 64 THEN
        RAISE EXCEPTION 'conditions must be an array of at most 64' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    FOR item IN SELECT jsonb_array_elements(conditions) LOOP
        place := format('(%s -> %s)', param, i);
        field := format('d.metadata -> (%s ->> ''key'')', place);
        value := format('%s -> ''value''', place);
        sign := CASE item ->> 'op' WHEN 'lt' THEN '<' WHEN 'le' THEN '<=' WHEN 'gt' THEN '>' WHEN 'ge' THEN '>=' END;
        CASE
            WHEN item ->> 'op' = 'contains' THEN
                -- One term for each wanted value: an OR of them is a BitmapOr over the GIN index, `@> ANY (array)` is not indexable.
                SELECT result || ' AND (' || coalesce(string_agg(format('d.metadata @> (%s -> ''of'' -> %s)', place, j), ' OR '), 'false') || ')'
                  INTO result FROM generate_series(0, least(jsonb_array_length(item -> 'of'), 2000) - 1) j;
            WHEN sign IS NOT NULL AND jsonb_typeof(item -> 'value') = 'number' THEN
                result := result || format(' AND CASE WHEN jsonb_typeof(%1$s) = ''number'' THEN (%1$s)::numeric %2$s (%3$s)::numeric ELSE false END', field, sign, value);
            WHEN sign IS NOT NULL THEN
                result := result || format(' AND CASE WHEN jsonb_typeof(%1$s) = ''string'' THEN (%1$s #>> ''{}'') COLLATE "C" %2$s (%3$s #>> ''{}'') ELSE false END', field, sign, value);
            WHEN item ->> 'op' = 'prefix' THEN
                result := result || format(' AND CASE WHEN jsonb_typeof(%1$s) = ''string'' THEN starts_with(%1$s #>> ''{}'', %2$s #>> ''{}'') ELSE false END', field, value);
            ELSE
                RAISE EXCEPTION 'unknown condition %', item USING ERRCODE = 'invalid_parameter_value';
        END CASE;
        i := i + 1;
    END LOOP;
    RETURN result;
END $$;

-- The nearest `n` contents through an HNSW build, nearest first, by the exact distance of the stored vector. `filtering`: SQL text of
-- kb.search_filter over $2, or NULL. Sorting is switched off so that nothing but the index can give the order; the literal tenant and
-- slot in the text prove the partial index's predicate (index/ddl.py writes the same predicate: change both).
CREATE FUNCTION kb.search_ann(
    tenant text, build kb.builds, dims int, storage text, query vector, n int, conditions jsonb, filtering text,
    OUT fingerprints bytea[], OUT bodies text[], OUT distances float8[])
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, kb, public, pg_temp SET enable_sort = off SET hnsw.iterative_scan = strict_order SET hnsw.scan_mem_multiplier = 4 AS $$
DECLARE
    col     text := format('c.embedding_v%s', build.version);
    q       text := format('$1::%s(%s)', storage, dims);
    indexed text := coalesce(build.params ->> 'storage', storage);
    nearest text := CASE
        WHEN indexed = 'binary' THEN format('(binary_quantize(%s)::bit(%s)) <~> binary_quantize(%s)::bit(%2$s)', col, dims, q)
        WHEN indexed = storage THEN format('%s <=> %s', col, q)
        ELSE format('(%s::%s(%s)) <=> $1::%2$s(%3$s)', col, indexed, dims) END;
BEGIN
    EXECUTE format(
        'SELECT array_agg(x.fingerprint), array_agg(x.body), array_agg(x.distance) FROM ('
        'SELECT c.fingerprint, c.body, %1$s <=> %2$s AS distance FROM kb.contents c %3$s '
        'WHERE c.tenant_id = %4$L AND c.fingerprint <> %5$L::bytea AND c.orphaned_at IS NULL ORDER BY %6$s LIMIT %7$s) x',
        col, q,
        -- LATERAL with a LIMIT cannot be turned round by the planner: the index's order leads, iteration goes on until n contents passed.
        CASE WHEN filtering IS NOT NULL THEN format(
            'CROSS JOIN LATERAL (SELECT FROM kb.chunks ch JOIN kb.documents d ON d.tenant_id = ch.tenant_id AND d.doc_id = ch.doc_id '
            'WHERE ch.tenant_id = %L AND ch.fingerprint = c.fingerprint AND %s LIMIT 1) f', tenant, filtering) END,
        tenant, CASE build.slot WHEN 'a' THEN '\x00' ELSE '\x01' END, nearest,
        CASE WHEN indexed = 'binary' THEN greatest(10 * n, current_setting('hnsw.ef_search')::int) ELSE n END)
    INTO fingerprints, bodies, distances USING query, conditions;
    IF indexed = 'binary' THEN  -- re-ranked: bits find the neighbourhood, the stored vectors the order in it
        SELECT array_agg(r.fingerprint), array_agg(r.body), array_agg(r.distance) INTO fingerprints, bodies, distances FROM (
            SELECT * FROM unnest(fingerprints, bodies, distances) u (fingerprint, body, distance) ORDER BY u.distance LIMIT n) r;
    END IF;
END $$;

-- The same by scanning: all contents of the tenant, or (not NULL) those of `among`.
CREATE FUNCTION kb.search_exact(
    tenant text, version int, dims int, storage text, query vector, n int, among bytea[],
    OUT fingerprints bytea[], OUT bodies text[], OUT distances float8[])
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, kb, public, pg_temp AS $$
BEGIN
    EXECUTE format(
        'SELECT array_agg(x.fingerprint), array_agg(x.body), array_agg(x.distance) FROM ('
        'SELECT c.fingerprint, c.body, c.embedding_v%1$s <=> $1::%2$s(%3$s) AS distance FROM kb.contents c %4$s '
        'WHERE c.tenant_id = %5$L AND c.orphaned_at IS NULL AND c.embedding_v%1$s IS NOT NULL ORDER BY distance, c.fingerprint LIMIT %6$s) x',
        version, storage, dims, CASE WHEN among IS NOT NULL THEN 'JOIN unnest($2) f (fingerprint) ON c.fingerprint = f.fingerprint' END, tenant, n)
    INTO fingerprints, bodies, distances USING query, among;
END $$;

-- Fingerprints of the documents that pass, NULL if they are more than `ceiling` (NULL: no ceiling). The documents are looked through once:
-- a range or prefix has no index, and a filter that few pass is then the dear part of the search.
CREATE FUNCTION kb.search_passing(tenant text, conditions jsonb, filtering text, ceiling int) RETURNS bytea[]
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, kb, public, pg_temp AS $$
DECLARE
    docs   text[];
    result bytea[];
BEGIN
    EXECUTE format('SELECT array_agg(doc_id) FROM (SELECT d.doc_id FROM kb.documents d WHERE d.tenant_id = %L AND %s LIMIT %s) x',
                   tenant, filtering, coalesce((ceiling + 1)::text, 'ALL'))
    INTO docs USING NULL::vector, conditions;
    IF cardinality(docs) > ceiling THEN
        RETURN NULL;
    END IF;
    EXECUTE format('SELECT array_agg(DISTINCT fingerprint) FROM (SELECT ch.fingerprint FROM unnest($1) d (doc_id) '
                   'JOIN kb.chunks ch ON ch.tenant_id = %L AND ch.doc_id = d.doc_id LIMIT %s) x',
                   tenant, coalesce((ceiling + 1)::text, 'ALL'))
    INTO result USING docs;
    RETURN CASE WHEN cardinality(result) > ceiling THEN NULL ELSE coalesce(result, '{}') END;
END $$;

-- The nearest `n` contents of one build. `ef` NULL: 100. What the index cannot give, a scan does.
CREATE FUNCTION kb.search_nearest(
    tenant text, build kb.builds, query vector, n int, ef int, at_least int, conditions jsonb,
    OUT fingerprints bytea[], OUT bodies text[], OUT distances float8[])
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, kb, public, pg_temp AS $$
DECLARE
    filtering text;
    among     bytea[];
    spec      record;
BEGIN
    SELECT v.dims, v.storage INTO spec FROM kb.embedding_versions v WHERE v.version = build.version;
    IF vector_dims(query) <> spec.dims THEN
        RAISE EXCEPTION 'the query vector has % dims, version v% has %', vector_dims(query), build.version, spec.dims USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF conditions <> '[]' THEN
        filtering := kb.search_filter(conditions, '$2');
    END IF;
    IF build.method = 'hnsw' THEN
        IF filtering IS NOT NULL THEN
            -- Filter first while scanning what passes costs less than walking n / selectivity elements of the graph: about sqrt(n * rows).
            among := kb.search_passing(tenant, conditions, filtering, least(20000, greatest(200, sqrt(1.3 * n * build.rows_at_build)))::int);
        END IF;
        IF among IS NULL THEN
            PERFORM set_config('hnsw.ef_search', least(1000, greatest(1, at_least, coalesce(ef, 100)))::text, true);
            SELECT a.fingerprints, a.bodies, a.distances INTO fingerprints, bodies, distances
              FROM kb.search_ann(tenant, build, spec.dims, spec.storage, query, n, conditions, filtering) a;
            IF cardinality(fingerprints) >= n THEN
                RETURN;
            END IF;
        END IF;
    END IF;
    IF filtering IS NOT NULL AND among IS NULL THEN
        among := kb.search_passing(tenant, conditions, filtering, NULL);
    END IF;
    SELECT e.fingerprints, e.bodies, e.distances INTO fingerprints, bodies, distances
      FROM kb.search_exact(tenant, build.version, spec.dims, spec.storage, query, n, among) e;
END $$;

CREATE FUNCTION kb.search_check(tenant text) RETURNS void LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF tenant IS NULL OR tenant IS DISTINCT FROM current_setting('kb.tenant', true) THEN
        RAISE EXCEPTION 'this session may not search tenant %', tenant USING ERRCODE = 'insufficient_privilege', HINT = 'set kb.tenant';
    END IF;
END $$;

-- What a person asked for: up to `n` contents of what is live, nearest first, each with the first place that passes and the other documents.
-- The query vector belongs to `wanted`: if another version is live the answer is one row that says so (build_id NULL, `version` the live one
-- and `metadata` its embedder, both NULL when nothing is live), unless `lenient` allows the version in soak. `found` below `n` says that
-- there is nothing further; a row without doc_id is no result.
CREATE FUNCTION kb.search(
    tenant text, wanted int, query vector, n int, ef int, profile text, fallback_ef int, at_least int, conditions jsonb, lenient boolean)
RETURNS TABLE (
    version int, build_id bigint, found int, fingerprint bytea, doc_id text, uri text, ordinal int, start_offset bigint, end_offset bigint,
    heading_path text[], body text, distance float8, metadata jsonb, also_in text[])
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, kb, public, pg_temp SET max_parallel_workers_per_gather = 0 AS $$
#variable_conflict use_column
DECLARE
    live_row kb.live;
    build    kb.builds;
    nearest  record;
BEGIN
    PERFORM kb.search_check(tenant);
    SELECT * INTO live_row FROM kb.live l WHERE l.tenant_id = tenant;
    SELECT * INTO build FROM kb.builds b
     WHERE b.tenant_id = tenant AND b.version = wanted AND b.build_id = CASE
        WHEN live_row.version = wanted THEN live_row.build_id
        WHEN lenient AND live_row.previous_version = wanted THEN live_row.previous_build_id END;
    IF build.build_id IS NULL THEN
        RETURN QUERY SELECT live_row.version, NULL::bigint, 0, NULL::bytea, NULL::text, NULL::text, NULL::int, NULL::bigint, NULL::bigint,
                            NULL::text[], NULL::text, NULL::float8, (SELECT v.embedder FROM kb.embedding_versions v WHERE v.version = live_row.version), NULL::text[];
        RETURN;
    END IF;
    nearest := kb.search_nearest(
        tenant, build, query, n, coalesce(ef, (build.params -> 'ef_search' ->> profile)::int, fallback_ef), at_least, conditions);
    IF conditions = '[]' THEN
        RETURN QUERY
        SELECT build.version, build.build_id, cardinality(nearest.fingerprints), r.fingerprint, p.doc_id, p.uri, p.ordinal, p.start_offset, p.end_offset,
               p.heading_path, r.body, r.distance, p.metadata,
               ARRAY(SELECT DISTINCT o.doc_id FROM kb.chunks o
                      WHERE o.tenant_id = tenant AND o.fingerprint = r.fingerprint AND o.doc_id > p.doc_id ORDER BY o.doc_id LIMIT 100)
          FROM unnest(nearest.fingerprints, nearest.bodies, nearest.distances) r(fingerprint, body, distance)
         CROSS JOIN LATERAL (
               SELECT ch.doc_id, ch.ordinal, ch.start_offset, ch.end_offset, ch.heading_path, d.uri, d.metadata
                 FROM kb.chunks ch JOIN kb.documents d ON d.tenant_id = ch.tenant_id AND d.doc_id = ch.doc_id
                WHERE ch.tenant_id = tenant AND ch.fingerprint = r.fingerprint ORDER BY ch.doc_id, ch.ordinal LIMIT 1) p
         ORDER BY r.distance, r.fingerprint;
    ELSE
        RETURN QUERY EXECUTE format($sql$
        SELECT $3, $4, cardinality($5), r.fingerprint, p.doc_id, p.uri, p.ordinal, p.start_offset, p.end_offset,
               p.heading_path, r.body, r.distance, p.metadata,
               ARRAY(SELECT DISTINCT ch.doc_id FROM kb.chunks ch JOIN kb.documents d ON d.tenant_id = ch.tenant_id AND d.doc_id = ch.doc_id
                      WHERE ch.tenant_id = $1 AND ch.fingerprint = r.fingerprint AND ch.doc_id > p.doc_id AND %1$s ORDER BY ch.doc_id LIMIT 100)
          FROM unnest($5, $6, $7) r(fingerprint, body, distance)
         CROSS JOIN LATERAL (
               SELECT ch.doc_id, ch.ordinal, ch.start_offset, ch.end_offset, ch.heading_path, d.uri, d.metadata
                 FROM kb.chunks ch JOIN kb.documents d ON d.tenant_id = ch.tenant_id AND d.doc_id = ch.doc_id
                WHERE ch.tenant_id = $1 AND ch.fingerprint = r.fingerprint AND %1$s ORDER BY ch.doc_id, ch.ordinal LIMIT 1) p
         ORDER BY r.distance, r.fingerprint $sql$, kb.search_filter(conditions, '$2'))
        USING tenant, conditions, build.version, build.build_id, nearest.fingerprints, nearest.bodies, nearest.distances;
    END IF;
    IF NOT FOUND AND cardinality(nearest.fingerprints) > 0 THEN  -- none of them has a place yet: say that there may be more
        RETURN QUERY SELECT build.version, build.build_id, cardinality(nearest.fingerprints), NULL::bytea, NULL::text, NULL::text, NULL::int, NULL::bigint,
                            NULL::bigint, NULL::text[], NULL::text, NULL::float8, NULL::jsonb, NULL::text[];
    END IF;
END $$;

-- The nearest contents of any build that still exists, live or not: what evaluations measure. `ef` is taken as it is; NULL: as a search
-- with the default profile has it.
CREATE FUNCTION kb.search_build(tenant text, build_id bigint, query vector, n int, ef int, conditions jsonb)
RETURNS TABLE (fingerprint bytea, distance float8)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, kb, public, pg_temp SET max_parallel_workers_per_gather = 0 AS $$
#variable_conflict use_column
DECLARE
    build   kb.builds;
    nearest record;
BEGIN
    PERFORM kb.search_check(tenant);
    SELECT * INTO build FROM kb.builds b WHERE b.tenant_id = tenant AND b.build_id = search_build.build_id AND b.state IN ('candidate', 'live', 'previous');
    IF build.build_id IS NULL THEN
        RAISE EXCEPTION 'tenant % has no build %', tenant, search_build.build_id USING ERRCODE = 'no_data_found';
    END IF;
    nearest := kb.search_nearest(tenant, build, query, n, coalesce(ef, (build.params -> 'ef_search' ->> 'default')::int), 1, conditions);
    RETURN QUERY SELECT * FROM unnest(nearest.fingerprints, nearest.distances) r(fingerprint, distance) ORDER BY r.distance, r.fingerprint;
END $$;

DO $$
DECLARE
    name    regprocedure;
    vectors name := (SELECT n.nspname FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace WHERE t.oid = 'vector'::regtype);
BEGIN
    FOR name IN SELECT oid::regprocedure FROM pg_proc WHERE pronamespace = 'kb'::regnamespace AND proname LIKE 'search%' LOOP
        -- The extension may be installed in another schema than public.
        EXECUTE format('ALTER FUNCTION %s SET search_path = pg_catalog, kb, %I, pg_temp', name, vectors);
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', name);
        EXECUTE format('ALTER FUNCTION %s OWNER TO kb_search', name);
    END LOOP;
END $$;
GRANT EXECUTE ON FUNCTION kb.search, kb.search_build TO kb_owner, kb_writer, kb_reader;
