"""`kb history`: how recall, quality, latency, cost and size of a tenant went over its eval runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from kb_pipeline.cli.options import Config, Json, Tenant, print_json, print_table

BARS = "▁▂▃▄▅▆▇█"
CURVES = ("recall", "ndcg", "p95 ms", "contents", "index MB", "spent USD")


def history(
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="Eval runs at most.")] = 20,
    tenant: Tenant = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Show the last eval runs, oldest first, with a small curve of each figure, and who decided what about builds."""
    from dataclasses import asdict

    from kb_pipeline.session import chosen_tenants, open_session
    from kb_pipeline.store.eval_runs import headlines
    from kb_pipeline.store.reviews import decisions

    session = open_session(config)
    with session.db.connect("owner") as conn:
        found = {
            name: {
                "runs": headlines(conn, name, limit=limit),
                "decisions": [asdict(made) for made in decisions(conn, name)],
            }
            for name in chosen_tenants(session, tenant)
        }
    if as_json:
        print_json(found)
        return
    for name, facts in found.items():
        print(f"tenant {name}")
        rows = [_row(run) for run in facts["runs"]]
        print_table(rows, empty="  no eval run yet: `kb run` makes the first")
        for curve in CURVES if len(rows) > 1 else ():
            values = [row[curve] for row in rows]
            if drawn := sparkline(values):
                print(f"  {curve:<10} {drawn}")
        for made in facts["decisions"]:
            print(f"  {made['at']} build {made['build_id']} {made['decision']} by {made['by']}: {made['why'] or '-'}")


def sparkline(values: Sequence[float | None]) -> str:
    """A curve of one character a value, lowest to highest; empty with fewer than two values."""
    known = [value for value in values if value is not None]
    if len(known) < 2:
        return ""
    low, span = min(known), max(known) - min(known)
    drawn = [" " if v is None else BARS[round((v - low) / span * 7) if span else 3] for v in values]
    return f"{''.join(drawn)}  {known[0]:,.4g} to {known[-1]:,.4g}"


def _row(run: Mapping[str, Any]) -> dict[str, Any]:
    size = run.get("bytes")
    return {
        "eval": run["eval_id"],
        "build": run["build_id"],
        "at": run["created_at"],
        "verdict": "FAIL" if run["verdict"] == "fail" else run["verdict"],
        "recall": run.get("recall_at_10"),
        "ndcg": run.get("ndcg_at_10"),
        "p95 ms": run.get("p95_ms"),
        "contents": run.get("contents"),
        "index MB": round(size / 1e6, 3) if size else None,
        "spent USD": run.get("spent_usd"),
    }
