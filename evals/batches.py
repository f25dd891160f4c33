"""The frames that data checks look at: chunks as staged or stored, vectors, indexes. Sampled when large."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from evals.data_quality import CONTROL
from kb_pipeline.errors import StaleStage
from kb_pipeline.fingerprint import fingerprint
from kb_pipeline.stages.context import StageContext
from kb_pipeline.store import eval_checks
from kb_pipeline.store.eval_runs import newest_eval_run
from kb_pipeline.store.search_sql import search_build
from kb_pipeline.store.stage_outputs import newest

if TYPE_CHECKING:
    from pandas import DataFrame

CHUNK_COLUMNS = (
    "where", "doc_id", "ordinal", "start", "end", "size", "kind", "tokens", "body", "length", "span",
    "fingerprint_right",
)  # fmt: skip
SUSPECTS = 1_000
"""Rows that look wrong and are taken beside a sample, at most."""
PROBES = 50
"""Embedded rows that are looked for through an index."""
WALKED = 300_000
"""Rows up to which all of an index's graph is walked: about 2.5 s for each 100,000."""
UNIT = (0.99, 1.01)
"""Length of a vector that counts as one."""
CONVERTED = ("office", "html", "notebook")
"""Formats whose text can be longer than their file."""


def chunk_frame(ctx: StageContext) -> DataFrame:
    """Chunks as they stand in the tables, and as they were staged last (`where`); of many an even sample, and beside it
    every one that looks wrong."""
    import pandas as pd

    with ctx.db.connect("writer", ctx.tenant_id) as conn:
        limits = {"max_tokens": ctx.tenant.chunking.max_tokens, "limit": SUSPECTS}
        stored = eval_checks.sampled_chunks(conn, ctx.tenant_id, limit=ctx.tenant.eval.check_rows)
        stored += eval_checks.suspected_chunks(conn, ctx.tenant_id, control=CONTROL.replace(r"\x00", r"\x01"), **limits)
    once = {(row["doc_id"], row["ordinal"]): row for row in stored}
    rows = [_checked("stored", row) for row in once.values()]
    return pd.DataFrame([*rows, *_staged(ctx)], columns=[*CHUNK_COLUMNS])


def _staged(ctx: StageContext) -> list[dict[str, Any]]:
    """Every n-th document of the newest output of `chunks`, so that about `check_rows` chunks are read; and those with
    something that looks wrong, or that stand there twice."""
    with ctx.db.connect("writer", ctx.tenant_id) as conn:
        output = newest(conn, ctx.tenant_id, "chunks")
    if output is None:
        return []
    every = max(1, -(-int(output.summary.get("chunks", 0)) // ctx.tenant.eval.check_rows))
    rows: list[dict[str, Any]] = []
    seen: set[str] = set()
    place = suspects = 0
    try:
        for batch in ctx.staging.read(output.url):
            for document in batch.to_pylist():
                chunks: list[dict[str, Any]] = document["chunks"] or []
                place += bool(chunks)
                wrong = document["doc_id"] in seen or any(_suspected(ctx, chunk) for chunk in chunks)
                seen.add(document["doc_id"])
                if not chunks or (place % every and (not wrong or suspects > SUSPECTS)):
                    continue
                suspects += wrong
                about = {
                    "doc_id": document["doc_id"],
                    "format": document["format"],
                    "state": json.loads(document["state"] or "{}"),
                    "characters": document.get("characters"),
                }
                rows += [_checked("staged", {**about, **chunk}) for chunk in chunks]
    except StaleStage:  # cleared since
        return []
    return rows


def _suspected(ctx: StageContext, chunk: Mapping[str, Any]) -> bool:
    text = chunk["context"] + chunk["body"]
    return (
        not 1 <= chunk["tokens"] <= ctx.tenant.chunking.max_tokens
        or not 0 <= chunk["start"] < chunk["end"]
        or chunk["end"] - chunk["start"] != len(chunk["body"])
        or re.search(CONTROL, text) is not None
    )


def source_size(characters: int | None, format_: str | None, state: Mapping[str, Any]) -> int | None:
    """Characters of the text that offsets refer to; where they were not noted (documents indexed before they were),
    the bytes of the source, which its characters cannot outnumber; None where that is not known either."""
    if characters:
        return int(characters)
    size = state.get("size")
    return int(size) if isinstance(size, int) and format_ not in CONVERTED else None


def _checked(where: str, row: Mapping[str, Any]) -> dict[str, Any]:
    text = "\n\n".join(part for part in (row["context"], row["body"]) if part)
    return {name: row.get(name) for name in CHUNK_COLUMNS} | {
        "where": where,
        "body": text if row["body"].strip() else row["body"],
        "length": len(row["body"]),
        "span": row["end"] - row["start"],
        "size": source_size(row.get("characters"), row.get("format"), row.get("state") or {}),
        "fingerprint_right": fingerprint(row["context"], row["body"]) == bytes(row["fingerprint"]),
    }


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


def vector_frame(ctx: StageContext, version: int, *, unit: bool = True) -> DataFrame:
    """An even sample of one version's vectors, in figures; `unit`: and every one whose length is not about 1."""
    import pandas as pd

    with ctx.db.connect("writer", ctx.tenant_id) as conn:
        found = eval_checks.sampled_vectors(conn, ctx.tenant_id, version, limit=ctx.tenant.eval.check_rows)
        if unit:
            found += eval_checks.suspected_vectors(conn, ctx.tenant_id, version, norm=UNIT, limit=SUSPECTS)
    return pd.DataFrame(
        [figures(version, name, vector) for name, vector in dict(found).items()],
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
    """Each build with an index: whether it is there, valid, used by a search, and holds what is embedded.

    Up to `WALKED` rows every element of the graph is walked to, so the rows that no search can reach are known by name;
    of more, a sample is searched for.
    """
    import pandas as pd

    with ctx.db.connect("owner", autocommit=True) as conn:
        builds = eval_checks.indexes(conn, ctx.tenant_id)
    return pd.DataFrame([_index_row(ctx, build) for build in builds])


def _index_row(ctx: StageContext, build: eval_checks.IndexState) -> dict[str, Any]:
    with ctx.db.connect("owner", autocommit=True) as conn:
        probes = eval_checks.sampled_vectors(conn, ctx.tenant_id, build.version, limit=PROBES, searchable=True)
        embedded = eval_checks.embedded(conn, ctx.tenant_id, build.version)
        before = eval_checks.scans(conn, build.index_name)
    with ctx.db.connect("reader", ctx.tenant_id, autocommit=True) as conn:
        found = 0
        for _, vector in probes:
            hits = search_build(conn, ctx.tenant_id, build.build_id, np.asarray(vector, np.float32), 1, 200)
            found += bool(hits) and hits[0][1] < 1e-3
        eval_checks.flush_figures(conn)
    with ctx.db.connect("owner", autocommit=True) as conn:
        used = not probes or eval_checks.scans(conn, build.index_name) > before
        walked = build.exists and build.valid and embedded <= WALKED
        walk = eval_checks.walk_index(conn, ctx.tenant_id, build) if walked else None
    held, looked_for, lost = (
        (walk.reached, walk.embedded, walk.lost) if walk else (found if build.exists else 0, len(probes), ())
    )
    return {
        "build_id": build.build_id,
        "state": build.state,
        "exists": build.exists,
        "valid": build.exists and build.valid,
        "used": used,
        "rows_embedded": embedded,
        "looked_for": looked_for,
        "found": held,
        "found_share": held / looked_for if looked_for else 1.0,
        "how": "walked the whole graph" if walk else "searched for a sample",
        "not_found": ", ".join(lost) or "-",
    }
