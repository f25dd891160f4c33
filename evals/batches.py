"""The frames that data checks look at: chunks as staged or stored, vectors, indexes. Sampled when large."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from kb_pipeline.errors import StaleStage
from kb_pipeline.fingerprint import fingerprint
from kb_pipeline.stages.context import StageContext
from kb_pipeline.store import eval_checks
from kb_pipeline.store.eval_runs import newest_eval_run
from kb_pipeline.store.search_sql import search_build
from kb_pipeline.store.stage_outputs import newest

if TYPE_CHECKING:
    from pandas import DataFrame

CHUNK_COLUMNS = ("doc_id", "ordinal", "start", "end", "size", "kind", "tokens", "body", "fingerprint_right")
PROBES = 50
"""Embedded rows that are looked for through an index."""
CONVERTED = ("office",)
"""Formats whose text is longer than their file can be."""


def chunk_frame(ctx: StageContext) -> DataFrame:
    """The chunks that were staged last; where none were, those in the tables."""
    import pandas as pd

    frame = pd.DataFrame(_staged(ctx), columns=[*CHUNK_COLUMNS])
    if frame.empty:
        with ctx.db.connect("writer", ctx.tenant_id) as conn:
            rows = eval_checks.sampled_chunks(conn, ctx.tenant_id, limit=ctx.tenant.eval.check_rows)
        frame = pd.DataFrame([_checked(dict(row)) for row in rows], columns=[*CHUNK_COLUMNS])
    return frame


def _staged(ctx: StageContext) -> list[dict[str, Any]]:
    """Every n-th document of the newest output of `chunks`, so that about `check_rows` chunks are read."""
    with ctx.db.connect("writer", ctx.tenant_id) as conn:
        output = newest(conn, ctx.tenant_id, "chunks")
    if output is None:
        return []
    every = max(1, -(-int(output.summary.get("chunks", 0)) // ctx.tenant.eval.check_rows))
    rows: list[dict[str, Any]] = []
    place = 0
    try:
        for batch in ctx.staging.read(output.url):
            for document in batch.slice(0).to_pylist():
                chunks: list[dict[str, Any]] = document["chunks"] or []
                place += bool(chunks)
                if not chunks or place % every:
                    continue
                size = source_size(document["format"], json.loads(document["state"] or "{}"))
                rows += [_checked({"doc_id": document["doc_id"], "size": size, **chunk}) for chunk in chunks]
    except StaleStage:  # cleared since
        return []
    return rows


def source_size(format_: str | None, state: Mapping[str, Any]) -> int | None:
    """Bytes of the source, which its characters cannot outnumber; None where that is not known."""
    size = state.get("size")
    return int(size) if isinstance(size, int) and format_ not in CONVERTED else None


def _checked(row: dict[str, Any]) -> dict[str, Any]:
    right = fingerprint(row.pop("context"), row["body"]) == bytes(row.pop("fingerprint"))
    if "format" in row:
        row["size"] = source_size(row.pop("format"), row.pop("state") or {})
    return {name: row.get(name) for name in CHUNK_COLUMNS} | {"fingerprint_right": right}


def shifts(ctx: StageContext) -> dict[str, tuple[dict[str, int], dict[str, int]]]:
    """Kinds and languages: in the newest eval run, and now in the tables with what is staged and not yet applied."""
    with ctx.db.connect("writer", ctx.tenant_id) as conn:
        last = newest_eval_run(conn, ctx.tenant_id)
        output = newest(conn, ctx.tenant_id, "chunks")
        corpus: dict[str, Any] = last.measurements.get("corpus", {}) if last else {}
        staged: Counter[str] = Counter()
        replaced: list[str] = []
        if output is not None and not eval_checks.is_applied(conn, ctx.tenant_id, output.root_id or 0):
            try:
                for batch in ctx.staging.read(output.url):
                    for document in batch.select(["doc_id", "chunks"]).to_pylist():
                        replaced.append(document["doc_id"])
                        staged.update(chunk["kind"] for chunk in document["chunks"] or [])
            except StaleStage:
                replaced, staged = [], Counter()
        kinds = Counter(eval_checks.kinds(conn, ctx.tenant_id, without=replaced)) + staged
        languages = eval_checks.languages(conn, ctx.tenant_id)
    return {
        "kind of chunk": (dict(corpus.get("kinds", ())), dict(kinds)),
        "language": (dict(corpus.get("languages", ())), languages),
    }


def vector_frame(ctx: StageContext, version: int) -> DataFrame:
    """A sample of one version's vectors, in figures."""
    import pandas as pd

    with ctx.db.connect("writer", ctx.tenant_id) as conn:
        found = eval_checks.sampled_vectors(conn, ctx.tenant_id, version, limit=ctx.tenant.eval.check_rows)
    return pd.DataFrame(
        [figures(version, name, vector) for name, vector in found],
        columns=["version", "fingerprint", "dims", "finite", "norm", "spread", "digest"],
    )


def figures(version: int, name: bytes, vector: np.ndarray[Any, np.dtype[np.float32]]) -> dict[str, Any]:
    """One vector in figures."""
    values = np.asarray(vector, dtype=np.float64)
    norm = float(np.linalg.norm(values))
    return {
        "version": version,
        "fingerprint": name.hex(),
        "dims": values.size,
        "finite": bool(np.isfinite(values).all()),
        "norm": norm,
        "spread": float(values.std() * np.sqrt(values.size) / norm) if norm and values.size > 1 else 0.0,
        "digest": hashlib.blake2b(values.tobytes(), digest_size=16).hexdigest(),
    }


def index_frame(ctx: StageContext) -> DataFrame:
    """Each build with an index: whether it is there, valid, used by a search, and finds what is embedded."""
    import pandas as pd

    rows: list[dict[str, Any]] = []
    with ctx.db.connect("owner", autocommit=True) as conn:
        builds = eval_checks.indexes(conn, ctx.tenant_id)
    for build in builds:
        with ctx.db.connect("owner", autocommit=True) as conn:
            probes = eval_checks.sampled_vectors(conn, ctx.tenant_id, build.version, limit=PROBES, searchable=True)
            embedded = eval_checks.embedded(conn, ctx.tenant_id, build.version)
            before = eval_checks.scans(conn, build.index_name)
        found = 0
        with ctx.db.connect("reader", ctx.tenant_id, autocommit=True) as conn:
            for _, vector in probes:
                hits = search_build(conn, ctx.tenant_id, build.build_id, np.asarray(vector, np.float32), 1, 200)
                found += bool(hits) and hits[0][1] < 1e-3
            eval_checks.flush_figures(conn)
        with ctx.db.connect("owner", autocommit=True) as conn:
            after = eval_checks.scans(conn, build.index_name)
        rows.append(
            {
                "build_id": build.build_id,
                "state": build.state,
                "exists": build.exists,
                "valid": build.exists and build.valid,
                "used": not probes or after > before,
                "rows_embedded": embedded,
                "sampled": len(probes),
                "found": found,
                "found_share": found / len(probes) if probes else 1.0,
            }
        )
    return pd.DataFrame(rows)
