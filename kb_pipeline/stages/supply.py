"""Vectors that need no embedder, and texts that must wait: what is taken out of the stream before a lane sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from kb_pipeline.embed.lane import Finished, Pending
from kb_pipeline.embed.protocol import Vectors
from kb_pipeline.stages.context import StageContext
from kb_pipeline.stages.wanted import Space
from kb_pipeline.store.bank import drop_vectors, find_vectors, has_vectors, shared_vectors, space_key, text_key
from kb_pipeline.store.batches import has_items, items_of, remember_items

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.rows import TupleRow

_GROUP = 256


class Supply:
    """The bank (imported vectors, collected batch jobs), tenants that share theirs, and jobs at the provider."""

    def __init__(self, ctx: StageContext, conn: Connection[TupleRow], space: Space, *, submits: bool) -> None:
        self._ctx = ctx
        self._conn = conn
        self._space = space
        self._key = space_key(space.spec)
        self._banked = has_vectors(conn, ctx.tenant_id, self._key)
        self._partners = partners(ctx)
        self._needed = submits or self._banked or bool(self._partners) or has_items(conn, ctx.tenant_id, self._key)
        self.waiting = 0
        """Texts that are with a batch job."""
        self.refused: set[bytes] = set()
        """Texts that a batch job refused: they go through the sync lane."""

    def rest(
        self, texts: Iterator[Pending], *, keep: Callable[[Finished], None], skip: Callable[[Sequence[bytes]], None]
    ) -> Iterator[Pending]:
        """The texts that have to be sent. Found vectors go to `keep`, waiting texts to `skip`."""
        if not self._needed:  # a back-fill may be slowed down to a few texts a minute: do not gather them
            yield from texts
            return
        while group := list(islice(texts, _GROUP)):
            found, keys = self._found(group)
            if found:
                fingerprints = list(found)
                keep(Finished(fingerprints, np.stack([found[one] for one in fingerprints]), 0, 0, 0))
                drop_vectors(self._conn, self._ctx.tenant_id, self._key, keys)
            items = items_of(self._conn, self._ctx.tenant_id, self._key, [one.fingerprint for one in group])
            waiting = [one for one, refused in items.items() if not refused and one not in found]
            self.refused.update(fingerprint for fingerprint, refused in items.items() if refused)
            self.waiting += len(waiting)
            if waiting:
                remember_items(self._conn, self._ctx.tenant_id, self._key, waiting)
            skip(waiting)
            gone = found.keys() | set(waiting)
            yield from (one for one in group if one.fingerprint not in gone)

    def _found(self, group: Sequence[Pending]) -> tuple[dict[bytes, Vectors], list[bytes]]:
        """Vectors by fingerprint, and the bank's keys that are used up by them."""
        found: dict[bytes, Vectors] = {}
        used: list[bytes] = []
        if self._banked:
            keys = {key: one.fingerprint for one in group for key in (text_key(one.text), one.fingerprint)}
            stored = find_vectors(self._conn, self._ctx.tenant_id, self._key, list(keys))
            found.update((keys[key], vector) for key, vector in stored.items())
            used = list(stored)
        left = [one.fingerprint for one in group if one.fingerprint not in found]
        if self._partners and left:
            with self._ctx.db.connect("owner") as owner:
                found.update(shared_vectors(owner, self._partners, self._space.versions[0].version, left))
        return found, used


def partners(ctx: StageContext) -> list[str]:
    """Other tenants that share too: nobody's vectors are used, and nobody learns of them, without their own setting."""
    if not ctx.tenant.embedder.share_across_tenants:
        return []
    others = (ctx.settings.tenant(name) for name in ctx.settings.tenants if name != ctx.tenant_id)
    return [one.tenant_id for one in others if one.embedder.share_across_tenants]
