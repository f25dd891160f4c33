-- Runs before the migrations, as the login user, once per database; repeated without harm. Roles belong to the whole server
-- and may be made by several databases at the same moment, so every step first looks, and a lost race is no error.
-- kb_owner  sees all tenants: planning passes, DDL, index builds. Owns everything.
-- kb_writer, kb_reader  see the tenant in kb.tenant only.
-- kb_search  nobody becomes it: owns the search functions (SECURITY DEFINER), which check the tenant themselves.
DO $$
DECLARE
    name text;
    -- From Postgres 16 on a role's maker is a member of it, but may not take it.
    needed text := CASE WHEN current_setting('server_version_num')::int >= 160000 THEN 'SET' ELSE 'MEMBER' END;
BEGIN
    FOREACH name IN ARRAY ARRAY['kb_owner', 'kb_writer', 'kb_reader', 'kb_search'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I NOLOGIN', name);
            EXCEPTION WHEN duplicate_object OR unique_violation THEN
                NULL;
            END;
        END IF;
        IF name <> 'kb_search' AND NOT pg_has_role(name, needed) THEN
            EXECUTE format('GRANT %I TO CURRENT_USER', name);
        END IF;
    END LOOP;
    -- kb_owner makes kb_search's functions; the other way round nothing is granted.
    IF NOT pg_has_role('kb_owner', 'kb_search', needed) THEN
        GRANT kb_search TO kb_owner;
    END IF;
END $$;

DO $$
DECLARE
    vectors oid := (SELECT extnamespace FROM pg_extension WHERE extname = 'vector');
BEGIN
    IF to_regnamespace('kb') IS NULL THEN
        CREATE SCHEMA kb AUTHORIZATION kb_owner;
    END IF;
    IF NOT has_schema_privilege('kb_search', 'kb', 'CREATE') OR NOT has_schema_privilege('kb_reader', 'kb', 'USAGE') THEN
        SET LOCAL ROLE kb_owner;
        GRANT USAGE ON SCHEMA kb TO kb_writer, kb_reader;
        GRANT USAGE, CREATE ON SCHEMA kb TO kb_search;
        RESET ROLE;
    END IF;
    IF NOT has_schema_privilege('kb_search', vectors, 'USAGE') OR NOT has_schema_privilege('kb_reader', vectors, 'USAGE') THEN
        EXECUTE format('GRANT USAGE ON SCHEMA %s TO kb_owner, kb_writer, kb_reader, kb_search', vectors::regnamespace);
    END IF;
    IF NOT has_database_privilege('kb_writer', current_database(), 'TEMP') THEN
        EXECUTE format('GRANT TEMP ON DATABASE %I TO kb_owner, kb_writer', current_database());
        IF NOT has_database_privilege('kb_writer', current_database(), 'TEMP') THEN  -- it was a warning only
            RAISE insufficient_privilege USING MESSAGE = 'permission denied to grant TEMP on the database';
        END IF;
    END IF;
END $$;
