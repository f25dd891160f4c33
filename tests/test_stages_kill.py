"""`kill -9` at chosen places of a run: the next one gives the state of an undisturbed run, and pays nothing twice."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from stage_world import SENT, Trouble, World, page

from kb_pipeline.store.database import Database

PLACES = [
    ("kb_pipeline.staging:OutputWriter.write", 1, "after"),
    ("kb_pipeline.stages.documents:register", 1, "after"),
    ("kb_pipeline.stages.chunks:register", 1, "before"),
    ("kb_pipeline.stages.fingerprints:register", 1, "after"),
    ("kb_pipeline.store.versions:_create", 1, "after"),
    ("kb_pipeline.stages.embedding:write_new", 1, "after"),
    ("kb_pipeline.stages.embedding:write_new", 3, "before"),
    ("kb_pipeline.stages.purse:add_spend", 2, "after"),
    ("kb_pipeline.store.documents:_insert_chunks", 1, "after"),
    ("kb_pipeline.stages.apply:apply_documents", 1, "after"),
    ("kb_pipeline.stages.embeddings:mark_applied", 1, "before"),
    ("kb_pipeline.stages.embedding:write_vectors", 2, "after"),
    ("kb_pipeline.stages.embeddings:set_tenant_version", 1, "before"),
]


def first(world: World) -> None:
    """What is indexed and served before the killed run."""
    world.write(
        {
            "stays.md": page("Stays", ["Apples are red and round."]),
            "edited.md": page("Edited", ["Pears are green and long.", "Plums are blue and small."]),
            "old-name.md": page("Named", ["Figs are brown and soft."]),
            "leaves.md": page("Leaves", ["Kiwis are hairy and green."]),
        }
    )
    world.run()
    world.serve(1)


def change(world: World) -> None:
    """A change of every kind, and another model."""
    (world.source / "old-name.md").rename(world.source / "new-name.md")
    world.write(
        {
            "edited.md": page("Edited", ["Pears are green and long.", "Quinces are yellow and hard."]),
            "leaves.md": None,
            "new.md": page("New", ["Dates are sweet and brown.", "Limes are sour and green."]),
            "bad.md": "---\ntitle: [broken\n---\n",
        }
    )
    world.sections["embedder"] = {"model": "m2", "max_batch_inputs": 1}


@pytest.mark.parametrize(("place", "nth", "when"), PLACES)
def test_a_killed_run_is_repaired_by_the_next(db: Database, tmp_path: Path, place: str, nth: int, when: str) -> None:
    SENT.clear()
    Trouble.poison = None
    Trouble.unavailable_after = None
    calm = World(db, tmp_path, "calm", {"chunking": {"max_tokens": 16}})
    killed = World(db, tmp_path, "killed", {"chunking": {"max_tokens": 16}})
    for world in (calm, killed):
        first(world)
        change(world)
    facts = {"dsn": db.dsn, "root": str(tmp_path), "tenant_id": "killed", "sections": killed.sections}
    command = [sys.executable, str(Path(__file__).parent / "stage_victim.py"), json.dumps(facts), place, str(nth), when]
    died = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent.parent, check=False)
    assert died.returncode == -9, died.stderr
    before = killed.one("SELECT coalesce(sum(texts), 0) FROM kb.spend WHERE tenant_id = %(t)s")
    killed.run()
    calm.run()
    assert killed.state() == calm.state()
    for world in (calm, killed):
        world.require_true_counters()
        states = world.query("SELECT state FROM kb.tenant_versions WHERE tenant_id = %(t)s ORDER BY version")
        assert states == [("complete",), ("complete",)]
    paid = [world.one("SELECT sum(texts) FROM kb.spend WHERE tenant_id = %(t)s") for world in (calm, killed)]
    assert paid[0] == paid[1] >= before, "what was committed is never paid again"
    rows = killed.versions_of_rows()
    assert killed.run().embeddings.texts == 0
    assert killed.versions_of_rows() == rows
