"""Weekly revisions of real documentation: chunks true to the files, texts embedded once, no needless write."""

from __future__ import annotations

from pathlib import Path

import pytest

from evals.bench.corpora import clone
from evals.bench.invariants import row_versions, violations
from evals.bench.workspace import Workspace
from kb_pipeline.config.schema import Settings
from kb_pipeline.stages import chunks, documents, embeddings, fingerprints
from kb_pipeline.stages.context import NullProgress, StageContext
from kb_pipeline.staging import open_staging
from kb_pipeline.store.database import Database
from kb_pipeline.store.listing import chunk_rows
from kb_pipeline.store.tenants import sync_tenants

TENANT = "default"


class Replay:
    """The stages up to the embeddings, in this process, and what was embedded so far."""

    def __init__(self, db: Database, source: Path, staging: Path) -> None:
        self.db = db
        self.settings = Settings.model_validate({"tenants": {TENANT: {"source": str(source), "patterns": ["**/*.md"]}}})
        self.staging = staging
        self.runs = 0
        self.seen: set[str] = set()
        with db.connect("owner") as conn:
            sync_tenants(conn, {TENANT: {}}, pause_missing=False)

    def run(self) -> int:
        """One run; how many texts it embedded."""
        self.runs += 1
        ctx = StageContext(
            settings=self.settings,
            tenant=self.settings.tenant(TENANT),
            db=self.db,
            staging=open_staging(str(self.staging)),
            run_id=f"run{self.runs}",
            progress=NullProgress(),
        )
        documents.run(ctx)
        chunks.run(ctx)
        fingerprints.run(ctx)
        return embeddings.run(ctx).texts

    def rows(self) -> list[dict[str, object]]:
        """What `kb chunks` prints."""
        with self.db.connect("reader", TENANT) as conn:
            return list(chunk_rows(conn, TENANT, doc_id=None))

    def never_seen(self, rows: list[dict[str, object]]) -> int:
        """Distinct fingerprints that no earlier call had."""
        fresh = {str(row["fingerprint"]) for row in rows} - self.seen
        self.seen |= fresh
        return len(fresh)


@pytest.mark.parametrize("name", ["prometheus", "opentelemetry"])
def test_every_week_is_indexed_truly_and_paid_once(name: str, tmp_path: Path, db: Database, test_data: Path) -> None:
    """After each week no paragraph is missing, no absent file has chunks, and only new texts were embedded."""
    corpus = clone(name, tmp_path, data=test_data)
    replay = Replay(db, corpus.tree, tmp_path / "staging")
    for revision in corpus.revisions:
        tree = corpus.checkout(revision)
        embedded = replay.run()
        rows = replay.rows()
        assert violations(tree, rows)[:5] == [], revision.week
        assert embedded == replay.never_seen(rows), revision.week
    with db.connect("owner") as conn:
        written = row_versions(conn)
    assert replay.run() == 0
    with db.connect("owner") as conn:
        assert row_versions(conn) == written


def test_powershell_copies_of_a_version_and_an_unchanged_week(tmp_path: Path, db: Database, test_data: Path) -> None:
    """By `kb run`: a week that copies a version tree embeds only what is new; the unchanged run writes no row."""
    corpus = clone("powershell", tmp_path, data=test_data)
    space = Workspace(tmp_path / "work", {"KB_DSN": db.dsn})
    space.configure(f'[tenants.default]\nsource = "{corpus.tree}"\npatterns = ["**/*.md"]\n')
    seen: set[str] = set()
    for revision in corpus.revisions[1:3]:
        tree = corpus.checkout(revision)
        before = space.texts_embedded()
        space.kb("run", "--until", "embeddings")
        rows = space.chunks()
        assert violations(tree, rows)[:5] == [], revision.week
        fresh = {row["fingerprint"] for row in rows} - seen
        assert space.texts_embedded() - before == len(fresh), revision.week
        seen |= fresh
    with db.connect("owner") as conn:
        written = row_versions(conn)
    before = space.texts_embedded()
    space.kb("run", "--until", "embeddings")
    assert space.texts_embedded() == before
    with db.connect("owner") as conn:
        assert row_versions(conn) == written
