"""Great Expectations find what is broken, name the rows, and pass on what is sound."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg
import pytest
from eval_tenant import add_tenant, build, context

from kb_pipeline.chunking.model import Chunk
from kb_pipeline.fingerprint import fingerprint
from kb_pipeline.planner.model import IndexParams
from kb_pipeline.stages.context import StageContext
from kb_pipeline.stages.staged import StagedBatch, chunks_schema, to_arrow
from kb_pipeline.staging import open_staging
from kb_pipeline.store.database import Database
from kb_pipeline.store.documents import DocumentRow
from kb_pipeline.store.stage_outputs import register

pytestmark = pytest.mark.filterwarnings("ignore")

DOCUMENTS = {f"d{n}": [f"The kettle number {n} boils water for tea in {n} minutes."] for n in range(40)}


def chunks(**changed: Any) -> Any:
    """Ten sound chunks; `changed` are values of the fourth."""
    import pandas as pd

    rows: list[dict[str, Any]] = [
        {"where": "staged", "doc_id": "a.md", "ordinal": n, "start": n * 10, "end": n * 10 + 9, "size": 100,
         "kind": "paragraph", "tokens": 5, "body": f"text {n}\n\tmore", "length": 12, "span": 12,
         "fingerprint_right": True}
        for n in range(10)
    ]  # fmt: skip
    rows[3] |= changed
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"body": "a\x00b"}, "no text holds a control character"),
        ({"ordinal": 2}, "a document has each ordinal once"),
        ({"end": 101}, "a chunk ends inside its source"),
        ({"end": 30}, "a chunk ends behind its start"),
        ({"span": 13}, "a text is as long as its place in the source"),
        ({"tokens": 400}, "a chunk has 1 to 320 tokens"),
        ({"fingerprint_right": False}, "every fingerprint is that of its text"),
        ({"body": "  "}, "every chunk has a text"),
    ],
)
def test_a_broken_chunk_is_found_and_named(changed: dict[str, Any], expected: str) -> None:
    from evals.data_quality import chunk_findings

    assert all(one.passed for one in chunk_findings(chunks(), max_tokens=320))
    failed = [one for one in chunk_findings(chunks(**changed), max_tokens=320) if not one.passed]
    assert [one.expected for one in failed] == [expected]
    assert failed[0].rows[0]["doc_id"] == "a.md"


def test_a_tenant_without_vectors_has_nothing_wrong() -> None:
    import pandas as pd

    from evals.data_quality import vector_findings

    columns = ["version", "fingerprint", "dims", "finite", "norm", "spread", "digest"]
    assert all(one.passed for one in vector_findings(pd.DataFrame(columns=columns), dims=3, unit=True))


def test_a_moved_distribution_is_found() -> None:
    from evals.data_quality import shift_findings

    kept, moved = ({"a": 8, "b": 2}, {"a": 75, "b": 25}), ({"a": 8, "b": 2}, {"a": 2, "b": 8})
    assert [one.passed for one in shift_findings({"kind": kept})] == [True]
    assert [one.passed for one in shift_findings({"kind": moved})] == [False]
    assert shift_findings({"kind": ({}, {"a": 1})}) == []


@pytest.mark.parametrize(
    ("vector", "expected"),
    [
        ("'[0.5' || repeat(',0', 255) || ']'", "a vector has length 1 (within 0.01)"),
        ("'[0.0625' || repeat(',0.0625', 255) || ']'", "no vector is near-constant"),
    ],
)
def test_a_bad_vector_is_found(db: Database, home: Path, vector: str, expected: str) -> None:
    from evals.batches import vector_frame
    from evals.data_quality import vector_findings

    version = add_tenant(db, "t", DOCUMENTS)
    ctx = context(db, "t")
    assert all(one.passed for one in vector_findings(vector_frame(ctx, version), dims=256, unit=True))
    with db.connect("owner") as conn:
        query = f"UPDATE kb.contents SET embedding_v{version} = ({vector})::vector WHERE fingerprint = %s"
        conn.execute(query.encode(), (fingerprint("", DOCUMENTS["d7"][0]),))
    failed = [one for one in vector_findings(vector_frame(ctx, version), dims=256, unit=True) if not one.passed]
    assert [one.expected for one in failed] == [expected]
    assert failed[0].rows[0]["fingerprint"] == fingerprint("", DOCUMENTS["d7"][0]).hex()


def test_what_is_wrong_in_the_tables_or_in_staging_is_found_however_small_the_sample(
    db: Database, home: Path, tmp_path: Path
) -> None:
    """Postgres takes no NUL, so one can only be staged; every other control character can be in both."""
    from dataclasses import replace

    from evals.batches import chunk_frame
    from evals.data_quality import chunk_findings

    add_tenant(db, "t", DOCUMENTS)
    ctx = replace(context(db, "t", eval={"check_rows": 1}), staging=open_staging(str(tmp_path / "staging")))
    few = chunk_frame(ctx)
    assert len(few) < 10
    assert all(one.passed for one in chunk_findings(few, max_tokens=320))
    with db.connect("owner") as conn:
        conn.execute("UPDATE kb.documents SET characters = 20 WHERE doc_id = 'd7'")
        conn.execute(
            "UPDATE kb.contents SET body = E'a\\x01b' WHERE fingerprint = %s", (fingerprint("", DOCUMENTS["d9"][0]),)
        )
    stage(ctx, Chunk(0, 0, 3, "a\x00b", "", (), "paragraph", 2, fingerprint("", "a\x00b")), copies=2)
    findings = {one.expected: one for one in chunk_findings(chunk_frame(ctx), max_tokens=320) if not one.passed}

    def named(expected: str) -> set[tuple[str, str]]:
        return {(row["where"], row["doc_id"]) for row in findings[expected].rows}

    assert named("no text holds a control character") == {("stored", "d9"), ("staged", "s")}
    assert named("a document has each ordinal once") == {("staged", "s")}
    assert named("a chunk ends inside its source") == {("stored", "d7")}
    assert named("every fingerprint is that of its text") == {("stored", "d9")}
    assert named("a text is as long as its place in the source") == {("stored", "d9")}
    assert len(findings) == 5
    assert r"'a\x00b'" in {row["body"] for row in findings["no text holds a control character"].rows}


def stage(ctx: StageContext, chunk: Chunk, *, copies: int) -> None:
    """An output of the stage `chunks` that says a document this many times."""
    batch = StagedBatch()
    for _ in range(copies):
        batch.add(DocumentRow("s", "s", b"1" * 32, b"2" * 32, "{}", "{}", "text", "c", 3), "new", [chunk])
    url = ctx.staging.output_url("t", "chunks", "r")
    with ctx.staging.writer(url, chunks_schema(with_status=False)) as writer:
        writer.write(to_arrow(batch, with_status=False))
    with ctx.db.connect("writer", "t", autocommit=True) as conn:
        register(
            conn, "t", asset="chunks", run_id="r", url=url, rows=copies, summary={"chunks": 5_000}, parent=None
        )  # fmt: skip


@pytest.mark.parametrize("storage", ["vector", "halfvec", "binary"])
def test_rows_that_no_search_can_find_are_named(db: Database, home: Path, storage: str) -> None:
    from evals.batches import index_frame
    from evals.data_quality import index_findings

    version = add_tenant(db, "t", DOCUMENTS)
    made = build(db, "t", version, params=IndexParams(8, 32, storage), live=True)
    ctx = context(db, "t")
    (row,) = index_frame(ctx).to_dict("records")
    assert (row["rows_embedded"], row["looked_for"], row["found"], row["not_found"]) == (40, 40, 40, "-")
    text = "A content that came while the index slept."
    lost = fingerprint("", text).hex()
    with psycopg.connect(db.dsn, autocommit=True) as conn:
        for ready in ("false", "true"):
            awake = f"UPDATE pg_index SET indisready = {ready} WHERE indexrelid = 'kb.kb_build_{made}'::regclass"
            conn.execute(awake.encode())
            if ready == "false":
                conn.execute(
                    f"INSERT INTO kb.contents (tenant_id, fingerprint, context, body, tokens, embedding_v{version}) "
                    f"SELECT 't', '\\x{lost}', '', '{text}', 9, embedding_v{version} FROM kb.contents LIMIT 1".encode()
                )
    (row,) = index_frame(ctx).to_dict("records")
    assert (row["rows_embedded"], row["found"], row["used"]) == (41, 40, True)
    (failed,) = [one for one in index_findings(index_frame(ctx)) if not one.passed and "holds" in one.expected]
    assert failed.rows[0]["not_found"] == f"{lost[:16]} (no chunk refers to it)"


def test_a_missing_index_is_found(db: Database, home: Path) -> None:
    from evals.batches import index_frame
    from evals.data_quality import index_findings

    version = add_tenant(db, "t", DOCUMENTS)
    made = build(db, "t", version, params=IndexParams(8, 32, "vector"), live=True)
    ctx = context(db, "t")
    sound = index_findings(index_frame(ctx))
    assert [one.passed for one in sound] == [True] * 4, sound
    with db.connect("owner", autocommit=True) as conn:
        (name,) = conn.execute("SELECT index_name FROM kb.builds WHERE build_id = %s", (made,)).fetchone() or ("",)
        conn.execute(f'DROP INDEX kb."{name}"'.encode())
    failed = [one.expected for one in index_findings(index_frame(ctx)) if not one.passed]
    assert "every build has its index" in failed
    assert "a search uses the index" in failed
