"""Weekly revisions of real documentation through the stages: chunks true to the files, every text embedded once, nothing written for nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from evals.bench.corpora import clone
from evals.bench.invariants import row_versions, violations
from evals.bench.workspace import Workspace
from kb_pipeline.store.database import Database


@pytest.mark.parametrize(("name", "weeks"), [("prometheus", 10), ("opentelemetry", 12)])
def test_every_week_is_indexed_truly_and_paid_once(name: str, weeks: int, tmp_path: Path, db: Database, test_data: Path) -> None:
    """After each week no paragraph is missing, no absent file has chunks, and only new texts were embedded."""


def test_powershell_copies_of_a_version_cost_nothing(tmp_path: Path, db: Database, test_data: Path) -> None:
    """The week that copies a version tree and an unchanged run, by `kb run`."""
    corpus = clone("powershell", tmp_path, data=test_data)
    space = Workspace(tmp_path / "work", {"KB_DSN": db.dsn})
    seen: set[str] = set()
    for revision in corpus.revisions[1:3]:
        tree = corpus.checkout(revision)
        before = space.texts_embedded()
        space.kb("run", "--source", tree, "--until", "embeddings")
        rows = space.chunks()
        assert violations(tree, rows)[:5] == []
        fresh = {row["fingerprint"] for row in rows} - seen
        assert space.texts_embedded() - before == len(fresh)
        seen |= fresh
    with db.connect("owner") as conn:
        before_rows = row_versions(conn)
    before = space.texts_embedded()
    space.kb("run", "--source", corpus.tree, "--until", "embeddings")
    assert space.texts_embedded() == before
    with db.connect("owner") as conn:
        assert row_versions(conn) == before_rows
