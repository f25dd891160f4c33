"""Whether a run of a tenant has anything to do: what `kb run` asks first, and the nightly schedule for every tenant."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from kb_pipeline.errors import KbError
from kb_pipeline.planner.model import Action, Backfill, Build, EnsureVersion, Evaluate, Promote, sentence

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.rows import TupleRow

    from kb_pipeline.planner.model import Actual, Desired
    from kb_pipeline.session import Session
    from kb_pipeline.stages.context import StageContext
    from kb_pipeline.stages.documents import DocumentsSummary, Scan
    from kb_pipeline.staging import OutputWriter
    from kb_pipeline.store.unfinished import Unfinished

ASSET_OF: dict[type[Action], str] = {
    EnsureVersion: "embeddings",
    Backfill: "embeddings",
    Build: "hnsw_index",
    Evaluate: "eval_report",
    Promote: "live_index",
}
"""The asset that carries out each action of a plan."""


@dataclass(frozen=True, slots=True)
class Due:
    """What there is to do for a tenant."""

    documents: int
    """Documents the source lists."""
    source: tuple[str, ...]
    """What changed in the source; empty when nothing did."""
    actions: tuple[Action, ...]
    """The plan's actions."""

    def reasons(self, assets: Collection[str] | None = None) -> list[str]:
        """One sentence for each thing that these assets (None: all) have to do; empty when they have nothing."""
        wanted = (action for action in self.actions if assets is None or ASSET_OF[type(action)] in assets)
        return [*self.source, *(sentence(action) for action in wanted)]


def due(session: Session, tenant_id: str) -> Due:
    """Compare the source with the index, and the plan with Postgres. Writes nothing, embeds nothing.

    Reads documents whose state may have changed. A tenant that never ran is not scanned: it has everything to do.
    Raises `SourceError`, `ConfigError`.
    """
    found = next(due_each(session, [tenant_id]))[1]
    if isinstance(found, KbError):
        raise found
    return found


def due_each(session: Session, tenant_ids: Sequence[str]) -> Iterator[tuple[str, Due | KbError]]:
    """`due` of each of these tenants, with the error of one that cannot be planned. What Postgres says is read for all
    of them at once, so that a fleet is looked at in seconds; each source is listed in its turn."""
    from kb_pipeline.fleet import desired_states
    from kb_pipeline.store.actual import actual_states
    from kb_pipeline.store.unfinished import unfinished

    with session.db.connect("owner", autocommit=True) as conn:
        actual, pending = actual_states(conn, tenant_ids), unfinished(conn, tenant_ids)
    desired = desired_states(session.settings, list(tenant_ids))
    with session.db.connect("writer", autocommit=True) as conn:
        for tenant_id in tenant_ids:
            conn.execute("SELECT set_config('kb.tenant', %s, false)", (tenant_id,))
            try:
                yield tenant_id, _due(session, conn, desired.get(tenant_id), actual[tenant_id], pending[tenant_id])
            except KbError as error:
                yield tenant_id, error


def _due(
    session: Session, conn: Connection[TupleRow], desired: Desired | None, actual: Actual, pending: Unfinished
) -> Due:
    from kb_pipeline.index.desired import desired_state
    from kb_pipeline.planner.plan import plan
    from kb_pipeline.stages.context import NullProgress

    ctx = replace(session.stage(actual.tenant_id, "due"), progress=NullProgress())
    if actual.live is None and not pending.documents:
        return Due(0, ("nothing is indexed yet",), ())
    actions = plan(desired or desired_state(ctx.tenant), actual).actions
    listed, changes = source_changes(ctx, conn)
    if pending.unsettled:
        changes = (*changes, "the last run did not end")
    if pending.builds:
        changes = (*changes, "a crash left an index build unfinished")
    if pending.batch_jobs:
        changes = (*changes, f"{pending.batch_jobs} batch jobs are at the provider")
    return Due(listed, changes, actions)


def preview(session: Session, tenant_id: str) -> dict[str, Any]:
    """What a run would do and cost, as `kb plan --json` shows it. Chunks what changed; embeds and writes nothing."""
    from kb_pipeline.embed.estimate import estimate
    from kb_pipeline.index.desired import desired_state
    from kb_pipeline.migrate.cost import migration_cost
    from kb_pipeline.planner.plan import plan
    from kb_pipeline.stages.preview import scan_preview
    from kb_pipeline.store.actual import actual_state

    ctx = session.stage(tenant_id, "plan")
    found = scan_preview(ctx)
    with session.db.connect("writer", tenant_id, autocommit=True) as conn:
        actual = actual_state(conn, tenant_id)
    change = found.change_set
    came = change.texts_to_embed - change.backfill_texts + change.texts_at_hand - change.backfill_at_hand
    gone = change.contents_removed
    after = replace(
        actual,
        contents=actual.contents + came - gone,
        inserted_total=actual.inserted_total + came,
        deleted_total=actual.deleted_total + gone,
    )
    desired = desired_state(ctx.tenant)
    wanted = plan(desired, after)
    live = next((one for one in actual.versions if actual.live and one.version == actual.live.version), None)
    changing = live is not None and live.spec.hash() != desired.spec.hash()
    kinds = ("new", "changed", "renamed", "metadata_only", "deleted", "unchanged", "refused")
    documents = {kind: getattr(found.documents, kind) for kind in kinds}
    documents["refused"] += found.chunks.refused
    lanes = estimate(
        ctx.tenant.embedder,
        texts=change.texts_to_embed,
        tokens=change.tokens_to_embed,
        sync_usd=change.cost_usd if change.price_known else None,
    )
    return {
        "documents": documents,
        "chunks": {
            "new": change.chunks_new,
            "reused": change.chunks_reused,
            "moved": change.chunks_moved,
            "removed": change.chunks_removed,
        },
        "texts_to_embed": change.texts_to_embed,
        "texts_at_hand": change.texts_at_hand,
        "tokens_to_embed": change.tokens_to_embed,
        "cost_usd": lanes.sync_usd,
        "cost_batch_usd": lanes.batch_usd,
        "minutes": lanes.minutes,
        "price": lanes.price,
        "rebuild": wanted.rebuild is not None,
        "migration": asdict(migration_cost(session, tenant_id, ctx.tenant.embedder)) if changing else None,
        "reasons": ([found.mass_deletion] if found.mass_deletion else []) + wanted.reasons,
    }


def source_changes(ctx: StageContext, conn: Connection[TupleRow]) -> tuple[int, tuple[str, ...]]:
    """How many documents the source lists, and what changed in words."""
    from kb_pipeline.stages.documents import scan_source

    summary, scan = scan_source(ctx, conn, cast("OutputWriter", Discard()), allow_mass_delete=True)
    kinds = ("new", "changed", "renamed", "metadata_only", "deleted", "rechunked")
    counts: dict[str, int] = {kind: getattr(summary, kind) for kind in kinds}
    changed = [f"{count:,} {kind.replace('_', ' ')}" for kind, count in counts.items() if count]
    found = [f"documents: {', '.join(changed)}"] if changed else []
    found += _other_letters(ctx, conn, summary, scan)
    return summary.listed, tuple(found)


class Discard:
    """In place of a staged output where only the counts are wanted."""

    rows = 0

    def write(self, batch: Any) -> None:
        """Counted, not kept."""
        self.rows += batch.num_rows

    def close(self) -> None:
        """Nothing to close."""


def _other_letters(ctx: StageContext, conn: Connection[TupleRow], summary: DocumentsSummary, scan: Scan) -> list[str]:
    """A sentence when the quarantine of unreadable documents would change, so that a run writes it down."""
    from kb_pipeline.store.dead_letters import list_dead_letters

    before = {(one.doc_id, one.reason) for one in list_dead_letters(conn, ctx.tenant_id) if one.stage == "documents"}
    now = {(one.doc_id, one.reason) for one in scan.letters}
    return [f"refused documents: {summary.refused:,}, recorded are {len(before):,}"] if before != now else []
