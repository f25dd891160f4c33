"""Vectors that cost nothing: imported ones, exported and taken back, and those of tenants that share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from stage_world import DIMS, World, page, sent

from kb_pipeline.config.schema import Settings
from kb_pipeline.errors import ConfigError
from kb_pipeline.fingerprint import fingerprint
from kb_pipeline.stages.context import NullProgress, StageContext
from kb_pipeline.stages.exchange import export_vectors, import_vectors
from kb_pipeline.store.database import Database

PARAGRAPHS = [f"Paragraph {number} says something that no other says, at some length." for number in range(6)]


def made(db: Database, root: Path, tenant_id: str, **sections: Any) -> World:
    """A tenant with two documents of three paragraphs."""
    exact = {"chunking": {"max_tokens": 24}, "embedder": {"tokenizer": "cl100k_base"}}
    world = World(db, root, tenant_id, {**exact, **sections})
    with db.connect("owner") as conn:
        conn.execute("INSERT INTO kb.tenants (tenant_id) VALUES (%s) ON CONFLICT DO NOTHING", (tenant_id,))
    world.write({f"{at}.md": page("Title", PARAGRAPHS[at * 3 : at * 3 + 3]) for at in range(2)})
    return world


def write(file: Path, columns: dict[str, Any]) -> Path:
    """A Parquet file of these columns."""
    pq.write_table(pa.table(columns), file)
    return file


def test_what_was_exported_is_taken_in_place_of_the_embedder(db: Database, tmp_path: Path) -> None:
    first, second = made(db, tmp_path, "first"), made(db, tmp_path, "second")
    first.run()
    texts = first.one("SELECT count(*) FROM kb.contents WHERE tenant_id = %(t)s")
    file = tmp_path / "vectors.parquet"
    assert export_vectors(db, first.context().tenant, file, model=None) == texts
    assert import_vectors(db, second.context().tenant, file, model="m1") == texts
    planned = second.run_until_fingerprints()
    assert (planned.texts_to_embed, planned.texts_at_hand, planned.cost_usd) == (0, texts, 0.0)
    assert sent(second.run) == []
    assert second.query("SELECT FROM kb.vector_bank") == []
    query = "SELECT fingerprint, embedding_v1::text FROM kb.contents WHERE tenant_id = %(t)s ORDER BY 1"
    assert first.query(query) == second.query(query)
    second.require_true_counters()


def test_a_vector_is_found_by_text_or_by_fingerprint(db: Database, tmp_path: Path) -> None:
    world = made(db, tmp_path, "world")
    vectors = np.eye(DIMS, dtype=np.float32)[:2].tolist()
    texts = [f"Title\n\n{text}" for text in PARAGRAPHS[1:3]]
    import_vectors(
        db, world.context().tenant, write(tmp_path / "a.parquet", {"text": texts, "vector": vectors}), model=None
    )
    keys = [fingerprint("Title", text).hex() for text in PARAGRAPHS[4:]]
    import_vectors(
        db, world.context().tenant, write(tmp_path / "b.parquet", {"fingerprint": keys, "vector": vectors}), model="m1"
    )
    planned = world.run_until_fingerprints()
    assert (planned.texts_to_embed, planned.texts_at_hand) == (2, 4)
    found = sent(world.run)
    assert sorted(found) == sorted(f"# Title\n\n{PARAGRAPHS[at]}" for at in (0, 3))
    assert world.one("SELECT sum(texts)::int FROM kb.spend") == 2


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"text": ["a"], "vector": [[1.0, 2.0]]}, "row 0: the vector has 2 dims, not 16"),
        ({"text": ["a"]}, "`vector` and `fingerprint` or `text` are needed"),
        ({"fingerprint": ["abc"], "vector": [[1.0] * DIMS]}, "a fingerprint is 32 bytes"),
        ({"text": [None], "vector": [[1.0] * DIMS]}, "`text` is empty"),
        ({"text": ["a"], "vector": ["x"]}, "a list of floats is needed"),
    ],
)
def test_a_file_of_another_form_is_refused_whole(
    db: Database, tmp_path: Path, columns: dict[str, Any], words: str
) -> None:
    world = made(db, tmp_path, "world")
    with pytest.raises(ConfigError, match=words):
        import_vectors(db, world.context().tenant, write(tmp_path / "x.parquet", columns), model=None)
    assert world.query("SELECT FROM kb.vector_bank") == []


def test_vectors_of_another_model_are_refused(db: Database, tmp_path: Path) -> None:
    first = made(db, tmp_path, "first")
    first.run()
    file = tmp_path / "vectors.parquet"
    export_vectors(db, first.context().tenant, file, model=None)
    other = made(db, tmp_path, "other", embedder={"model": "m2", "tokenizer": "cl100k_base"})
    with pytest.raises(ConfigError, match="holds vectors of"):
        import_vectors(db, other.context().tenant, file, model=None)
    (tmp_path / "not.parquet").write_text("no")
    with pytest.raises(ConfigError, match="is not a Parquet file"):
        import_vectors(db, other.context().tenant, tmp_path / "not.parquet", model=None)


def both(first: World, second: World, one: dict[str, Any], two: dict[str, Any]) -> StageContext:
    """The second tenant's context in a file that holds both, each with its own [embedder]."""
    ctx = second.context()
    embedder = ctx.tenant.embedder.model_dump(exclude={"share_across_tenants"}, exclude_unset=True)
    tenants = {
        world.tenant_id: {"source": str(world.source), "embedder": {**embedder, **own}}
        for world, own in ((first, one), (second, two))
    }
    settings = Settings.model_validate({"chunking": {"max_tokens": 24}, "tenants": tenants})
    tenant = settings.tenant(second.tenant_id)
    return StageContext(settings, tenant, ctx.db, ctx.staging, ctx.run_id, NullProgress())


@pytest.mark.parametrize(("one", "two", "free"), [(True, True, True), (True, False, False), (False, True, False)])
def test_vectors_are_shared_only_where_both_tenants_say_so(
    db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one: bool, two: bool, free: bool
) -> None:
    first, second = made(db, tmp_path, "first"), made(db, tmp_path, "second")
    first.run()
    ctx = both(first, second, {"share_across_tenants": one}, {"share_across_tenants": two})
    monkeypatch.setattr(World, "context", lambda *_: ctx)
    planned = second.run_until_fingerprints()
    assert (planned.texts_to_embed, planned.texts_at_hand) == ((0, 6) if free else (6, 0))
    assert (sent(second.run) == []) is free
    assert second.one("SELECT count(*) FROM kb.documents WHERE tenant_id = %(t)s") == 2


def test_purging_a_document_takes_its_vectors_out_of_the_bank(db: Database, tmp_path: Path) -> None:
    from kb_pipeline.store.erase import purge_document

    world = made(db, tmp_path, "world")
    world.run()
    file = tmp_path / "vectors.parquet"
    export_vectors(db, world.context().tenant, file, model=None)
    import_vectors(db, world.context().tenant, file, model=None)
    table = pq.read_table(file)
    write(tmp_path / "texts.parquet", {"text": table.column("text"), "vector": table.column("vector")})
    import_vectors(db, world.context().tenant, tmp_path / "texts.parquet", model=None)
    with db.connect("owner", autocommit=True) as conn:
        purge_document(conn, "world", "0.md", world.context().staging)
    assert world.one("SELECT count(*) FROM kb.vector_bank") == 6
