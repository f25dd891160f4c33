"""`kill -9` during `kb run`, at moments drawn from a seed: running again leads to the state of an undisturbed run."""

from __future__ import annotations

from pathlib import Path

from evals.bench.chaos import disturb, problems, settings, write_documents
from evals.bench.workspace import Workspace
from kb_pipeline.store.database import Database

KILLS = 3
SEED = 20


def test_killed_runs_lead_to_the_same_state(tmp_path: Path, db: Database) -> None:
    """Same chunks, no INVALID index, no build left half made, nothing paid twice but what was in flight."""
    space = Workspace(tmp_path / "work", {"KB_DSN": db.dsn, **settings(tmp_path / "embedder")})
    docs = tmp_path / "docs"
    write_documents(docs, 40, SEED)
    found, calm = disturb(space, docs, kills=KILLS, seed=SEED, change_after=KILLS // 2)
    assert problems(found, calm) == []
    assert found.kills >= KILLS // 2, "the kills came too late to disturb anything"
