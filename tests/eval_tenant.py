"""A tenant made by hand for the eval tests: documents, chunks, contents with real vectors, builds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from kb_pipeline.config.schema import Settings
from kb_pipeline.embed.protocol import Embedder, EmbedderSpec
from kb_pipeline.embed.registry import make_embedder
from kb_pipeline.fingerprint import fingerprint
from kb_pipeline.planner.model import IndexParams
from kb_pipeline.stages.context import NullProgress, StageContext
from kb_pipeline.staging import Staging
from kb_pipeline.store.builds import add_build, finish_build
from kb_pipeline.store.database import Database
from kb_pipeline.store.index_ddl import create_index, leaf_partition
from kb_pipeline.store.live import switch
from kb_pipeline.store.versions import ensure_version


def context(db: Database, tenant_id: str, **sections: Any) -> StageContext:
    """What `evaluate` is given; `sections` are sections of kb.toml. Evaluating stages nothing."""
    settings = Settings.model_validate({**sections, "eval": {"latency_seconds": 0.2, **sections.get("eval", {})}})
    staging = cast(Staging, None)
    return StageContext(settings, settings.tenant(tenant_id), db, staging, "run-1", NullProgress())


def add_tenant(
    db: Database,
    tenant_id: str,
    documents: Mapping[str, Sequence[str]],
    *,
    embedder: Embedder | None = None,
    kind: str = "paragraph",
) -> int:
    """A tenant with these documents, each a list of chunk texts; gives the embedding version's number."""
    settings = Settings()
    embedder = embedder or make_embedder(settings.embedder)
    with db.connect("owner", autocommit=True) as conn:
        conn.execute("INSERT INTO kb.tenants (tenant_id) VALUES (%s) ON CONFLICT DO NOTHING", (tenant_id,))
    version = ensure_version(db, tenant_id, embedder.spec).version
    texts = {fingerprint("", text): text for chunks in documents.values() for text in chunks}
    vectors = embedder.embed_documents(list(texts.values())).vectors if texts else []
    tokens = embedder.counter.count(list(texts.values())) if texts else []
    with db.connect("owner") as conn, conn.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO kb.documents (tenant_id, doc_id, uri, content_sha256, format, chunker)"
            " VALUES (%s, %s, %s, '', 'text', 'test')",
            [(tenant_id, doc_id, f"file:///{doc_id}") for doc_id in documents],
        )
        cursor.executemany(
            "INSERT INTO kb.chunks (tenant_id, doc_id, ordinal, fingerprint, start_offset, end_offset, kind)"
            " VALUES (%s, %s, %s, %s, 0, %s, %s)",
            [
                (tenant_id, doc_id, ordinal, fingerprint("", text), len(text), kind)
                for doc_id, chunks in documents.items()
                for ordinal, text in enumerate(chunks)
            ],
        )
        cursor.executemany(
            f"INSERT INTO kb.contents (tenant_id, fingerprint, context, body, tokens, embedding_v{version})"
            " VALUES (%s, %s, '', %s, %s, %s)",
            [(tenant_id, name, text, n, v) for (name, text), n, v in zip(texts.items(), tokens, vectors, strict=True)],
        )
        cursor.execute(
            "UPDATE kb.tenants SET contents = %s, inserted_total = %s WHERE tenant_id = %s",
            (len(texts), len(texts), tenant_id),
        )
    return version


def build(
    db: Database,
    tenant_id: str,
    version: int,
    *,
    params: IndexParams | None = None,
    slot: str = "a",
    live: bool = False,
) -> int:
    """A candidate build (exact without parameters), made live on wish."""
    with db.connect("owner", autocommit=True) as conn:
        state = "candidate" if params is None else "building"
        made = add_build(
            conn,
            tenant_id,
            version=version,
            slot=slot if params else None,
            params=params,
            rows=rows(db, tenant_id),
            state=state,
            run_id="run-1",
            detail={},
        )
        if params:
            leaf = leaf_partition(conn, tenant_id)
            spec = EmbedderSpec(**_embedder(db, version))
            conn.execute(
                create_index(
                    tenant_id,
                    made,
                    leaf,
                    version=version,
                    slot=slot,
                    params=params,
                    dims=spec.dims,
                    column_storage=spec.storage,
                )
            )
            finish_build(conn, made, seconds=1.5, detail={"params": asdict(params)})
        if live:
            with conn.transaction():
                switch(conn, tenant_id, made, by="test", why=None, eval_id=None)
    return made


def rows(db: Database, tenant_id: str) -> int:
    """Contents of the tenant."""
    with db.connect("owner") as conn:
        row = conn.execute("SELECT count(*) FROM kb.contents WHERE tenant_id = %s", (tenant_id,)).fetchone()
    return int(row[0]) if row else 0


def spend(db: Database, tenant_id: str, *, texts: int, usd: float) -> None:
    """A row of spend."""
    with db.connect("owner") as conn:
        conn.execute(
            "INSERT INTO kb.spend (tenant_id, run_id, model, texts, tokens, usd) VALUES (%s, 'run-1', 'm', %s, %s, %s)",
            (tenant_id, texts, texts * 10, usd),
        )


def stored(db: Database, tenant_id: str) -> list[tuple[Any, ...]]:
    """(verdict, reasons, measurements) of all eval runs."""
    with db.connect("owner") as conn:
        return list(
            conn.execute(
                "SELECT verdict, reasons, measurements FROM kb.eval_runs WHERE tenant_id = %s ORDER BY eval_id",
                (tenant_id,),
            )
        )


def _embedder(db: Database, version: int) -> dict[str, Any]:
    with db.connect("owner") as conn:
        row = conn.execute("SELECT embedder FROM kb.embedding_versions WHERE version = %s", (version,)).fetchone()
    assert row is not None
    return row[0]


def golden_folder(
    folder: Path, questions: Mapping[str, str], judgments: Sequence[tuple[str, str, int]], *, header: bool = True
) -> Path:
    """A golden set in BEIR layout."""
    import json

    (folder / "qrels").mkdir(parents=True)
    lines = [json.dumps({"_id": qid, "text": text}) for qid, text in questions.items()]
    (folder / "queries.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    table = ["query-id\tcorpus-id\tscore"] if header else []
    table += ["\t".join((qid, doc, str(grade))) for qid, doc, grade in judgments]
    (folder / "qrels" / "test.tsv").write_text("\n".join(table) + "\n", encoding="utf-8")
    return folder
