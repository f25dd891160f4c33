"""Stages `hnsw_index` and `live_index`: plan, build, gate, review, soak."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any, cast

import pytest
from index_helpers import Corpus, Facts, clustered, load, measured, spec_of

from kb_pipeline.cli.runs import in_words
from kb_pipeline.config.schema import EmbedderConfig, Settings
from kb_pipeline.embed.registry import resolve_spec
from kb_pipeline.errors import GateRefused, StaleStage
from kb_pipeline.index.promote import rollback
from kb_pipeline.stages import hnsw_index, live_index
from kb_pipeline.stages.context import StageContext
from kb_pipeline.staging import Staging
from kb_pipeline.store.database import Database
from kb_pipeline.store.eval_reads import newest_candidate

SPEC = resolve_spec(EmbedderConfig())


def context(db: Database, **sections: Any) -> StageContext:
    settings = Settings.model_validate(sections)
    return StageContext(settings, settings.tenant("acme"), db, cast(Staging, None), "run-1", Facts())


SMALL = {"exact_below": 100, "preset": "dev"}


@pytest.fixture
def corpus(db: Database) -> Corpus:
    return load(db, "acme", clustered(400, SPEC.dims), spec=SPEC)


def test_first_build_gate_promotion_and_then_nothing_to_do(db: Database, corpus: Corpus) -> None:
    ctx = context(db, index=SMALL)
    summary = hnsw_index.run(ctx)
    assert summary.build_id is not None
    assert (summary.method, summary.slot, summary.rows, summary.params["m"]) == ("hnsw", "a", 400, 8)
    assert 0 < summary.memory_used_mb <= summary.memory_allowed_mb and summary.bytes > 0 and summary.seconds > 0
    json.dumps(asdict(summary))
    with pytest.raises(StaleStage, match="eval_report"):
        live_index.run(ctx, by="t")
    assert hnsw_index.run(ctx).build_id is None, "the candidate answers the need already"
    measured(db, "acme", summary.build_id, "pass")
    live = live_index.run(ctx, by="somebody")
    assert (live.promoted, live.build_id, live.by, live.method, live.dims) == (
        True,
        summary.build_id,
        "somebody",
        "hnsw",
        SPEC.dims,
    )
    json.dumps(asdict(live))
    again = hnsw_index.run(ctx)
    assert again.build_id is None and again.reason
    unchanged = live_index.run(ctx, by="else")
    assert (unchanged.promoted, unchanged.build_id, unchanged.by) == (False, summary.build_id, "somebody")


def test_a_small_tenant_is_scanned_and_grows_into_an_index(db: Database, corpus: Corpus) -> None:
    def go(**index: Any) -> Any:
        ctx = context(db, index=index)
        summary = hnsw_index.run(ctx)
        measured(db, "acme", summary.build_id or 0, "pass")
        live_index.run(ctx, by="t")
        return summary

    assert (first := go(exact_below=1000)).method == "exact" and first.slot is None
    second = go(exact_below=300)
    assert second.method == "hnsw" and "400 contents" in second.reason


def test_a_refused_candidate_never_goes_live(db: Database, corpus: Corpus) -> None:
    ctx = context(db, index=SMALL)
    first = hnsw_index.run(ctx)
    measured(db, "acme", first.build_id or 0, "pass")
    live_index.run(ctx, by="t")
    worse = hnsw_index.run(context(db, index={**SMALL, "m": 4, "ef_construction": 8}))
    measured(db, "acme", worse.build_id or 0, "fail", ("recall@10 is 0.60, the floor is 0.95",))
    with pytest.raises(GateRefused, match="recall@10 is 0.60"):
        live_index.run(ctx, by="t")
    with db.connect("owner") as conn:
        assert conn.execute("SELECT build_id FROM kb.live").fetchone() == (first.build_id,)
        assert newest_candidate(conn, "acme") is None, "from now on the live build is measured"
    later = live_index.run(ctx, by="t")
    assert (later.refused, later.build_id, later.promoted) == (worse.build_id, first.build_id, False)
    measured(db, "acme", worse.build_id or 0, "fail", ("recall@10 is 0.61, the floor is 0.95",))
    warned = live_index.run(context(db, index=SMALL, promotion={"on_refusal": "warn"}), by="t")
    assert warned.refused == worse.build_id and "0.61" in warned.reasons[1]
    told = in_words({"live_index": asdict(warned)}, 1.0)
    assert f"build {worse.build_id} was refused and is not served\nrecall@10 is 0.61" in told


def test_with_nothing_live_each_refusal_fails_its_run(db: Database, corpus: Corpus) -> None:
    ctx = context(db, index=SMALL)
    built = hnsw_index.run(ctx).build_id or 0
    for _ in range(2):
        measured(db, "acme", built, "fail", ("too slow",))
        with db.connect("owner") as conn:
            found = newest_candidate(conn, "acme")
        assert found is not None and found.build_id == built, "it is measured again"
        with pytest.raises(GateRefused, match="too slow"):
            live_index.run(ctx, by="t")


def test_review_mode_waits_for_a_person(db: Database, corpus: Corpus) -> None:
    ctx = context(db, index=SMALL, promotion={"mode": "review"})
    built = hnsw_index.run(ctx)
    measured(db, "acme", built.build_id or 0, "pass")
    summary = live_index.run(ctx, by="t")
    assert (summary.promoted, summary.build_id, summary.waiting) == (False, None, built.build_id)
    assert f"kb promote {built.build_id}" in in_words({"live_index": asdict(summary)}, 1.0)


def test_the_previous_build_leaves_after_its_soak(db: Database, corpus: Corpus) -> None:
    ctx = context(db, index=SMALL)
    ids: list[int] = []
    for _ in range(2):
        built = hnsw_index.run(ctx, rebuild=True).build_id or 0
        measured(db, "acme", built, "pass")
        summary = live_index.run(ctx, by="t")
        ids.append(built)
    assert summary.dropped_builds == [] and summary.previous_build_id == ids[0] and "kb rollback" in summary.go_back
    with db.connect("owner") as conn:
        conn.execute("UPDATE kb.builds SET changed_at = now() - interval '8 days' WHERE build_id = %s", (ids[0],))
    later = live_index.run(ctx, by="t")
    assert later.dropped_builds == [ids[0]] and later.previous_build_id is None and later.build_id == ids[1]


def test_after_a_rollback_the_build_rolled_back_from_stays_put(db: Database, corpus: Corpus) -> None:
    ctx = context(db, index=SMALL)
    for _ in range(2):
        measured(db, "acme", hnsw_index.run(ctx, rebuild=True).build_id or 0, "pass")
        live_index.run(ctx, by="t")
    back = rollback(db, "acme", by="somebody")
    assert live_index.run(ctx, by="t").build_id == back.build_id


def test_vectors_come_before_the_index(db: Database) -> None:
    load(db, "acme", clustered(20, 16), spec=spec_of(16))
    with pytest.raises(StaleStage, match="embeddings"):
        hnsw_index.run(context(db))
    corpus = load(db, "acme", clustered(20, SPEC.dims), spec=SPEC)
    with db.connect("owner") as conn:
        conn.execute(
            f"UPDATE kb.contents SET embedding_v{corpus.version} = NULL WHERE fingerprint = %s".encode(),
            (corpus.fingerprints[0],),
        )
    with pytest.raises(StaleStage, match="1 contents lack"):
        hnsw_index.run(context(db))


def test_orphans_are_collected_before_a_build(db: Database, corpus: Corpus) -> None:
    with db.connect("owner") as conn:
        conn.execute("DELETE FROM kb.chunks WHERE fingerprint = %s", (corpus.fingerprints[0],))
        conn.execute(
            "UPDATE kb.contents SET orphaned_at = now() - interval '1 hour' WHERE fingerprint = %s",
            (corpus.fingerprints[0],),
        )
        conn.execute("UPDATE kb.tenants SET contents = 399")
    kept = hnsw_index.run(context(db, index=SMALL))
    assert (kept.orphans_collected, kept.rows) == (0, 399)
    gone = hnsw_index.run(context(db, index=SMALL, maintenance={"orphan_grace": "30m"}), rebuild=True)
    assert (gone.orphans_collected, gone.rows) == (1, 399)
