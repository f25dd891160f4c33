"""Great Expectations find what is broken, name the rows, and pass on what is sound."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from eval_tenant import add_tenant, build, context

from kb_pipeline.fingerprint import fingerprint
from kb_pipeline.planner.model import IndexParams
from kb_pipeline.store.database import Database

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(300)]

DOCUMENTS = {f"d{n}": [f"The kettle number {n} boils water for tea in {n} minutes."] for n in range(40)}


def chunks(**changed: Any) -> Any:
    """Ten sound chunks; `changed` are values of the fourth."""
    import pandas as pd

    rows: list[dict[str, Any]] = [
        {"doc_id": "a.md", "ordinal": n, "start": n * 10, "end": n * 10 + 9, "size": 100, "kind": "paragraph",
         "tokens": 5, "body": f"text {n}\n\tmore", "fingerprint_right": True}
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
