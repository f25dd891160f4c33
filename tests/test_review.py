"""Review: a passing build waits, a person decides, and every decision is kept and shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from eval_tenant import add_tenant, build, context

from evals.run import evaluate
from kb_pipeline.cli.app import main
from kb_pipeline.errors import ConfigError, GateRefused
from kb_pipeline.index.promote import promote, reject
from kb_pipeline.planner.model import IndexParams
from kb_pipeline.stages import live_index
from kb_pipeline.stages.live_index import Approval
from kb_pipeline.store.actual import actual_state
from kb_pipeline.store.database import Database
from kb_pipeline.store.eval_reads import newest_candidate
from kb_pipeline.store.reviews import decisions, waiting_builds

DOCUMENTS = {f"d{n}": [f"The kettle number {n} boils water for tea in {n} minutes."] for n in range(20)}
REVIEW = {"eval": {"queries": 10, "latency_tolerance": 1e9}, "promotion": {"mode": "review"}}


@pytest.fixture
def candidate(db: Database, home: Path) -> int:
    """A measured candidate beside a live build of tenant t."""
    version = add_tenant(db, "t", DOCUMENTS)
    build(db, "t", version, live=True)
    made = build(db, "t", version, params=IndexParams(8, 32, "vector"))
    assert evaluate(context(db, "t", **REVIEW)).verdict == "pass"
    return made


def test_a_run_in_review_mode_only_reports_that_a_build_waits(db: Database, candidate: int) -> None:
    for _ in range(2):
        summary = live_index.run(context(db, "t", **REVIEW), by="run 1")
        assert (summary.promoted, summary.waiting) == (False, candidate)
        assert f"kb reject {candidate}" in summary.reasons[-1]
    with db.connect("owner") as conn:
        (waiting,) = waiting_builds(conn)
    assert (waiting.tenant_id, waiting.build_id) == ("t", candidate)
    assert waiting.report
    assert waiting.report.endswith(".html")


def test_only_the_waiting_build_can_be_approved(db: Database, candidate: int) -> None:
    ctx = context(db, "t", **REVIEW)
    with pytest.raises(ConfigError, match=f"build {candidate + 1} was approved, but build {candidate}"):
        live_index.run(ctx, by="run 1", approve=Approval(candidate + 1, "Ada", "read it"))
    with pytest.raises(ConfigError, match="by whom and why"):
        live_index.run(ctx, by="run 1", approve=Approval(candidate, "Ada", " "))
    summary = live_index.run(ctx, by="run 1", approve=Approval(candidate, "Ada", "read it"))
    assert (summary.promoted, summary.build_id, summary.by, summary.why) == (True, candidate, "Ada", "read it")
    with db.connect("owner") as conn:
        (made,) = decisions(conn, "t")
        assert waiting_builds(conn) == []
    assert (made.decision, made.by, made.why, made.build_id) == ("approved", "Ada", "read it", candidate)
    with pytest.raises(ConfigError, match="no build of tenant t waits"):
        live_index.run(ctx, by="run 1", approve=Approval(candidate, "Ada", "again"))


def test_a_refused_build_is_not_promoted_in_any_mode_and_may_still_be_approved(db: Database, candidate: int) -> None:
    with pytest.raises(ConfigError, match="needs a reason"):
        reject(db, "t", candidate, by="Ada", why="")
    reject(db, "t", candidate, by="Ada", why="worse answers to short questions")
    auto = context(db, "t", eval=REVIEW["eval"])
    summary = live_index.run(auto, by="run 2")
    assert (summary.promoted, summary.refused, summary.waiting) == (False, candidate, None)
    assert "refused by Ada" in " ".join(summary.reasons)
    with db.connect("owner") as conn:
        assert waiting_builds(conn) == []
        facts = {one.build_id: one.verdict for one in actual_state(conn, "t").builds}
        assert newest_candidate(conn, "t") is None
    assert facts[candidate] == "fail", "the planner neither promotes it nor builds the same again"
    promote(db, "t", candidate, by="Bob", why="they were the wrong questions")
    with db.connect("owner") as conn:
        assert [made.decision for made in decisions(conn, "t")] == ["rejected", "approved"]


def test_an_override_is_kept_and_marked_in_every_later_report(db: Database, candidate: int) -> None:
    strict = {"eval": {"queries": 10, "recall_floor": 1.0, "latency_tolerance": 1e9, "min_coverage": 1.0}}
    with db.connect("owner") as conn:
        conn.execute("UPDATE kb.eval_runs SET verdict = 'fail', reasons = '[\"recall is low\"]' WHERE tenant_id = 't'")
    with pytest.raises(GateRefused):
        promote(db, "t", candidate, by="Ada", why="please")
    with pytest.raises(ConfigError, match="needs a reason"):
        promote(db, "t", candidate, by="Ada", force=True)
    promote(db, "t", candidate, by="Ada", why="demo at noon", force=True)
    for _ in range(2):
        summary = evaluate(context(db, "t", **strict))
        page = Path(summary.html_path).read_text()
        for form in (summary.markdown, page, json.dumps(summary.data)):
            assert f"Build {candidate} was made live by force" in form
            assert "by Ada" in form
            assert "demo at noon" in form


def test_an_automatic_promotion_leaves_no_decision_of_a_person(db: Database, candidate: int) -> None:
    assert live_index.run(context(db, "t", eval=REVIEW["eval"]), by="run 3").promoted
    with db.connect("owner") as conn:
        assert decisions(conn, "t") == []


def test_the_commands_decide_show_and_repeat(
    kb_env: Database,
    candidate: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "kb.toml").write_text('[tenants.t]\nsource = "."\n[promotion]\nmode = "review"\n')
    monkeypatch.chdir(tmp_path)

    def kb(*words: str) -> str:
        assert main([*words, "--tenant", "t"]) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    assert f"build {candidate} passed and waits for a person" in kb("status")
    assert "questions proposed" in kb("golden", "sample", "proposed", "--count", "5")
    assert "every judged id is there" in kb("golden", "check", "proposed")
    assert "version 1: 5 questions" in kb("golden", "add", "proposed")
    assert "version 2: 5 questions, 0 synthetic" in kb("golden", "settle", "proposed", "--accept", "all")
    assert [row["version"] for row in json.loads(kb("golden", "list", "--json"))] == [2, 1]
    (run,) = json.loads(kb("history", "--json"))["t"]["runs"]
    assert "the same" in kb("eval", "--replay", str(run["eval_id"]))
    assert "is refused" in kb("reject", str(candidate), "--why", "not today")
    assert "waits for a person" not in kb("status")
    assert f"build {candidate} rejected by" in kb("history")
    assert main(["promote", str(candidate), "--tenant", "t"]) == 2
    assert "an approval says why (--why)" in capsys.readouterr().err
    kb("promote", str(candidate), "--why", "today")
    assert f"build {candidate} approved by" in kb("history")


def test_the_reminder_names_what_waits_too_long_and_starts_no_run(
    kb_env: Database, candidate: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dagster as dg

    from sensors.review_reminder import review_reminder_sensor

    toml = '[tenants.t]\nsource = "."\n[promotion]\nmode = "{}"\nremind_after = "2d"\n'
    monkeypatch.chdir(tmp_path)

    def said(mode: str = "review") -> str:
        (tmp_path / "kb.toml").write_text(toml.format(mode))
        with dg.instance_for_test() as instance:
            skipped = review_reminder_sensor(dg.build_sensor_context(instance=instance))
            assert isinstance(skipped, dg.SkipReason)
            return skipped.skip_message or ""

    assert said() == "no build waits too long for a decision"
    with kb_env.connect("owner") as conn:
        conn.execute("UPDATE kb.eval_runs SET created_at = created_at - interval '49 hours'")
    assert f"tenant t: build {candidate} passed in eval run" in said()
    assert "(49 hours)" in said()
    assert said("auto") == "no build waits too long for a decision", "the next run promotes it"
    reject(kb_env, "t", candidate, by="Ada", why="not today")
    assert said() == "no build waits too long for a decision"
