"""Giving contents their vectors: new texts of a change set, and stored texts that lack a version."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kb_pipeline.embed.lane import Finished, Pending, Refused
from kb_pipeline.errors import KbError
from kb_pipeline.fingerprint import embedded_text
from kb_pipeline.migrate.bridge import Bridging
from kb_pipeline.migrate.left_behind import LeftBehind
from kb_pipeline.migrate.watch import watched
from kb_pipeline.stages.carry import Carrier
from kb_pipeline.stages.context import StageContext
from kb_pipeline.stages.purse import Purse
from kb_pipeline.stages.quarantine import tried_with
from kb_pipeline.stages.staged import StagedBatch, from_arrow
from kb_pipeline.stages.wanted import Space, Wanted
from kb_pipeline.store.contents import (
    Content,
    Target,
    count_lacking,
    fill_by_cast,
    lacking,
    texts_lacking,
    write_new,
    write_vectors,
)
from kb_pipeline.store.dead_letters import (
    DeadLetter,
    drop_letters_of_embedded_texts,
    list_dead_letters,
    put_dead_letters,
)
from kb_pipeline.store.stage_outputs import StageOutput
from kb_pipeline.store.tenants import mark_unsettled
from kb_pipeline.store.versions import Version

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.rows import TupleRow

log = logging.getLogger(__name__)

COMMIT_PART = 50
COMMIT_LEAST = 50
"""A back-fill commits a fiftieth of the tenant's rows at once, and at least so many."""


@dataclass(slots=True)
class Known:
    """Chunks of new and changed documents whose text had a vector, or stands there more than once."""

    chunks: int = 0
    tokens: int = 0


class Embedding:
    """The embedding half of a run. Every finished batch is committed at once, with what it cost."""

    def __init__(self, ctx: StageContext, conn: Connection[TupleRow], wanted: Wanted, purse: Purse) -> None:
        self._ctx = ctx
        self._conn = conn
        self._wanted = wanted
        self._purse = purse
        self._tried = tried_with(ctx)
        self._in_flight: dict[bytes, tuple[Content, bytes]] = {}
        """Texts the lane has, with the digest of a document they stand in."""
        self.refused: dict[bytes, tuple[str, str]] = {
            letter.fingerprint: (letter.reason, letter.detail)
            for letter in list_dead_letters(conn, ctx.tenant_id)
            if letter.fingerprint and letter.tried_with == self._tried and letter.retry_asked_at is None
        }
        """Texts that were refused, now or before; they are not sent again until a retry is asked."""
        self._stored_rows = 0
        self._known = Known()
        self.known: dict[str, Known] = {}
        """What fingerprints saved in the change set, by model."""
        self.carrier = Carrier(ctx, conn, purse)
        self.left_behind = LeftBehind(wanted, bridge=ctx.tenant.migration.bridge)
        self.backfilled = 0
        self.cast_rows = 0

    @property
    def texts(self) -> int:
        """Texts the embedder was given and answered."""
        return self.carrier.done.texts

    def cast(self) -> None:
        """Fill versions that differ from another in column type or normalisation only: no text is sent for them."""
        for space in self._wanted.spaces:
            for target in space.versions:
                for source in space.versions:
                    if source is not target:
                        values = fill_by_cast(
                            self._conn, self._ctx.tenant_id, source=source.version, target=_target(target)
                        )
                        self.cast_rows += sum(values)

    def embed_change_set(self, change_set: StageOutput) -> None:
        """Vectors of the change set's texts in every space that a document needs before it is committed."""
        total = change_set.summary.get("texts_to_embed", 0) - change_set.summary.get("backfill_texts", 0)
        for space in self._wanted.spaces:  # those that a document needs first
            if space.required or self.left_behind.live:
                self._known = self.known[space.spec.model] = Known()
                self._run(space, self._new_texts(space, change_set), self._keep_new, "embeddings", total)

    def backfill(self) -> None:
        """Vectors of stored texts that lack one in any space, in the order of their fingerprints."""
        self._stored_rows = count_lacking(self._conn, self._ctx.tenant_id, [])[0]
        for space in self._wanted.spaces:
            if space in self.left_behind:
                continue
            before = self.texts
            total = count_lacking(self._conn, self._ctx.tenant_id, [space.versions[0].version])[0]
            texts = self._stored_texts(space)
            bridging: Bridging | None = None
            if not space.required:
                migration = self._ctx.tenant.migration
                target = self._wanted.desired
                bridging = Bridging(self._conn, self._ctx.tenant_id, target, migration)
                texts = watched(
                    self._conn, self._ctx.tenant_id, target, texts,
                    total=total, per_minute=migration.texts_per_minute, look=bridging.look,
                )  # fmt: skip
            self._run(space, texts, self._keep_stored, "back-fill", total)
            if bridging is not None:
                bridging.finish()
            self.backfilled += self.texts - before

    def _run(
        self,
        space: Space,
        texts: Iterator[Pending],
        keep: Callable[[Space, Finished], None],
        name: str,
        total: int | None,
    ) -> None:
        try:
            self.carrier.carry(
                space,
                texts,
                keep=lambda batch: self._kept(space, batch, keep),
                refuse=self._refuse,
                skip=self._forget,
                name=name,
                total=total,
            )
        except KbError as error:
            if not self.left_behind.note(space, error):
                raise
        finally:
            self._in_flight.clear()

    def _kept(self, space: Space, batch: Finished, keep: Callable[[Space, Finished], None]) -> None:
        keep(space, batch)
        self._forget(batch.fingerprints)

    def _forget(self, fingerprints: Sequence[bytes]) -> None:
        for fingerprint in fingerprints:
            self._in_flight.pop(fingerprint, None)

    def _new_texts(self, space: Space, change_set: StageOutput) -> Iterator[Pending]:
        leader = space.versions[0].version
        for arrow in self._ctx.staging.read(change_set.url):
            batch = from_arrow(arrow)
            places = self._places(batch)
            # What is in flight is looked up before the tables are: it may be committed between, and would be sent
            # twice.
            known = set(self._in_flight)
            need = lacking(self._conn, self._ctx.tenant_id, list(places), [leader]) - known
            chosen = [(fingerprint, place) for fingerprint, place in places.items() if fingerprint in need]
            self._known.chunks -= len(chosen)
            self._known.tokens -= sum(batch.chunks.tokens[at] for _, (at, _) in chosen)
            for fingerprint, (at, document) in chosen:
                row = batch.documents[document]
                chunks = batch.chunks
                content = Content(fingerprint, chunks.context[at], chunks.body[at], chunks.tokens[at])
                self._in_flight[fingerprint] = (content, row.content_sha256)
            for fingerprint, (at, document) in chosen:
                row = batch.documents[document]
                yield _pending(self._in_flight[fingerprint][0], row.doc_id, batch.chunks.ordinal[at])

    def _places(self, batch: StagedBatch) -> dict[bytes, tuple[int, int]]:
        """First place (chunk, document) of each distinct text; of a document with a refused text nothing is paid
        for.
        """
        places: dict[bytes, tuple[int, int]] = {}
        for document, (_, _, first, last) in enumerate(batch.spans()):
            fingerprints = batch.chunks.fingerprint[first:last]
            if self.refused and not self.refused.keys().isdisjoint(fingerprints):
                continue
            self._known.chunks += last - first
            self._known.tokens += sum(batch.chunks.tokens[first:last])
            for at, fingerprint in enumerate(fingerprints, first):
                places.setdefault(fingerprint, (at, document))
        return places

    def _stored_texts(self, space: Space) -> Iterator[Pending]:
        leader = space.versions[0].version
        for batch in texts_lacking(self._conn, self._ctx.tenant_id, leader):
            for text in batch:
                if text.content.fingerprint not in self.refused:
                    yield _pending(text.content, text.doc_id, text.ordinal)

    def _keep_new(self, space: Space, batch: Finished) -> None:
        contents = [self._in_flight[fingerprint][0] for fingerprint in batch.fingerprints]
        targets = [_target(each) for each in space.versions]
        with self._conn.transaction():
            mark_unsettled(self._conn, self._ctx.tenant_id)
            write_new(self._conn, self._ctx.tenant_id, targets, contents, batch.vectors)
            self._purse.pay(space.spec, batch)

    def _keep_stored(self, space: Space, batch: Finished) -> None:
        """Small transactions: an update is HOT while its page has room, and what a commit replaced makes room for
        the next.
        """
        targets = [_target(each) for each in space.versions]
        fingerprints, vectors = batch.fingerprints, batch.vectors
        step = max(self._stored_rows // COMMIT_PART, COMMIT_LEAST)
        for at in range(0, len(fingerprints), step):
            with self._conn.transaction():
                some = fingerprints[at : at + step]
                write_vectors(self._conn, self._ctx.tenant_id, targets, some, vectors[at : at + step])
                drop_letters_of_embedded_texts(self._conn, self._ctx.tenant_id, some)
                if at == 0:
                    self._purse.pay(space.spec, batch)

    def _refuse(self, refused: Refused) -> None:
        """Quarantine at once, so that a crash does not lead to paying for the refusal again."""
        pending = refused.pending
        self.refused[pending.fingerprint] = (refused.reason, refused.detail)
        _, sha = self._in_flight.pop(pending.fingerprint, (None, None))
        letter = DeadLetter(
            "embeddings",
            pending.doc_id,
            refused.reason,
            refused.detail,
            ordinal=pending.ordinal,
            fingerprint=pending.fingerprint,
            content_sha256=sha,
            tried_with=self._tried,
        )
        put_dead_letters(self._conn, self._ctx.tenant_id, self._ctx.run_id, [letter])


def _target(version: Version) -> Target:
    spec = version.spec
    return Target(version.version, spec.storage, spec.dims, spec.normalize)


def _pending(content: Content, doc_id: str, ordinal: int) -> Pending:
    return Pending(content.fingerprint, embedded_text(content.context, content.body), content.tokens, doc_id, ordinal)
