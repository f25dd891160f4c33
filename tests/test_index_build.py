"""Builds on real Postgres: slots, memory, failure, crash and recovery."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import time
from datetime import timedelta

import psycopg
import pytest
from index_helpers import Corpus, Facts, build, clustered, load, measured, serve, spec_of

from kb_pipeline.config.schema import IndexConfig
from kb_pipeline.errors import ConfigError, GateRefused, IndexBuildError, NotLive
from kb_pipeline.index.build import build_hnsw
from kb_pipeline.index.promote import promote, rollback
from kb_pipeline.index.recover import drop_build, recover
from kb_pipeline.planner.model import Build, IndexParams
from kb_pipeline.store.builds import read_build, standing_builds
from kb_pipeline.store.database import Database
from kb_pipeline.store.index_ddl import our_indexes
from kb_pipeline.store.locks import build_lock
from kb_pipeline.store.orphans import collect_orphans
from kb_pipeline.store.unfinished import unfinished
from kb_pipeline.store.versions import read_version

DIMS = 32


@pytest.fixture
def corpus(db: Database) -> Corpus:
    return load(db, "acme", clustered(2000, DIMS))


def indexes(db: Database) -> list[str]:
    with db.connect("owner") as conn:
        return our_indexes(conn)


def states(db: Database, tenant: str = "acme") -> dict[int, str]:
    with db.connect("owner") as conn:
        return dict(
            conn.execute("SELECT build_id, state FROM kb.builds WHERE tenant_id = %s ORDER BY 1", (tenant,)).fetchall()
        )  # type: ignore[arg-type]


def test_a_candidate_has_its_row_its_index_and_its_figures(db: Database, corpus: Corpus) -> None:
    progress = Facts()
    action = Build(corpus.version, "hnsw", IndexParams(8, 32, "vector"), "first", "2,000 contents")
    with db.connect("owner") as conn:
        version = read_version(conn, corpus.version)
        conn.execute("UPDATE kb.tenants SET inserted_total = 2500, deleted_total = 500")
    built = build_hnsw(db, "acme", action, version, IndexConfig(), run_id="r1", progress=progress)
    with db.connect("owner") as conn:
        row = conn.execute(
            "SELECT method, slot, params, index_name, rows_at_build, inserted_at_build, deleted_at_build, "
            "seconds > 0, bytes, state, "
            "detail, run_id FROM kb.builds WHERE build_id = %s",
            (built.build_id,),
        ).fetchone()
        definition = conn.execute("SELECT indexdef, indisvalid FROM pg_indexes JOIN pg_index ON indexrelid = "
                                  "to_regclass('kb.' || indexname) "
                                  "WHERE indexname = %s", (f"kb_build_{built.build_id}",)).fetchone()  # fmt: skip
        left = conn.execute(
            "SELECT count(*) FROM pg_class WHERE relname LIKE 'contents_p%%' AND reloptions::text LIKE "
            "'%%parallel_workers%%'"
        )
        assert left.fetchone() == (0,)
    assert row is not None and definition is not None
    assert row[:8] == (
        "hnsw",
        "a",
        {"m": 8, "ef_construction": 32, "storage": "vector"},
        f"kb_build_{built.build_id}",
        2000,
        2500,
        500,
        True,
    )
    assert row[8] == built.bytes > 2000 * 4 * DIMS and row[9] == "candidate" and row[11] == "r1"
    assert row[10]["reason"] == "2,000 contents" and row[10]["memory_mb"] == built.memory_mb <= built.allowed_mb
    assert "vector_cosine_ops" in definition[0] and "'acme'" in definition[0] and definition[1]
    assert (
        progress.tasks == [("hnsw index (vector, m=8)", 2000, "rows")]
        and progress.advanced == 2000
        and progress.ended == 1
    )


def test_the_two_slots_alternate_and_the_live_build_is_never_given_up(db: Database, corpus: Corpus) -> None:
    first = build(db, corpus)
    promote(db, "acme", first.build_id, by="t", why="t", force=True)
    second = build(db, corpus)
    third = build(db, corpus)
    assert (first.slot, second.slot, third.slot) == ("a", "b", "b") and third.dropped == second.build_id
    promote(db, "acme", third.build_id, by="t", why="t", force=True)
    fourth = build(db, corpus)
    assert fourth.slot == "a" and fourth.dropped == first.build_id
    assert states(db) == {
        first.build_id: "dropped",
        second.build_id: "dropped",
        third.build_id: "live",
        fourth.build_id: "candidate",
    }
    assert indexes(db) == [f"kb_build_{third.build_id}", f"kb_build_{fourth.build_id}"]
    with pytest.raises(NotLive, match="no previous build"):
        rollback(db, "acme", by="t")


@pytest.mark.parametrize(
    ("dims", "column", "storage", "opclass"),
    [(2000, "vector", "vector", "vector_cosine_ops"), (2500, "halfvec", "halfvec", "halfvec_cosine_ops"),
     (2500, "vector", "halfvec", "halfvec_cosine_ops"), (4500, "halfvec", "binary", "bit_hamming_ops")],
)  # fmt: skip
def test_every_size_has_an_index_that_postgres_takes(
    db: Database, dims: int, column: str, storage: str, opclass: str
) -> None:
    from kb_pipeline.index.params import resolve_params

    corpus = load(db, "acme", clustered(60, dims), spec=spec_of(dims, column))
    assert resolve_params(IndexConfig(), dims, column).storage == storage
    build(db, corpus, storage=storage)
    with db.connect("owner") as conn:
        row = conn.execute("SELECT indexdef FROM pg_indexes WHERE indexname LIKE 'kb_build_%%'").fetchone()
    assert row and opclass in row[0]


def test_an_empty_tenant_has_an_exact_build_of_no_rows(db: Database) -> None:
    corpus = load(db, "acme", clustered(1, DIMS)[:0])
    built = build(db, corpus, method="exact")
    assert (built.slot, built.rows) == (None, 0) and states(db) == {built.build_id: "candidate"} and indexes(db) == []


def test_what_is_not_allowed_is_said_before_anything_starts(db: Database) -> None:
    corpus = load(db, "acme", clustered(9000, 256))
    with pytest.raises(IndexBuildError, match=r"build_memory_mb = \d+"):
        build(db, corpus, build_memory_mb=16)
    assert states(db) == {} and indexes(db) == []


def test_a_graph_that_spills_is_a_failure_to_size(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = load(db, "acme", clustered(6000, 256))
    live = serve(db, corpus, method="exact")
    monkeypatch.setattr("kb_pipeline.index.build.maintenance_work_mem", lambda *_: 5)
    with pytest.raises(IndexBuildError, match="build_memory_mb = 10"):
        build(db, corpus)
    assert sorted(states(db).values()) == ["failed", "live"] and states(db)[live] == "live" and indexes(db) == []


def test_a_build_that_postgres_ends_leaves_nothing_but_a_failed_row(db: Database, corpus: Corpus) -> None:
    with db.connect("owner") as conn:
        conn.execute("UPDATE kb.contents SET embedding_v1 = NULL WHERE fingerprint = %s", (corpus.fingerprints[0],))
        conn.execute("ALTER TABLE kb.contents ALTER embedding_v1 TYPE vector")  # an index needs fixed dimensions
    with pytest.raises(IndexBuildError, match="What is live was not touched"):
        build(db, corpus)
    assert list(states(db).values()) == ["failed"] and indexes(db) == []


SLOW_BUILD = """
    import sys
    sys.path[:0] = {path!r}
    from index_helpers import *
    from kb_pipeline.store.database import Database
    corpus = Corpus("acme", 1, None, [], [])
    print("ready", flush=True)
    build(Database({dsn!r}), corpus, m=100, ef_construction=1000)
"""


@pytest.mark.parametrize("moment_s", [0.3, 1.0])
def test_kill_9_during_a_build_is_put_right_by_the_next(db: Database, moment_s: float) -> None:
    corpus = load(db, "acme", clustered(8000, 256))
    live = serve(db, corpus, method="exact")
    script = textwrap.dedent(SLOW_BUILD).format(path=sys.path, dsn=db.dsn)
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        with db.connect("owner", autocommit=True) as conn:
            wait_for(lambda: conn.execute("SELECT count(*) FROM kb.builds WHERE state = 'building'").fetchone() == (1,))
        assert recover(db).busy and not left_behind(db), "a build that is going on is left alone"
        time.sleep(moment_s)
        process.send_signal(signal.SIGKILL)
    wait_for(lambda: left_behind(db))  # so that `kb run` has something to do
    wait_for(lambda: not recover(db).busy)
    assert sorted(states(db).values()) == ["failed", "live"] and indexes(db) == [] and not left_behind(db)
    again = build(db, corpus)
    assert states(db)[live] == "live" and states(db)[again.build_id] == "candidate"
    assert indexes(db) == [f"kb_build_{again.build_id}"]


def left_behind(db: Database) -> bool:
    with db.connect("owner") as conn:
        return unfinished(conn, ["acme"])["acme"].builds


def wait_for(condition: object, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_recovery_drops_what_no_build_claims_and_leaves_the_rest(db: Database, corpus: Corpus) -> None:
    live = serve(db, corpus)
    with psycopg.connect(db.dsn, autocommit=True) as admin:
        admin.execute("SET ROLE kb_owner")
        admin.execute("CREATE INDEX kb_build_999 ON kb.contents_p0 (fingerprint)")
        admin.execute("CREATE INDEX somebody_elses ON kb.contents_p0 (fingerprint)")
    assert recover(db).dropped_indexes == ("kb_build_999",)
    assert recover(db) == type(recover(db))() and indexes(db) == [f"kb_build_{live}"]
    with db.connect("owner") as conn:
        assert conn.execute("SELECT to_regclass('kb.somebody_elses') IS NOT NULL").fetchone() == (True,)


def test_one_build_at_a_time(db: Database) -> None:
    with build_lock(db):
        assert recover(db).busy


def test_the_gate(db: Database, corpus: Corpus) -> None:
    live = serve(db, corpus)
    candidate = build(db, corpus).build_id
    with pytest.raises(GateRefused, match="not measured"):
        promote(db, "acme", candidate, by="t")
    measured(db, "acme", candidate, "fail", ("recall@10 is 0.71, the floor is 0.95",))
    with pytest.raises(GateRefused, match="recall@10 is 0.71"):
        promote(db, "acme", candidate, by="t")
    with pytest.raises(ConfigError, match="--why"):
        promote(db, "acme", candidate, by="t", force=True)
    assert states(db) == {live: "live", candidate: "candidate"}
    eval_id = measured(db, "acme", candidate, "pass")
    switched = promote(db, "acme", candidate, by="somebody")
    assert (switched.build_id, switched.previous_build_id) == (candidate, live)
    assert promote(db, "acme", candidate, by="again") == switched, "what is live already is left as it is"
    with db.connect("owner") as conn:
        assert conn.execute("SELECT eval_id, promoted_by FROM kb.live").fetchone() == (eval_id, "somebody")


def test_rollback_goes_back_and_forth_and_versions_follow(db: Database, corpus: Corpus) -> None:
    def versions() -> dict[int, str]:
        with db.connect("owner") as conn:
            return dict(
                conn.execute("SELECT version, state FROM kb.tenant_versions WHERE tenant_id = 'acme'").fetchall()
            )  # type: ignore[arg-type]

    first = serve(db, corpus)
    with pytest.raises(NotLive, match="no previous build"):
        rollback(db, "acme", by="t")
    newer = load(db, "acme", clustered(2000, 16), spec=spec_of(16, "vector", "newer"))
    second = serve(db, newer)
    assert versions() == {corpus.version: "previous", newer.version: "live"}
    assert rollback(db, "acme", by="t").build_id == first
    assert versions() == {corpus.version: "live", newer.version: "previous"} and states(db) == {
        first: "live",
        second: "previous",
    }
    assert rollback(db, "acme", by="t").build_id == second
    assert drop_build(db, "acme", first)
    assert versions() == {corpus.version: "retired", newer.version: "live"} and indexes(db) == [f"kb_build_{second}"]
    assert not drop_build(db, "acme", second), "the live build cannot be dropped"
    with db.connect("owner") as conn:
        assert conn.execute("SELECT previous_version, previous_build_id FROM kb.live").fetchone() == (None, None)


@pytest.mark.parametrize("build_id", [0, 424242])
def test_an_unknown_build_is_named(db: Database, corpus: Corpus, build_id: int) -> None:
    other = load(db, "other", clustered(10, DIMS))
    theirs = build(db, other, method="exact").build_id
    for one in (build_id, theirs):
        with pytest.raises(ConfigError, match=f"has no build {one}"):
            promote(db, "acme", one, by="t", force=True, why="t")
    with db.connect("owner") as conn:
        assert read_build(conn, "acme", theirs) is None and standing_builds(conn, "acme") == []


def test_orphans_are_collected_after_their_grace(db: Database, corpus: Corpus) -> None:
    old, young, used = corpus.fingerprints[:3]
    with db.connect("owner", autocommit=True) as conn:
        conn.execute(
            "UPDATE kb.contents SET orphaned_at = now() - interval '8 days' WHERE fingerprint = ANY(%s)", ([old, used],)
        )
        conn.execute("UPDATE kb.contents SET orphaned_at = now() - interval '6 days' WHERE fingerprint = %s", (young,))
        conn.execute("DELETE FROM kb.chunks WHERE fingerprint = ANY(%s)", ([old, young],))
        assert collect_orphans(conn, "acme", timedelta(days=7)) == 1
        left = {row[0] for row in conn.execute("SELECT fingerprint FROM kb.contents", binary=True)}
    assert old not in left and {young, used} <= left and len(left) == 1999
