"""The fourth stage: a vector for every text that lacks one, and the documents that have them all."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kb_pipeline.embed.lanes import lane_for
from kb_pipeline.embed.prices import BATCH_FACTOR
from kb_pipeline.errors import BatchesPending, BudgetExceeded, KbError, MissingChunks, ProviderUnavailable
from kb_pipeline.stages.apply import apply_change_set
from kb_pipeline.stages.context import StageContext
from kb_pipeline.stages.embedding import Embedding
from kb_pipeline.stages.purse import Purse
from kb_pipeline.stages.wanted import usd, wanted_versions
from kb_pipeline.store.contents import settle_contents, unproven_chunks
from kb_pipeline.store.dead_letters import count_dead_letters
from kb_pipeline.store.spend import spent
from kb_pipeline.store.stage_outputs import StageOutput, mark_output_applied, usable
from kb_pipeline.store.tenants import is_unsettled, mark_applied, mark_settled
from kb_pipeline.store.versions import ensure_version, set_tenant_version

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.rows import TupleRow

log = logging.getLogger(__name__)

ASSET = "embeddings"


@dataclass(frozen=True, slots=True)
class EmbeddingsSummary:
    """What the embeddings stage did."""

    version: int = 0
    """Embedding version of the configured embedder."""
    texts: int = 0
    """Texts the embedder was given and answered, once for each space."""
    backfilled: int = 0
    """Of these: texts of documents that were indexed before."""
    cast: int = 0
    """Vectors made from those of another version by SQL."""
    tokens: int = 0
    usd: float = 0.0
    requests: int = 0
    retries: int = 0
    texts_per_second: float = 0.0
    throttled: int = 0
    """Requests answered 429."""
    paid_again: int = 0
    """Texts sent again although they may have been billed: answers lost or spoilt, and what was on its way when an
    earlier run was killed."""
    reused_vectors: int = 0
    """Vectors that were here already: imported, collected from batch jobs, or shared by another tenant."""
    breaker: str = "closed"
    """Circuit breaker of the endpoint that was asked last: closed, open or half-open."""
    breaker_opened: int = 0
    """How often a circuit breaker opened."""
    peak_concurrency: int = 0
    """Most requests that were under way at once."""
    endpoints: dict[str, str] = field(default_factory=dict[str, str])
    """Each endpoint and what became of it: used, standby, or refused and why."""
    documents_committed: int = 0
    documents_deleted: int = 0
    documents_waiting: int = 0
    """Documents that kept their old form because a text of theirs has no vector."""
    contents_added: int = 0
    """Contents that came to be in use."""
    contents_removed: int = 0
    """Contents that ceased to be; they are kept for the grace period."""
    dead_letters: int = 0
    """In quarantine after this run, of all stages."""
    missing: int = 0
    """Contents in use without a vector, all of them in quarantine."""
    documents_for_the_switch: int = 0
    """Documents that keep their old form until the new model is live, because the old one cannot be asked any more."""
    left_behind: int = 0
    """Contents in use without a vector of an older version whose model cannot be asked any more."""
    seconds: float = 0.0


def run(ctx: StageContext, *, max_cost: float | None = None) -> EmbeddingsSummary:
    """Embed what lacks a vector in any version that should exist, then apply the change set's documents.

    Each finished batch is committed at once, so a crash pays for the batches in flight only. Raises `BudgetExceeded`,
    `ProviderUnavailable` and (texts are with batch jobs) `BatchesPending` after committing every document that is
    complete, `MissingChunks` when Postgres shows a content without a vector that no dead letter explains, `StaleStage`
    when the change set does not follow from the present state.
    """
    started = time.perf_counter()
    with ctx.db.connect("writer", ctx.tenant_id, autocommit=True) as conn:
        change_set = usable(conn, ctx.tenant_id, "fingerprints", follows="chunks")
        version = ensure_version(
            ctx.db, ctx.tenant_id, wanted_versions(conn, ctx.tenant_id, ctx.tenant.embedder).desired
        )
        wanted = wanted_versions(conn, ctx.tenant_id, ctx.tenant.embedder)
        interrupted = is_unsettled(conn, ctx.tenant_id)
        purse = Purse(ctx, conn, max_cost=max_cost)
        embedding = Embedding(ctx, conn, wanted, purse)
        done, batches = embedding.carrier.done, embedding.carrier.batches
        stopped: KbError | None = None
        try:
            batches.settle()
            purse.look_again()
            _require_budget(ctx, purse, change_set.summary)
            embedding.cast()
            embedding.embed_change_set(change_set)
            if done.waiting:
                batches.require_done()
        except (BudgetExceeded, ProviderUnavailable, BatchesPending) as error:
            stopped = error
            log.warning("stopped: %s", error)
        left = embedding.left_behind
        whole = stopped is None and not left.live
        applied = apply_change_set(ctx, conn, change_set, left.required(), embedding.refused, whole=whole)
        if stopped is not None:
            raise stopped
        _settle(conn, ctx.tenant_id, change_set, strays=interrupted or applied.waiting > 0, whole=whole)
        for space in wanted.spaces:
            known = embedding.known.pop(space.spec.model, None)
            if known is not None:
                saved_usd = usd(ctx.tenant.embedder, space.spec, known.tokens)
                purse.save(space.spec.model, saved_usd, texts=known.chunks, tokens=known.tokens)
        embedding.backfill()
        if done.waiting:
            batches.require_done()
        missing = _prove(conn, ctx.tenant_id, left.provable())
        if not missing:
            set_tenant_version(conn, ctx.tenant_id, version.version, "complete", only_from="backfilling")
        total = spent(conn, ctx.tenant_id, run_id=ctx.run_id)
        letters = count_dead_letters(conn, ctx.tenant_id)
        lacking = left.missing(conn, ctx.tenant_id)
    seconds = time.perf_counter() - started
    return EmbeddingsSummary(
        version=version.version,
        texts=embedding.texts,
        backfilled=embedding.backfilled,
        cast=embedding.cast_rows,
        tokens=total.tokens,
        usd=total.usd,
        requests=total.requests,
        retries=total.retries,
        texts_per_second=done.texts / done.seconds if done.seconds else 0.0,
        throttled=done.throttled,
        paid_again=done.paid_again,
        reused_vectors=done.reused,
        breaker=done.breaker,
        breaker_opened=done.breaker_opened,
        peak_concurrency=done.peak_concurrency,
        endpoints=done.endpoints,
        documents_committed=applied.written,
        documents_deleted=applied.deleted,
        documents_waiting=applied.waiting,
        contents_added=applied.came,
        contents_removed=applied.gone,
        dead_letters=letters,
        missing=missing,
        documents_for_the_switch=0 if whole else applied.waiting,
        left_behind=lacking,
        seconds=seconds,
    )


def _require_budget(ctx: StageContext, purse: Purse, summary: dict[str, Any]) -> None:
    """Refuse to start when everything would cost too much. Where other tenants may have part of it, only what is sent
    is counted, batch by batch.
    """
    texts = summary.get("texts_to_embed", 0)
    if not texts:
        return
    part = BATCH_FACTOR if lane_for(ctx.tenant.embedder, texts) == "batch" else 1.0
    estimate = 0.0 if ctx.tenant.embedder.share_across_tenants else summary.get("cost_usd", 0.0) * part
    purse.require(estimate, price_known=summary.get("price_known", True))


def _settle(conn: Connection[TupleRow], tenant_id: str, change_set: StageOutput, *, strays: bool, whole: bool) -> None:
    """The change set is in the tables: note it, and mark contents as orphans that came to no chunk.

    There may be such strays when an earlier run was interrupted, or a document waits because one of its texts was
    refused. `whole=False`: what waits is taken up by the next run, so the change set is not done with.
    """
    with conn.transaction():
        if strays:
            orphans = settle_contents(conn, tenant_id)
            log.info("%d contents belong to no chunk", orphans)
        mark_settled(conn, tenant_id)
        if whole:
            mark_applied(conn, tenant_id, change_set.root_id)
            mark_output_applied(conn, tenant_id, change_set.output_id)


def _prove(conn: Connection[TupleRow], tenant_id: str, versions: list[int]) -> int:
    """Contents that lack a vector, each with a dead letter. Raises `MissingChunks` for any other."""
    quarantined = 0
    for version in versions:
        missing, explained, documents = unproven_chunks(conn, tenant_id, version)
        quarantined = max(quarantined, explained)
        if missing:
            raise MissingChunks(
                f"{missing} contents of tenant {tenant_id!r} have no vector of v{version} after a run that should "
                "have made them "
                f"all (documents {', '.join(documents)}): run again, and look at `kb status` if it stays"
            )
    return quarantined
