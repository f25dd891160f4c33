"""The first stage: what the source holds now, against what is indexed."""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from kb_pipeline.errors import DocumentRefused
from kb_pipeline.planner.diff import (
    DocumentKind,
    Indexed,
    Seen,
    classify,
    guard_mass_deletion,
    pair_renames,
    same_chunker,
)
from kb_pipeline.sources.model import RefusedItem, Source, SourceDocument, SourceItem
from kb_pipeline.stages.context import StageContext
from kb_pipeline.stages.quarantine import Quarantine, bad_id, tried_with
from kb_pipeline.stages.staged import RowBuffer, manifest_schema
from kb_pipeline.staging import OutputWriter
from kb_pipeline.store.dead_letters import (
    DeadLetter,
    drop_dead_letters,
    drop_letters_but,
    list_dead_letters,
    put_dead_letters,
)
from kb_pipeline.store.documents import indexed_documents, state_key, with_other_metadata
from kb_pipeline.store.stage_outputs import forget_old, register
from kb_pipeline.store.tenants import applied_manifest, ensure_tenant

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.rows import TupleRow

log = logging.getLogger(__name__)

ASSET = "documents"
ALLOW_FLAG = "--allow-mass-delete (in the UI: run configuration `allow_mass_delete: true`)"
_AT_ONCE = 500
"""Documents whose metadata are compared by one statement."""


@dataclass(frozen=True, slots=True)
class DocumentsSummary:
    """What the documents stage found."""

    new: int = 0
    changed: int = 0
    renamed: int = 0
    """Same bytes under another id; neither new nor deleted."""
    metadata_only: int = 0
    """The text after the front matter is the same."""
    deleted: int = 0
    unchanged: int = 0
    rechunked: int = 0
    """Of the unchanged: chunked anew because the chunker's settings changed."""
    refused: int = 0
    """In quarantine; what was indexed of them before stays searchable."""
    refused_reasons: dict[str, int] = field(default_factory=dict[str, int])
    listed: int = 0
    read: int = 0
    """Documents that were opened because their state could not tell that they are unchanged."""
    seconds: float = 0.0
    output_id: int | None = None
    """None for a preview."""


@dataclass(slots=True)
class Scan:
    """What a pass over the source gathers beside the manifest's rows."""

    indexed: dict[str, Indexed]
    counts: Counter[str] = field(default_factory=Counter[str])
    letters: list[DeadLetter] = field(default_factory=list[DeadLetter])
    """Refused in this pass."""
    cleared: list[str] = field(default_factory=list[str])
    """Documents with letters of later stages that are as indexed now, or gone."""
    seen: set[str] = field(default_factory=set[str])
    new: list[tuple[str, bytes]] = field(default_factory=list[tuple[str, bytes]])


def run(ctx: StageContext, *, allow_mass_delete: bool = False) -> DocumentsSummary:
    """Compare the source with the index and write the manifest; nothing is deleted or embedded.

    Raises `SourceError` when the source as a whole cannot be read, `MassDeletionRefused` when it lists far too little.
    """
    with ctx.db.connect("owner", autocommit=True) as owner:
        ensure_tenant(owner, ctx.tenant_id)
    with ctx.db.connect("writer", ctx.tenant_id, autocommit=True) as conn:
        base = applied_manifest(conn, ctx.tenant_id)
        url = ctx.staging.output_url(ctx.tenant_id, ASSET, ctx.run_id)
        with ctx.staging.writer(url, manifest_schema()) as writer:
            summary, scan = scan_source(ctx, conn, writer, allow_mass_delete=allow_mass_delete)
        with conn.transaction():
            output = register(
                conn,
                ctx.tenant_id,
                asset=ASSET,
                run_id=ctx.run_id,
                url=url,
                rows=writer.rows,
                summary=asdict(summary),
                parent=None,
                base_manifest=base,
            )
            drop_dead_letters(conn, ctx.tenant_id, scan.cleared)
            drop_letters_but(conn, ctx.tenant_id, ASSET, [letter.doc_id for letter in scan.letters])
            put_dead_letters(conn, ctx.tenant_id, ctx.run_id, scan.letters)
            old = forget_old(conn, ctx.tenant_id)
        for each in old:
            ctx.staging.delete(each)
    return replace(summary, output_id=output.output_id)


def scan_source(
    ctx: StageContext, conn: Connection[TupleRow], writer: OutputWriter, *, allow_mass_delete: bool
) -> tuple[DocumentsSummary, Scan]:
    """Write a row for each document that has to be chunked or deleted. Changes nothing in Postgres."""
    from kb_pipeline.sources.open import open_source

    started = time.perf_counter()
    scan = Scan(indexed_documents(conn, ctx.tenant_id))
    quarantine = Quarantine(list_dead_letters(conn, ctx.tenant_id), tried_with(ctx))
    rows = RowBuffer(writer, manifest_schema())
    task = ctx.progress.task("documents", None, "documents")
    try:
        source = open_source(ctx.tenant)
        for found in _changes(ctx, conn, source, scan, quarantine):
            rows.add(**found)
            task.advance(0)
        for item in _leaving(ctx, scan, quarantine, allow_mass_delete=allow_mass_delete):
            rows.add(**item)
        rows.flush()
        task.advance(len(scan.seen))
    finally:
        task.done()
    counts = scan.counts
    summary = DocumentsSummary(
        new=counts["new"] - counts["renamed"],
        changed=counts["changed"],
        renamed=counts["renamed"],
        metadata_only=counts["metadata_only"],
        deleted=counts["deleted"],
        unchanged=counts["unchanged"] + counts["rechunked"],
        rechunked=counts["rechunked"],
        refused=counts["refused"],
        refused_reasons=dict(quarantine.reasons),
        listed=len(scan.seen),
        read=counts["read"],
        seconds=time.perf_counter() - started,
    )
    return summary, scan


def text_sha256(document: SourceDocument) -> bytes:
    """SHA-256 of the text without its front matter: equal when only metadata was edited."""
    from kb_pipeline.sources.frontmatter import body_start

    start = body_start(document.text) if document.format.startswith(("markdown", "mdx")) else 0
    return sha256(document.text[start:].encode("utf-8", "surrogatepass")).digest()


def _changes(
    ctx: StageContext, conn: Connection[TupleRow], source: Source, scan: Scan, quarantine: Quarantine
) -> Iterator[dict[str, Any]]:
    """Manifest rows of what has to be chunked, from one pass over the source."""
    chunker = _chunker_id(ctx)
    touched: list[tuple[SourceItem, SourceDocument]] = []
    for item in source.list():
        doc_id = item.doc_id
        if isinstance(item, RefusedItem):
            _refuse(scan, quarantine, item, item.reason, item.detail)
            continue
        if reason := bad_id(doc_id) or bad_id(item.uri, longest=None):
            _refuse(scan, quarantine, item, "bad-id", reason)
            continue
        scan.seen.add(doc_id)
        known = scan.indexed.get(doc_id)
        if known and item.state and known.state_key == state_key(item.uri, item.state):
            if same_chunker(known.chunker, chunker):
                _unchanged(scan, quarantine, doc_id)
            else:
                scan.counts["rechunked"] += 1
                yield _row(item, "rechunked", known.content_sha256)
            continue
        try:
            document = source.read(item)
        except DocumentRefused as refused:
            _refuse(scan, quarantine, item, refused.reason, refused.detail)
            continue
        scan.counts["read"] += 1
        seen = Seen(document.content_sha256, text_sha256(document), chunker)
        kind = classify(known, seen)
        if kind is None:
            touched.append((item, document))
            if len(touched) >= _AT_ONCE:
                yield from _with_edited_metadata(ctx, conn, scan, quarantine, touched)
                touched.clear()
        elif quarantine.holds(doc_id, document.content_sha256):
            scan.counts["refused"] += 1
        else:
            yield _found(scan, item, kind, document.content_sha256)
    yield from _with_edited_metadata(ctx, conn, scan, quarantine, touched)


def _with_edited_metadata(
    ctx: StageContext,
    conn: Connection[TupleRow],
    scan: Scan,
    quarantine: Quarantine,
    touched: list[tuple[SourceItem, SourceDocument]],
) -> Iterator[dict[str, Any]]:
    """Of documents with the indexed bytes: those whose metadata or address are others; the rest is unchanged."""
    if not touched:
        return
    asked = [(item.doc_id, item.uri, json.dumps(dict(document.metadata))) for item, document in touched]
    edited = with_other_metadata(conn, ctx.tenant_id, asked)
    for item, document in touched:
        if item.doc_id in edited:
            yield _found(scan, item, "metadata_only", document.content_sha256)
        else:
            _unchanged(scan, quarantine, item.doc_id)


def _leaving(
    ctx: StageContext, scan: Scan, quarantine: Quarantine, *, allow_mass_delete: bool
) -> Iterator[dict[str, Any]]:
    """Manifest rows of indexed documents that the source has no more. Raises `MassDeletionRefused`."""
    vanished = {doc_id: known.content_sha256 for doc_id, known in scan.indexed.items() if doc_id not in scan.seen}
    renames = pair_renames(scan.new, vanished)
    if not allow_mass_delete:
        guard_mass_deletion(
            indexed=len(scan.indexed),
            listed=len(scan.seen),
            vanished=len(vanished) - len(renames),
            max_fraction=ctx.tenant.sources.max_delete_fraction,
            flag=ALLOW_FLAG,
        )
    scan.counts["renamed"] = len(renames)
    scan.counts["deleted"] = len(vanished) - len(renames)
    scan.cleared += sorted(quarantine.doc_ids - scan.seen - vanished.keys())
    for doc_id in sorted(vanished):
        renamed_to = renames.get(doc_id)
        kind = "deleted" if renamed_to is None else "renamed"
        yield {"doc_id": doc_id, "uri": "", "kind": kind, "renamed_to": renamed_to}


def _found(scan: Scan, item: SourceItem, kind: DocumentKind, content_sha256: bytes) -> dict[str, Any]:
    scan.counts[kind] += 1
    if kind == "new":
        scan.new.append((item.doc_id, content_sha256))
    return _row(item, kind, content_sha256)


def _row(item: SourceItem, kind: str, content_sha256: bytes) -> dict[str, Any]:
    state = json.dumps(dict(item.state))
    return {"doc_id": item.doc_id, "uri": item.uri, "kind": kind, "content_sha256": content_sha256, "state": state}


def _unchanged(scan: Scan, quarantine: Quarantine, doc_id: str) -> None:
    scan.counts["unchanged"] += 1
    if doc_id in quarantine.doc_ids:
        scan.cleared.append(doc_id)


def _refuse(scan: Scan, quarantine: Quarantine, item: SourceItem | RefusedItem, reason: str, detail: str) -> None:
    scan.seen.add(item.doc_id)
    scan.counts["refused"] += 1
    quarantine.reasons[reason] += 1
    scan.letters.append(DeadLetter(ASSET, item.doc_id, reason, detail, uri=item.uri))
    log.warning("%s refused: %s: %s", item.doc_id[:200], reason, detail)


class _NoCounter:
    """Stands for a token counter where only settings are compared, so that no tokenizer is loaded for an unchanged
    source.
    """

    name = ""

    def count(self, texts: Sequence[str]) -> list[int]:
        return [0 for _ in texts]


def _chunker_id(ctx: StageContext) -> str:
    from kb_pipeline.chunking.chunker import chunker_id

    return chunker_id(_NoCounter(), ctx.tenant.chunking)
