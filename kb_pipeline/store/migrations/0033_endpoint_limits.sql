-- How many texts a server takes in one request, where that is fewer than the configuration says: found out by refusals.
CREATE TABLE kb.endpoint_limits (
    tenant_id  text NOT NULL REFERENCES kb.tenants,
    model      text NOT NULL,
    endpoint   text NOT NULL,
    max_inputs integer NOT NULL CHECK (max_inputs > 0),
    changed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, model, endpoint)
);

SELECT kb.guard_tenant_table('kb.endpoint_limits');
