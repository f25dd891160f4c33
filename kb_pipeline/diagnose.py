"""What `kb doctor` looks at."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kb_pipeline.store.health import (
    Finding,
    connections,
    index_faults,
    orphan_urls,
    removed_contents,
    server_versions,
)
from kb_pipeline.store.health_checks import buffers, dead_rows, hot_updates, known_bugs, norms, search_plan
from kb_pipeline.store.maintenance import tables
from kb_pipeline.store.status import tenant_status

if TYPE_CHECKING:
    from psycopg import Connection

    from kb_pipeline.planner.distance import Distance
    from kb_pipeline.session import Session


def diagnose(session: Session, tenants: list[str]) -> list[Finding]:
    """All findings, good ones too: the server, indexes, staging, then each tenant."""
    with session.db.connect("owner", autocommit=True) as conn:
        faults = [fault for fault in index_faults(conn) if fault.tenant_id is None or fault.tenant_id in tenants]
        states = tables(conn)
        versions = server_versions(conn)
        findings = known_bugs(versions.finding.rpartition(" ")[2]) or [versions]
        findings += [connections(conn), *dead_rows(states), hot_updates(states, removed_contents(conn)), buffers(conn)]
        findings += faults or [Finding("indexes", True, "every build has a valid index, and no index is left over")]
        findings.append(orphan_staging(session, conn))
        for tenant_id in tenants:
            findings += tenant_findings(session, conn, tenant_id)
    return findings


def orphan_staging(session: Session, conn: Connection[Any]) -> Finding:
    """Staged folders that no output is registered for; only where staging is a local folder."""
    from pathlib import Path

    url = session.staging().url
    if "://" in url:
        return Finding("staging", True, f"{url} (not looked through)")
    known = orphan_urls(conn)
    left = [str(folder) for folder in Path(url).glob("*/*/*") if folder.is_dir() and str(folder) not in known]
    if not left:
        return Finding("staging", True, f"{len(known)} outputs, none left over")
    return Finding(
        "staging",
        False,
        f"{len(left)} folders are left over from runs that did not end, such as {left[0]}",
        "they only take space",
        f"rm -r {left[0]}",
    )


def tenant_findings(session: Session, conn: Connection[Any], tenant_id: str) -> list[Finding]:
    """Embeddings complete, something live and measured, nothing quarantined, and the plan of a real query."""
    from kb_pipeline.store.breakers import breaker_rows
    from kb_pipeline.store.eval_runs import newest_eval_run
    from kb_pipeline.store.live import read_live

    status = tenant_status(conn, tenant_id)
    run = f"`kb run --tenant {tenant_id}`"
    live = read_live(conn, tenant_id)
    findings = [
        Finding("embeddings", True, f"all {status.contents:,} contents have a vector", tenant_id=tenant_id)
        if not status.missing_embeddings
        else Finding(
            "embeddings",
            False,
            f"{status.missing_embeddings:,} of {status.contents:,} contents lack a vector",
            "searches cannot find them",
            run,
            tenant_id,
        ),
        Finding(
            "live", True, f"build {live.build_id} ({live.method}), v{live.version} {live.model}", tenant_id=tenant_id
        )
        if live
        else Finding("live", False, "nothing is live", "searches answer nothing", run, tenant_id),
    ]
    if live:
        findings += _live_findings(session, conn, tenant_id, live.build_id)
    findings += [
        Finding(
            "provider",
            False,
            f"the circuit breaker of {breaker['endpoint']} is {breaker['state']} "
            f"since {breaker['changed_at']:%F %H:%M}",
            "the last run was not answered, so texts may lack vectors",
            f"look at the provider, then {run}",
            tenant_id,
        )
        for breaker in breaker_rows(conn, tenant_id)
        if breaker["state"] != "closed"
    ]
    if status.dead_letters:
        findings.append(
            Finding(
                "quarantine",
                False,
                f"{status.dead_letters:,} documents or texts are quarantined",
                "they are not searchable in their present form",
                f"`kb dead-letters list --tenant {tenant_id}`",
                tenant_id,
            )
        )
    if live and newest_eval_run(conn, tenant_id, live.build_id) is None:
        findings.append(
            Finding(
                "eval",
                False,
                f"live build {live.build_id} was never measured",
                "nobody knows how good its answers are",
                f"`kb eval --tenant {tenant_id}`",
                tenant_id,
            )
        )
    return findings


def _live_findings(session: Session, conn: Connection[Any], tenant_id: str, build_id: int) -> list[Finding]:
    """The plan of a real query, the stored vectors, and whether the next build fits into memory."""
    from kb_pipeline.store.builds import read_build
    from kb_pipeline.store.versions import read_version

    build = read_build(conn, tenant_id, build_id)
    if build is None:
        return []
    version = read_version(conn, build.version)
    found = [search_plan(conn, tenant_id, build, version), norms(conn, tenant_id, version)]
    return found + ([] if build.method == "exact" else [build_memory(session, conn, tenant_id)])


def build_memory(session: Session, conn: Connection[Any], tenant_id: str) -> Finding:
    """Whether the graph of the tenant's contents, a third more than now, fits into what a build may take."""
    from kb_pipeline.errors import ConfigError
    from kb_pipeline.index.desired import desired_state
    from kb_pipeline.index.memory import allowance, needed_mb
    from kb_pipeline.store.actual import actual_state
    from kb_pipeline.store.index_session import server_limits

    config = session.tenant(tenant_id)
    try:
        desired = desired_state(config)
    except ConfigError as error:
        return Finding("build memory", False, str(error), "no build can be made", "edit kb.toml", tenant_id)
    limits = server_limits(conn)
    allowed = allowance(
        config.index.build_memory_mb, limits.maintenance_mb, limits.shared_buffers_mb, local=limits.local
    )
    rows = actual_state(conn, tenant_id).contents * 4 // 3
    needed = needed_mb(rows, desired.index, desired.spec.dims)
    words = f"a build of {rows:,} rows takes {needed:,} MB, allowed are {allowed.mb:,} MB ({allowed.source})"
    if needed <= allowed.mb:
        return Finding("build memory", True, words, tenant_id=tenant_id)
    return Finding(
        "build memory",
        False,
        words,
        "the next build would be refused: outside memory it takes many times as long",
        f'[index] build_memory_mb = {needed}, or [index] storage = "halfvec"',
        tenant_id,
    )


def explain_triggers(session: Session, tenants: list[str]) -> dict[str, list[Distance]]:
    """For each tenant what would fire, what not, and how far it is from firing."""
    from kb_pipeline.index.desired import desired_state
    from kb_pipeline.planner.distance import distances
    from kb_pipeline.store.actual import actual_state

    with session.db.connect("owner") as conn:
        return {name: distances(desired_state(session.tenant(name)), actual_state(conn, name)) for name in tenants}
