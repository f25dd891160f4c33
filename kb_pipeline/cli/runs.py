"""Runs tenants one after the other: lock, look whether anything is to do, run, say what came of it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from kb_pipeline.cli.execute import Outcome, execute
from kb_pipeline.cli.options import note
from kb_pipeline.cli.progress import terminal_progress
from kb_pipeline.errors import KbError
from kb_pipeline.processes import behind_searches
from kb_pipeline.session import Session, chosen_tenants, open_session, tenant_for, with_source
from kb_pipeline.store.locks import tenant_lock

QUARANTINED = 3
AGAIN = 75


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What `kb run` and `kb rebuild` were asked for."""

    assets: tuple[str, ...]
    job: str = "kb_run"
    op_config: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, Mapping[str, Any]])
    always: bool = False
    """Start a run also when nothing changed."""
    no_wait: bool = False


def run_tenants(
    config: str | None, tenant: str | None, options: RunOptions, *, source: str | None = None, quiet: bool = False
) -> list[Outcome]:
    """Run the chosen tenants one by one; one that fails does not keep the others from running."""
    session = open_session(config)
    if source is not None:
        tenant = tenant_for(session, tenant)
        session = with_source(session, tenant, source)
    session = replace(session, progress=terminal_progress())
    tenants = chosen_tenants(session, tenant)
    outcomes: list[Outcome] = []
    for tenant_id in tenants:
        try:
            with behind_searches():
                outcome = run_tenant(session, tenant_id, options)
        except KbError as error:
            if len(tenants) == 1:
                raise
            outcome = Outcome(tenant_id, None, error.exit_code, str(error))
        outcomes.append(outcome)
        if not quiet:
            print(f"{tenant_id}: {outcome.message}" if len(tenants) > 1 else outcome.message)
    return outcomes


def run_tenant(session: Session, tenant_id: str, options: RunOptions) -> Outcome:
    """One tenant's run under its lock. Starts no Dagster run when source and plan say that nothing is to be done."""
    started = time.monotonic()
    session.tenant(tenant_id)
    with tenant_lock(session.db, tenant_id, wait_s=0 if options.no_wait else None):
        if not options.always:
            from kb_pipeline.due import due

            look = due(session, tenant_id)
            reasons = look.reasons(options.assets)
            if not reasons:
                message = f"{look.documents:,} documents unchanged; nothing to do; no Dagster run was started"
                return _quarantine(session, Outcome(tenant_id, None, 0, message))
            for reason in reasons:
                note(f"{tenant_id}: {reason}")
        run_id, assets = execute(
            session, tenant_id, job_name=options.job, assets=options.assets, op_config=options.op_config
        )
    seconds = time.monotonic() - started
    message = in_words(assets, seconds)
    if waiting := assets.get("embeddings", {}).get("documents_for_the_switch"):
        message += f"\n{waiting:,} documents keep their old form until the new model is live: then run again"
        return Outcome(tenant_id, run_id, AGAIN, message, assets)
    return _quarantine(session, Outcome(tenant_id, run_id, 0, message, assets))


def in_words(assets: Mapping[str, Mapping[str, Any]], seconds: float) -> str:
    """What a run did, in a few lines for a person."""
    lines: list[str] = []
    documents, change, embedded = (assets.get(name, {}) for name in ("documents", "fingerprints", "embeddings"))
    if documents:
        kinds = ("new", "changed", "renamed", "metadata_only", "deleted", "unchanged", "refused")
        counts = [f"{documents[kind]:,} {kind.replace('_', ' ')}" for kind in kinds if documents.get(kind)]
        lines.append("documents: " + (", ".join(counts) or "none"))
    if change:
        kinds = ("chunks_new", "chunks_reused", "chunks_moved", "chunks_removed")
        counts = [f"{change[kind]:,} {kind.removeprefix('chunks_')}" for kind in kinds if change.get(kind)]
        lines.append("chunks: " + (", ".join(counts) or "none touched"))
    if embedded:
        cost = f", ${embedded['usd']:.4f}" if embedded.get("usd") else ", no cost"
        lines.append(f"embedded: {embedded.get('texts', 0):,} texts, {embedded.get('tokens', 0):,} tokens{cost}")
    if index := assets.get("hnsw_index"):
        if index.get("build_id") is not None:
            lines.append(f"index: build {index['build_id']} ({index.get('method')}), {index.get('rows', 0):,} rows")
    if report := assets.get("eval_report"):
        lines.append(f"eval: {report.get('verdict')}, report {report.get('file')}")
    if live := assets.get("live_index"):
        lines.append(f"live: build {live.get('build_id')}" if live.get("build_id") is not None else "live: nothing yet")
        said: list[str] = live.get("reasons") or []
        lines += said if live.get("refused") is not None else said[-1:] if live.get("waiting") is not None else []
    return "\n".join([*lines, f"done in {seconds:.1f} s"])


def _quarantine(session: Session, outcome: Outcome) -> Outcome:
    """The outcome with exit code 3 and a sentence when documents of the tenant are quarantined."""
    from kb_pipeline.store.dead_letters import count_dead_letters

    with session.db.connect("owner") as conn:
        refused = count_dead_letters(conn, outcome.tenant)
    if not refused:
        return outcome
    sentence = f"{refused:,} documents or chunks are quarantined: `kb dead-letters list --tenant {outcome.tenant}`"
    return replace(outcome, exit_code=QUARANTINED, message=f"{outcome.message}\n{sentence}")
