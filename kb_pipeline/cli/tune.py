"""`kb tune`: which index parameters the tenant's own vectors want."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kb_pipeline.cli.options import Config, Json, Tenant, note, print_json, print_table

if TYPE_CHECKING:
    from kb_pipeline.config.schema import TenantConfig
    from kb_pipeline.index.tune import Point, Tuned
    from kb_pipeline.session import Session
    from kb_pipeline.store.versions import Version


def tune(
    placement: Annotated[
        bool, typer.Option("--placement", help="Measure instead from how many contents on an index is worth having.")
    ] = False,
    sample: Annotated[int, typer.Option("--sample", min=1_000, help="Vectors to index; more take longer.")] = 25_000,
    seconds: Annotated[
        float, typer.Option("--seconds", min=1, help="Begin no further parameters after so long.")
    ] = 240,
    storage: Annotated[
        list[str] | None, typer.Option("--storage", help="Only these: vector, halfvec, binary. May be repeated.")
    ] = None,
    tenant: Tenant = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Measure recall and latency of index parameters on the tenant's own vectors, and propose some for kb.toml.

    Works on a copy of a sample: nothing that is searched is touched. Targets are [index] target_recall, target_p95_ms.
    """
    from kb_pipeline.index.params import resolve_params
    from kb_pipeline.session import one_tenant, open_session

    session = open_session(config)
    tenant_id = one_tenant(session, tenant)
    settings = session.tenant(tenant_id)
    version = live_version(session, tenant_id)
    if placement:
        from kb_pipeline.index.crossover import measure_crossover

        params = resolve_params(settings.index, version.spec.dims, version.storage)
        found = measure_crossover(session.db, tenant_id, version, params)
        if as_json:
            print_json(asdict(found))
            return
        print_table([asdict(step) for step in found.steps], empty="")
        print(f"\n[index]\nexact_below = {found.exact_below}")
        return
    measured, path = _measure(session, settings, tenant_id, version, storage or [], sample, seconds)
    _show(measured, settings, path, as_json=as_json)


def live_version(session: Session, tenant_id: str) -> Version:
    """The version the tenant serves. Raises `NotLive`."""
    from kb_pipeline.errors import NotLive
    from kb_pipeline.store.live import read_live
    from kb_pipeline.store.versions import read_version

    with session.db.connect("owner") as conn:
        live = read_live(conn, tenant_id)
        if live is None:
            raise NotLive(f"tenant {tenant_id} has no vectors to tune on yet: `kb run --tenant {tenant_id}`")
        return read_version(conn, live.version)


def _measure(
    session: Session,
    settings: TenantConfig,
    tenant_id: str,
    version: Version,
    storages: list[str],
    sample: int,
    seconds: float,
) -> tuple[Tuned, Path]:
    from kb_pipeline.cli.progress import terminal_progress
    from kb_pipeline.home import kb_home
    from kb_pipeline.index.params import MAX_DIMS, index_storage, resolve_params
    from kb_pipeline.index.tune import grid, tune

    for name in storages:
        if name not in MAX_DIMS:
            raise typer.BadParameter(f"{name!r} is none of {', '.join(MAX_DIMS)}", param_hint="--storage")
        index_storage(name, version.spec.dims, version.storage)
    now = resolve_params(settings.index, version.spec.dims, version.storage)
    params = list(dict.fromkeys([now, *grid(version.spec.dims, version.storage, storages)]))
    measured = tune(
        session.db,
        tenant_id,
        version,
        params,
        target_recall=settings.index.target_recall,
        sample=sample,
        seconds=seconds,
        progress=terminal_progress(),
    )
    path = kb_home() / "reports" / tenant_id / "tune.svg"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(picture(measured, [point for point in measured.points if point.params == now]), encoding="utf-8")
    return measured, path


def picture(measured: Tuned, now: list[Point]) -> str:
    """Recall over p95: the Pareto front, and what is configured now, as an SVG file."""
    from base64 import b64decode

    from evals.report.model import Line, LineChart, Plot
    from evals.report.svg import data_uri
    from kb_pipeline.index.tune import pareto

    front = sorted(pareto(measured.points), key=lambda point: point.p95_ms)
    labels = tuple(
        f"{one.params.m}/{one.params.ef_construction} {one.params.storage} ef {one.ef_search}" for one in front
    )
    lines = [Line("Pareto front", tuple((one.p95_ms, one.recall) for one in front), "main", labels)]
    if now:
        lines.append(Line("as configured now", tuple((one.p95_ms, one.recall) for one in now), "other"))
    chart = LineChart("p95, ms", "recall@10", tuple(lines), y_most=1.0)
    plot = Plot("Recall and latency", chart, f"{measured.rows:,} vectors, {measured.queries} held-out queries")
    return b64decode(data_uri(plot).partition(",")[2]).decode()


def _show(measured: Tuned, settings: TenantConfig, path: Path, *, as_json: bool) -> None:
    from kb_pipeline.index.tune import pareto, proposals

    front = pareto(measured.points)
    index = settings.index
    proposed = proposals(measured.points, target_recall=index.target_recall, target_p95_ms=index.target_p95_ms)
    if as_json:
        print_json(
            {
                **asdict(measured),
                "pareto": [asdict(point) for point in front],
                "proposals": [{"name": one.name, **asdict(one.point), "toml": one.toml()} for one in proposed],
                "plot": str(path),
            }
        )
        return
    print_table([row(point) for point in front], empty="nothing was measured")
    target = f"recall {index.target_recall:g}" + (f" and p95 {index.target_p95_ms:g} ms" if index.target_p95_ms else "")
    print(f"\nthe Pareto front of {len(measured.points)} points on {measured.rows:,} of {measured.of_rows:,} vectors, "
          f"{measured.queries} held-out queries, {measured.seconds:.0f} s; plot: {path}")  # fmt: skip
    if measured.rows < measured.of_rows:
        print("recall of all vectors is somewhat lower for the same ef_search: `auto` fits it to the build itself")
    for one in proposed:
        point = one.point
        reached = f"recall {point.recall:.4f}, p95 {point.p95_ms:.2f} ms, {point.bytes / 2**20:.1f} MB"
        print(f"\n# {one.name} for {target}: {reached}\n{one.toml()}")
    for params in measured.left_out:
        note(f"not measured, the time was over: m={params.m} ef_construction={params.ef_construction} {params.storage}")


def row(point: Point) -> dict[str, object]:
    """A point as a line of the table."""
    return {
        "m": point.params.m,
        "ef_construction": point.params.ef_construction,
        "storage": point.params.storage,
        "ef_search": point.ef_search,
        "recall": round(point.recall, 4),
        "p50_ms": point.p50_ms,
        "p95_ms": point.p95_ms,
        "index_mb": point.bytes / 2**20,
        "build_s": point.build_s,
    }
