"""The third stage: which texts were never seen before, and what embedding them will cost."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from kb_pipeline.fingerprint import embedded_text
from kb_pipeline.planner.diff import diff_chunks
from kb_pipeline.stages.context import StageContext
from kb_pipeline.stages.staged import StagedBatch, chunks_schema, from_arrow, to_arrow
from kb_pipeline.stages.supply import partners
from kb_pipeline.stages.wanted import Space, Wanted, price_known, usd, wanted_versions
from kb_pipeline.staging import OutputWriter
from kb_pipeline.store.bank import at_hand, has_vectors, lacking_at_hand, shared_texts, space_key, text_key
from kb_pipeline.store.batches import has_items
from kb_pipeline.store.contents import count_lacking, known_contents, outside_use
from kb_pipeline.store.documents import count_places, places_of
from kb_pipeline.store.stage_outputs import register, usable

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.rows import TupleRow

ASSET = "fingerprints"


@dataclass(frozen=True, slots=True)
class ChangeSetSummary:
    """What the change set holds and will cost."""

    documents: int = 0
    chunks_new: int = 0
    """Chunks whose text the tenant has never had."""
    chunks_reused: int = 0
    """Chunks whose text is known; nothing is embedded for them."""
    chunks_moved: int = 0
    """Of the reused: at another place than before."""
    chunks_removed: int = 0
    """Places that go."""
    contents_removed: int = 0
    """Texts that lose their last place; they are kept for the grace period."""
    texts_to_embed: int = 0
    """Distinct texts, once for each version that should have them."""
    backfill_texts: int = 0
    """Of these: texts that are indexed already and lack a vector of another version."""
    texts_at_hand: int = 0
    """Texts that need no embedding either: their vectors are in the bank, an open batch job brings them, or another
    tenant that shares has them.
    """
    backfill_at_hand: int = 0
    """Of these: texts that are indexed already."""
    tokens_to_embed: int = 0
    cost_usd: float = 0.0
    """In the sync lane."""
    price_known: bool = True
    dedup_ratio: float = 0.0
    """Share of the chunks that needs no embedding: known texts, and texts that stand in the change set more than
    once.
    """
    seconds: float = 0.0
    output_id: int | None = None


@dataclass(slots=True)
class Texts:
    """Distinct texts that have to be embedded for one space, in sixteen bytes each.

    A text is told by the first eight bytes of its fingerprint: that two of ten million agree has a probability of
    3e-6, and it would change a count by one.
    """

    keys: list[npt.NDArray[np.uint64]] = field(default_factory=list[npt.NDArray[np.uint64]])
    tokens: list[npt.NDArray[np.int64]] = field(default_factory=list[npt.NDArray[np.int64]])

    def add(self, batch: StagedBatch, fingerprints: set[bytes]) -> None:
        """Those chunks of the batch whose text is one of these."""
        places = [
            (f[:8], t) for f, t in zip(batch.chunks.fingerprint, batch.chunks.tokens, strict=True) if f in fingerprints
        ]
        self.keys.append(np.frombuffer(b"".join(key for key, _ in places), dtype=np.uint64))
        self.tokens.append(np.array([tokens for _, tokens in places], dtype=np.int64))

    def count(self) -> tuple[int, int]:
        """Distinct texts and their tokens."""
        if not self.keys:
            return 0, 0
        distinct, first = np.unique(np.concatenate(self.keys), return_index=True)
        return len(distinct), int(np.concatenate(self.tokens)[first].sum())


@dataclass(slots=True)
class Tally:
    """What gathers while chunks are compared."""

    texts: list[Texts]
    """Of each space that is wanted."""
    at_hand: list[Texts]
    """Those whose vectors need not be asked for."""
    documents: int = 0
    new: int = 0
    reused: int = 0
    moved: int = 0
    removed: int = 0
    dropped: Counter[bytes] = field(default_factory=Counter[bytes])
    """Places of each text that some document of the change set loses altogether."""


def run(ctx: StageContext) -> ChangeSetSummary:
    """Compare the chunks with what is indexed and write the change set. Raises `StaleStage` when they do not follow
    from it.
    """
    with ctx.db.connect("writer", ctx.tenant_id, autocommit=True) as conn:
        chunks = usable(conn, ctx.tenant_id, "chunks", follows="documents")
        url = ctx.staging.output_url(ctx.tenant_id, ASSET, ctx.run_id)
        with ctx.staging.writer(url, chunks_schema(with_status=True)) as writer:
            summary = compare_chunks(ctx, conn, chunks.url, writer)
        with conn.transaction():
            output = register(
                conn,
                ctx.tenant_id,
                asset=ASSET,
                run_id=ctx.run_id,
                url=url,
                rows=writer.rows,
                summary=asdict(summary),
                parent=chunks,
            )
    return replace(summary, output_id=output.output_id)


def compare_chunks(
    ctx: StageContext, conn: Connection[TupleRow], chunks_url: str, writer: OutputWriter
) -> ChangeSetSummary:
    """Write the chunks with a status each. Changes nothing in Postgres."""
    started = time.perf_counter()
    wanted = wanted_versions(conn, ctx.tenant_id, ctx.tenant.embedder)
    tally = Tally([Texts() for _ in wanted.spaces], [Texts() for _ in wanted.spaces])
    supplied = _supplied(conn, ctx.tenant_id, wanted)
    task = ctx.progress.task("fingerprints", None, "chunks")
    try:
        for arrow in ctx.staging.read(chunks_url):
            batch = from_arrow(arrow)
            _compare(conn, ctx.tenant_id, batch, tally)
            for number, space in enumerate(wanted.spaces):
                need = outside_use(conn, ctx.tenant_id, list(set(batch.chunks.fingerprint)), space.numbers)
                here: set[bytes] = _at_hand(conn, ctx.tenant_id, space, batch, need) if space in supplied else set()
                here |= _shared(ctx, space, need - here)
                tally.texts[number].add(batch, need - here)
                tally.at_hand[number].add(batch, here)
            writer.write(to_arrow(batch, with_status=True))
            task.advance(len(batch.chunks.ordinal))
    finally:
        task.done()
    removed = _contents_removed(ctx, conn, chunks_url, tally.dropped)
    return replace(_summary(ctx, conn, wanted, tally), contents_removed=removed, seconds=time.perf_counter() - started)


def _supplied(conn: Connection[TupleRow], tenant_id: str, wanted: Wanted) -> list[Space]:
    """Spaces of which vectors are in the bank or with a batch job."""
    keys = {space: space_key(space.spec) for space in wanted.spaces}
    return [
        space for space, key in keys.items() if has_vectors(conn, tenant_id, key) or has_items(conn, tenant_id, key)
    ]


def _at_hand(
    conn: Connection[TupleRow], tenant_id: str, space: Space, batch: StagedBatch, need: set[bytes]
) -> set[bytes]:
    """Those of the fingerprints whose vector is here, by fingerprint or by text, or comes with a job."""
    chunks = batch.chunks
    by_key = {
        key: fingerprint
        for fingerprint, context, body in zip(chunks.fingerprint, chunks.context, chunks.body, strict=True)
        if fingerprint in need
        for key in (fingerprint, text_key(embedded_text(context, body)))
    }
    return {by_key[key] for key in at_hand(conn, tenant_id, space_key(space.spec), list(by_key))}


def _shared(ctx: StageContext, space: Space, need: set[bytes]) -> set[bytes]:
    """Those of the fingerprints that another tenant has, where both say that they share."""
    tenants = partners(ctx)
    if not (tenants and need and space.versions):
        return set()
    with ctx.db.connect("owner") as owner:
        return shared_texts(owner, tenants, space.versions[0].version, list(need))


def _compare(conn: Connection[TupleRow], tenant_id: str, batch: StagedBatch, tally: Tally) -> None:
    fingerprints = batch.chunks.fingerprint
    known = known_contents(conn, tenant_id, list(set(fingerprints)))
    old = places_of(conn, tenant_id, [*(document.doc_id for document in batch.documents), *batch.gone])
    status = ["new"] * len(fingerprints)
    for document, _, first, last in batch.spans():
        before, after = old.get(document.doc_id, []), fingerprints[first:last]
        diff = diff_chunks(before, after, known)
        tally.new += diff.new
        tally.reused += diff.reused
        tally.moved += diff.moved
        tally.removed += diff.removed
        for place, fingerprint in enumerate(after):
            if fingerprint in known:
                status[first + place] = "reused" if before[place : place + 1] == [fingerprint] else "moved"
        staying = set(after)
        tally.dropped.update(fingerprint for fingerprint in before if fingerprint not in staying)
    for doc_id in batch.gone:
        tally.removed += len(old.get(doc_id, []))
        tally.dropped.update(old.get(doc_id, []))
    batch.chunks.status = status
    tally.documents += len(batch.documents)


def _contents_removed(ctx: StageContext, conn: Connection[TupleRow], chunks_url: str, dropped: Counter[bytes]) -> int:
    """Texts whose every place goes: none in the new form of a document, and as many in the tables as are dropped."""
    if not dropped:
        return 0
    for arrow in ctx.staging.read(chunks_url):
        for fingerprint in from_arrow(arrow).chunks.fingerprint:
            dropped.pop(fingerprint, None)
    left = list(dropped)
    return sum(
        places == dropped[fingerprint]
        for at in range(0, len(left), 5000)
        for fingerprint, places in count_places(conn, ctx.tenant_id, left[at : at + 5000]).items()
    )


def _summary(ctx: StageContext, conn: Connection[TupleRow], wanted: Wanted, tally: Tally) -> ChangeSetSummary:
    config = ctx.tenant.embedder
    texts = backfill = tokens = here = backfill_here = 0
    dollars = 0.0
    supplied = _supplied(conn, ctx.tenant_id, wanted)
    for space, found, supply in zip(wanted.spaces, tally.texts, tally.at_hand, strict=True):
        new, new_tokens = found.count()
        old, old_tokens = count_lacking(conn, ctx.tenant_id, space.numbers)
        tenants = partners(ctx) if old else []
        if space in supplied or tenants:
            with ctx.db.connect("owner") if tenants else nullcontext(conn) as looking:
                banked, banked_tokens = lacking_at_hand(
                    looking, ctx.tenant_id, space_key(space.spec), space.numbers, partners=tenants
                )
            old, old_tokens = old - banked, old_tokens - banked_tokens
            here, backfill_here = here + banked, backfill_here + banked
        here += supply.count()[0]
        texts, backfill, tokens = texts + new + old, backfill + old, tokens + new_tokens + old_tokens
        dollars += usd(config, space.spec, new_tokens + old_tokens)
    chunks = tally.new + tally.reused
    fresh = tally.texts[0].count()[0] if tally.texts else 0
    return ChangeSetSummary(
        documents=tally.documents,
        chunks_new=tally.new,
        chunks_reused=tally.reused,
        chunks_moved=tally.moved,
        chunks_removed=tally.removed,
        texts_to_embed=texts,
        backfill_texts=backfill,
        texts_at_hand=here,
        backfill_at_hand=backfill_here,
        tokens_to_embed=tokens,
        cost_usd=dollars,
        price_known=price_known(config, [space.spec for space in wanted.spaces]),
        dedup_ratio=1 - fresh / chunks if chunks else 0.0,
    )
