"""What a run would do, and cost, with nothing written and nothing embedded."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace

from kb_pipeline.errors import MassDeletionRefused
from kb_pipeline.planner.diff import guard_mass_deletion
from kb_pipeline.stages.chunks import ChunksSummary, chunk_manifest
from kb_pipeline.stages.context import StageContext
from kb_pipeline.stages.documents import ALLOW_FLAG, DocumentsSummary, scan_source
from kb_pipeline.stages.fingerprints import ChangeSetSummary, compare_chunks
from kb_pipeline.stages.staged import chunks_schema, manifest_schema
from kb_pipeline.staging import open_staging
from kb_pipeline.store.documents import count_documents


@dataclass(frozen=True, slots=True)
class Preview:
    """What `kb plan` shows of the first stages."""

    documents: DocumentsSummary
    chunks: ChunksSummary
    change_set: ChangeSetSummary
    mass_deletion: str | None = None
    """Why a run would refuse to delete, None when it would not."""


def scan_preview(ctx: StageContext) -> Preview:
    """Run the stages before `embeddings` in a folder of their own. Writes nothing to Postgres and asks no embedder.

    Raises `SourceError` when the source cannot be read.
    """
    with (
        tempfile.TemporaryDirectory(prefix="kb-plan-") as folder,
        ctx.db.connect("writer", ctx.tenant_id, autocommit=True) as conn,
    ):
        here = replace(ctx, staging=open_staging(folder))
        manifest, chunks, change_set = (
            here.staging.output_url(ctx.tenant_id, asset, "plan") for asset in ("documents", "chunks", "fingerprints")
        )
        with here.staging.writer(manifest, manifest_schema()) as writer:
            documents, _ = scan_source(here, conn, writer, allow_mass_delete=True)
        with here.staging.writer(chunks, chunks_schema(with_status=False)) as writer:
            chunked, _ = chunk_manifest(here, manifest, writer)
        with here.staging.writer(change_set, chunks_schema(with_status=True)) as writer:
            compared = compare_chunks(here, conn, chunks, writer)
        return Preview(
            documents, chunked, compared, _mass_deletion(here, documents, count_documents(conn, ctx.tenant_id))
        )


def _mass_deletion(ctx: StageContext, documents: DocumentsSummary, indexed: int) -> str | None:
    try:
        guard_mass_deletion(
            indexed=indexed,
            listed=documents.listed,
            vanished=documents.deleted,
            max_fraction=ctx.tenant.sources.max_delete_fraction,
            flag=ALLOW_FLAG,
        )
    except MassDeletionRefused as refused:
        return str(refused)
    return None
