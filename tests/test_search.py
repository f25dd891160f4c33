"""Search on real Postgres, under the reader's role: right results, filters, isolation, switches."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import psycopg
import pytest
from index_helpers import Corpus, add_version, build, clustered, load, measured, near, serve, spec_of

from kb_pipeline.config.schema import Settings
from kb_pipeline.errors import ConfigError, NotLive
from kb_pipeline.index.promote import promote, rollback
from kb_pipeline.search.filters import Condition, parse_where
from kb_pipeline.search.hit import Hit
from kb_pipeline.search.retriever import Retriever, embedder_config
from kb_pipeline.store.database import Database
from kb_pipeline.store.search_sql import search_build

DIMS = 32
ROWS = 3000
VECTORS = clustered(ROWS, DIMS)
QUERIES = near(VECTORS, 30)


@pytest.fixture
def corpus(db: Database) -> Corpus:
    return load(db, "acme", VECTORS)


@pytest.fixture
def retriever(db: Database) -> Iterator[Retriever]:
    with Retriever(db, Settings(), max_connections=2) as one:
        yield one


def numbers(hits: list[Hit]) -> list[int]:
    return [int(hit.doc_id[5:11]) for hit in hits]


def recall(
    retriever: Retriever, corpus: Corpus, where: list[Condition], keep: Callable[[dict[str, Any]], bool], k: int = 10
) -> float:
    found = 0
    for query in QUERIES:
        want = corpus.exact(query, k, keep)
        got = numbers(retriever.search_vector(query, tenant="acme", version=corpus.version, k=k, where=where))
        assert len(got) == len(set(got)) == len(want)
        assert all(keep(corpus.metadata[i]) for i in got)
        found += len(set(want) & set(got))
    return found / (k * len(QUERIES))


FILTERS = [
    pytest.param([], lambda m: True, id="all"),
    pytest.param([Condition("half", "eq", 1)], lambda m: m["half"] == 1, id="50 %"),
    pytest.param([Condition("tenth", "eq", 3)], lambda m: m["tenth"] == 3, id="10 %"),
    pytest.param([Condition("cent", "eq", 3)], lambda m: m["cent"] == 3, id="1 %"),
    pytest.param(
        [Condition("number", "ge", 100), Condition("number", "lt", 400)],
        lambda m: 100 <= m["number"] < 400,
        id="range",
    ),
    pytest.param([Condition("tenth", "in", [1, 2, 3])], lambda m: m["tenth"] in (1, 2, 3), id="in"),
    pytest.param([Condition("name", "prefix", "n0012")], lambda m: m["name"].startswith("n0012"), id="prefix"),
    pytest.param([Condition("name", "gt", "n002")], lambda m: m["name"] > "n002", id="text range"),
    pytest.param([Condition("half", "eq", 1), Condition("tenth", "eq", 3)], lambda m: m["tenth"] == 3, id="both"),
]  # fmt: skip


@pytest.mark.parametrize(("where", "keep"), FILTERS)
def test_exact_builds_give_the_brute_force_result(
    db: Database, corpus: Corpus, retriever: Retriever, where: list[Condition], keep: Callable[[dict[str, Any]], bool]
) -> None:
    serve(db, corpus, method="exact")
    assert recall(retriever, corpus, where, keep) == 1.0


@pytest.mark.parametrize("storage", ["vector", "halfvec", "binary"])
def test_hnsw_finds_what_brute_force_finds(db: Database, corpus: Corpus, retriever: Retriever, storage: str) -> None:
    serve(db, corpus, storage=storage, m=16, ef_construction=64)
    for where, keep in (param.values for param in FILTERS):
        assert recall(retriever, corpus, where, keep) >= (0.8 if storage == "binary" else 0.95), where  # type: ignore[arg-type]


def test_scores_are_cosine_similarities_in_order(db: Database, corpus: Corpus, retriever: Retriever) -> None:
    serve(db, corpus)
    query = 7 * QUERIES[0]
    hits = retriever.search_vector(query, tenant="acme", version=corpus.version, k=5)
    expected = corpus.vectors[numbers(hits)] @ (query / np.linalg.norm(query))
    assert [hit.score for hit in hits] == pytest.approx(list(expected), abs=1e-4)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    first = hits[0]
    assert first.text == corpus.bodies[numbers(hits)[0]] and first.metadata == corpus.metadata[numbers(hits)[0]]
    assert (first.ordinal, first.start, first.end, first.heading_path) == (0, 0, len(first.text), ["Heading"])


def test_the_index_of_the_live_build_is_used_and_no_other(db: Database, corpus: Corpus, retriever: Retriever) -> None:
    first = serve(db, corpus)
    second = build(db, corpus).build_id
    for query in QUERIES:
        retriever.search_vector(query, tenant="acme", version=corpus.version)
        retriever.search_vector(query, tenant="acme", version=corpus.version, where=[Condition("half", "eq", 1)])
    retriever.close()
    deadline = time.monotonic() + 60  # a backend that leaves reports its figures a moment later
    while (scans := index_scans(db))[f"kb_build_{first}"] < 2 * len(QUERIES) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert scans[f"kb_build_{first}"] >= 2 * len(QUERIES)
    assert scans[f"kb_build_{second}"] == 0
    with db.connect("reader", "acme") as conn:
        assert search_build(conn, "acme", second, QUERIES[0], 10)
    while index_scans(db)[f"kb_build_{second}"] != 1:
        assert time.monotonic() < deadline + 10
        time.sleep(0.05)


def index_scans(db: Database) -> dict[str, int]:
    with db.connect("owner", autocommit=True) as conn:
        conn.execute("SELECT pg_stat_force_next_flush()")
        rows = conn.execute(
            "SELECT indexrelname, idx_scan FROM pg_stat_user_indexes WHERE indexrelname LIKE 'kb_build_%'"
        )
        return dict(rows.fetchall())  # type: ignore[arg-type]


def test_orphans_and_unplaced_contents_are_never_returned_and_take_no_place(
    db: Database, corpus: Corpus, retriever: Retriever
) -> None:
    serve(db, corpus)
    query = QUERIES[0]
    order = corpus.exact(query, 60)
    gone = [corpus.fingerprints[i] for i in order[:40]]
    with db.connect("owner") as conn:
        conn.execute("UPDATE kb.contents SET orphaned_at = now() WHERE fingerprint = ANY(%s)", (gone[:20],))
        conn.execute("DELETE FROM kb.chunks WHERE fingerprint = ANY(%s)", (gone,))
    hits = retriever.search_vector(query, tenant="acme", version=corpus.version, k=10, ef_search=200)
    assert numbers(hits) == order[40:50]


def test_one_hit_for_one_text_with_all_its_documents(db: Database, retriever: Retriever) -> None:
    # Contents 0 to 29 hold the same body under other headings, so k distinct texts are further away than k contents.
    vectors = np.concatenate([np.tile(VECTORS[:1], (30, 1)) + 0.001 * VECTORS[:30], VECTORS[30:600]]).astype(np.float32)
    bodies = ["N/A"] * 30 + [f"text {i}" for i in range(570)]
    contexts = [f"heading {i}" for i in range(30)] + [""] * 570
    corpus = load(db, "acme", vectors, bodies=bodies, contexts=contexts)
    for method in ("exact", "hnsw"):
        serve(db, corpus, method=method)
        hits = retriever.search_vector(vectors[0], tenant="acme", version=corpus.version, k=10)
        assert len(hits) == 10 and len({hit.text for hit in hits}) == 10
        assert hits[0].text == "N/A" and len(hits[0].also_in) >= 11 and hits[0].doc_id not in hits[0].also_in


def test_the_first_place_that_passes_and_the_others_beside_it(
    db: Database, corpus: Corpus, retriever: Retriever
) -> None:
    serve(db, corpus)
    row = corpus.exact(QUERIES[0], 1)[0]
    with db.connect("owner") as conn:
        for doc, team in (("a", 1), ("b", 2), ("c", 2)):
            conn.execute(
                "INSERT INTO kb.documents (tenant_id, doc_id, uri, content_sha256, metadata, format, chunker) "
                "VALUES ('acme', %s, %s, '', "
                "jsonb_build_object('team', %s::int, 'tags', ARRAY['x', 'y']), 'md', 'test')",
                (doc, f"file:///{doc}", team),
            )
            conn.execute(
                "INSERT INTO kb.chunks VALUES ('acme', %s, 0, %s, 5, 9, '{}', 'text')", (doc, corpus.fingerprints[row])
            )
    own = f"docs/{row:06d}.md"

    def first(*where: Condition) -> tuple[str, list[str]]:
        hit = retriever.search_vector(QUERIES[0], tenant="acme", version=corpus.version, k=1, where=where)[0]
        return hit.doc_id, hit.also_in

    assert first() == ("a", ["b", "c", own])
    assert first(Condition("team", "eq", 2)) == ("b", ["c"])
    assert first(Condition("tags", "eq", "y")) == ("a", ["b", "c"])
    assert first(Condition("number", "eq", row)) == (own, [])


def test_all_there_are_when_fewer_than_k_and_500_when_asked(db: Database, corpus: Corpus, retriever: Retriever) -> None:
    serve(db, corpus)
    for k in (1, 3, 500):
        assert len(retriever.search_vector(QUERIES[0], tenant="acme", version=corpus.version, k=k)) == k
    few = retriever.search_vector(
        QUERIES[0], tenant="acme", version=corpus.version, k=100, where=[Condition("cent", "eq", 7)]
    )
    assert numbers(few) == corpus.exact(QUERIES[0], 100, lambda m: m["cent"] == 7)
    assert (
        retriever.search_vector(QUERIES[0], tenant="acme", version=corpus.version, where=[Condition("absent", "eq", 7)])
        == []
    )
    with pytest.raises(ConfigError, match="1 to 500"):
        retriever.search_vector(QUERIES[0], tenant="acme", version=corpus.version, k=501)


def test_types_do_not_mix(db: Database, retriever: Retriever) -> None:
    metadata: list[dict[str, Any]] = [
        {"v": 3},
        {"v": "3"},
        {"v": 3.0},
        {"v": True},
        {"v": None},
        {"v": [3, "x"]},
        {"v": {"a": 1}},
        {},
    ]
    corpus = load(db, "acme", VECTORS[:8], metadata=metadata)
    serve(db, corpus, method="exact")

    def rows(condition: Condition) -> list[int]:
        return sorted(
            numbers(retriever.search_vector(QUERIES[0], tenant="acme", version=corpus.version, where=[condition]))
        )

    assert rows(Condition("v", "eq", 3)) == [0, 2, 5]
    assert rows(Condition("v", "eq", "3")) == [1]
    assert rows(parse_where("v=3")) == [0, 1, 2, 5]
    assert rows(Condition("v", "eq", None)) == [4]
    assert rows(Condition("v", "ge", 3)) == [0, 2]
    assert rows(Condition("v", "ge", "3")) == [1]
    assert rows(Condition("v", "prefix", "")) == [1]
    assert rows(Condition("v", "in", [True, "x"])) == [3, 5]
    assert rows(Condition("v", "in", [])) == []


HOSTILE = [
    "' OR true --",
    '"; DROP TABLE kb.chunks; --',
    "$1",
    "%s",
    "{0,of}",
    "a\\' OR 1=1",
    "%(x)s",
    "key'}' #>> '{}",
    "💥",
    "x" * 10_000,
]


@pytest.mark.parametrize("method", ["exact", "hnsw"])
def test_keys_and_values_made_of_sql_do_no_harm(
    db: Database, corpus: Corpus, retriever: Retriever, method: str
) -> None:
    serve(db, corpus, method=method)
    with db.connect("owner") as conn:
        conn.execute(
            "UPDATE kb.documents SET metadata = metadata || %s::jsonb WHERE doc_id = 'docs/000007.md'",
            ('{"\' OR true --": "\' OR true --"}',),
        )
    for text in HOSTILE:
        for op in ("eq", "ge", "prefix"):
            found = retriever.search_vector(
                QUERIES[0], tenant="acme", version=corpus.version, where=[Condition(text, op, text)]
            )  # type: ignore[arg-type]
            assert numbers(found) == ([7] if text == HOSTILE[0] else [])
            assert (
                retriever.search_vector(
                    QUERIES[0], tenant="acme", version=corpus.version, where=[Condition("name", "eq", text)]
                )
                == []
            )


@pytest.mark.parametrize("tenant", ["acme' OR true --", "../acme", "ACME", "", "a" * 64, "acme\x00"])
def test_a_tenant_id_that_is_none_is_refused(db: Database, corpus: Corpus, retriever: Retriever, tenant: str) -> None:
    serve(db, corpus)
    with pytest.raises(ConfigError):
        retriever.search("anything", tenant=tenant)
    with pytest.raises(ConfigError):
        retriever.search_vector(QUERIES[0], tenant=tenant, version=corpus.version)


def test_tenants_with_the_same_documents_see_only_their_own(db: Database, corpus: Corpus, retriever: Retriever) -> None:
    other = load(db, "other", VECTORS[:500], metadata=[{"owner": "other"}] * 500)
    serve(db, corpus)
    serve(db, other)
    for query in QUERIES[:5]:
        assert all(
            h.metadata == {"owner": "other"}
            for h in retriever.search_vector(query, tenant="other", version=other.version, k=500)
        )
        assert all(
            "owner" not in h.metadata
            for h in retriever.search_vector(query, tenant="acme", version=corpus.version, k=500)
        )


def test_the_functions_check_the_tenant_themselves(db: Database, corpus: Corpus) -> None:
    build_id = serve(db, corpus)
    query = "SELECT count(*) FROM kb.search_build(%s, %s, %b, 5, NULL, '[]')"
    with db.connect("reader", "acme", autocommit=True) as conn:
        assert conn.execute(query, ("acme", build_id, QUERIES[0])).fetchone() == (5,)
    for tenant in ("other", None):
        with db.connect("reader", tenant, autocommit=True) as conn:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                conn.execute(query, ("acme", build_id, QUERIES[0]))
            with pytest.raises(psycopg.errors.NoDataFound):
                conn.execute("SELECT set_config('kb.tenant', 'other', false)")
                conn.execute(query, ("other", build_id, QUERIES[0]))
            for internal in (
                "kb.search_filter('[]', 'x')",
                "kb.search_check('acme')",
                "kb.search_passing('acme', '[]', 'true', 1)",
            ):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    conn.execute(f"SELECT {internal}".encode())


def test_nothing_live_is_an_error_of_its_own(db: Database, corpus: Corpus, retriever: Retriever) -> None:
    build(db, corpus)
    with pytest.raises(NotLive, match="kb run --tenant acme"):
        retriever.search("anything", tenant="acme")
    with pytest.raises(NotLive, match="nothing is live"):
        retriever.search_vector(QUERIES[0], tenant="acme", version=corpus.version)


def test_wrong_dims_zero_and_nan_are_refused(db: Database, corpus: Corpus, retriever: Retriever) -> None:
    serve(db, corpus)
    with pytest.raises(ConfigError, match="16 dims"):
        retriever.search_vector(np.ones(16, np.float32), tenant="acme", version=corpus.version)
    for bad in (np.zeros(DIMS, np.float32), np.full(DIMS, np.nan, np.float32)):
        with pytest.raises(ConfigError, match="zero or not finite"):
            retriever.search_vector(bad, tenant="acme", version=corpus.version)


def test_a_version_in_soak_is_searchable_and_a_retired_one_names_the_live(
    db: Database, corpus: Corpus, retriever: Retriever
) -> None:
    serve(db, corpus)
    newer = load(db, "acme", clustered(ROWS, 16, seed=5), spec=spec_of(16, "halfvec", "newer"))
    serve(db, newer)
    assert len(retriever.search_vector(QUERIES[0], tenant="acme", version=corpus.version)) == 10
    assert len(retriever.search_vector(newer.vectors[0], tenant="acme", version=newer.version)) == 10
    third = add_version(db, "acme", spec_of(8, "vector", "third"))
    with pytest.raises(NotLive, match=f"v{third}; v{newer.version} .newer. is live"):
        retriever.search_vector(np.ones(8, np.float32), tenant="acme", version=third)
    rollback(db, "acme", by="test")
    assert len(retriever.search_vector(QUERIES[0], tenant="acme", version=corpus.version)) == 10


class Recording:
    """An embedder that gives prepared vectors and counts its calls."""

    def __init__(self, spec: Any, vector: Any) -> None:
        self.spec, self.vector, self.calls = spec, vector, 0

    def embed_queries(self, texts: list[str]) -> Any:
        self.calls += 1
        from kb_pipeline.embed.protocol import Embedded

        return Embedded(np.tile(self.vector, (len(texts), 1)), 1)


def test_a_switch_of_model_is_noticed_by_the_next_search(
    db: Database, corpus: Corpus, retriever: Retriever, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer = load(db, "acme", clustered(ROWS, 16, seed=5), spec=spec_of(16, "vector", "newer"))
    made = {
        "test": Recording(spec_of(DIMS), QUERIES[0]),
        "newer": Recording(spec_of(16, model="newer"), newer.vectors[3]),
    }
    monkeypatch.setattr("kb_pipeline.embed.registry.make_embedder", lambda config: made[config.model])
    serve(db, corpus)
    assert numbers(retriever.search("q", tenant="acme", k=3)) == corpus.exact(QUERIES[0], 3)
    serve(db, newer)
    assert numbers(retriever.search("q", tenant="acme", k=3)) == newer.exact(newer.vectors[3], 3)
    assert (made["test"].calls, made["newer"].calls) == (2, 1)
    rollback(db, "acme", by="test")
    assert numbers(retriever.search("q", tenant="acme", k=3)) == corpus.exact(QUERIES[0], 3)


def test_a_rebuild_goes_live_without_embedding_again(
    db: Database, corpus: Corpus, retriever: Retriever, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Recording(spec_of(DIMS), QUERIES[0])
    monkeypatch.setattr("kb_pipeline.embed.registry.make_embedder", lambda config: made)
    serve(db, corpus)
    retriever.search("q", tenant="acme")
    second = build(db, corpus).build_id
    measured(db, "acme", second, "pass")
    promote(db, "acme", second, by="test")
    retriever.search("q", tenant="acme")
    assert made.calls == 2


def test_the_tenant_does_not_stay_on_a_pooled_connection(db: Database, corpus: Corpus, retriever: Retriever) -> None:
    serve(db, corpus)
    retriever.search_vector(QUERIES[0], tenant="acme", version=corpus.version)
    with retriever._pool.connection() as conn:
        row = conn.execute(
            "SELECT current_setting('kb.tenant', true), current_user, (SELECT count(*) FROM kb.contents)"
        ).fetchone()
    assert row == ("", "kb_reader", 0)


def test_a_dead_pooled_connection_is_replaced(db: Database, corpus: Corpus, retriever: Retriever) -> None:
    serve(db, corpus)
    retriever.search_vector(QUERIES[0], tenant="acme", version=corpus.version)
    with psycopg.connect(db.dsn, autocommit=True) as admin:
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    assert len(retriever.search_vector(QUERIES[0], tenant="acme", version=corpus.version)) == 10


def test_the_embedder_of_a_stored_version_keeps_endpoints_only_of_its_own_provider() -> None:
    from kb_pipeline.config.schema import EmbedderConfig
    from kb_pipeline.embed.protocol import EmbedderSpec

    configured = EmbedderConfig(provider="openai", model="b", base_url="http://here", dims=4)
    kept = embedder_config(configured, EmbedderSpec("openai", "a", 8, "vector"))
    assert (kept.model, kept.dims, kept.base_url) == ("a", 8, "http://here")
    assert embedder_config(configured, EmbedderSpec("local", "a", 8, "vector")).base_url is None
