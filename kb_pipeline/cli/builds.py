"""`kb builds`: what was built, and in which state it is."""

from __future__ import annotations

from kb_pipeline.cli.options import Config, Json, Tenant, print_json, print_table


def builds(tenant: Tenant = None, config: Config = None, as_json: Json = False) -> None:
    """List the builds of the tenants, newest first: method, parameters, rows, seconds, bytes, state and verdict."""
    from kb_pipeline.session import chosen_tenants, open_session
    from kb_pipeline.store.overview import build_rows

    session = open_session(config)
    with session.db.connect("owner") as conn:
        rows = [row for name in chosen_tenants(session, tenant) for row in build_rows(conn, name)]
    if as_json:
        print_json(rows)
        return
    print_table(
        [
            {
                **row,
                "params": " ".join(
                    f"{key}={value}"
                    for key, value in row["params"].items()
                    if key in ("m", "ef_construction", "storage")
                ),
            }
            for row in rows
        ],
        empty="no builds yet: `kb run` makes the first",
    )
