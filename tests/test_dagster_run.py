"""`kb run` end to end on a small folder: one Dagster run in process, then nothing to do, then only what changed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kb_pipeline.cli.app import main
from kb_pipeline.store.database import Database

pytestmark = [
    pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:dagster"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

Captured = pytest.CaptureFixture[str]
TEXTS = {
    "soup.md": "# Soup\n\nBoil the onions slowly, then add the stock and let it simmer for an hour.\n",
    "bread.md": "# Bread\n\nKnead flour, water, salt and yeast until the dough is smooth, then let it rest.\n",
    "tea.md": "# Tea\n\nPour boiling water over the leaves and wait four minutes before you drink it.\n",
}


@pytest.fixture
def folder(tmp_path: Path, kb_env: Database, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with three documents and a kb.toml for them."""
    work = tmp_path / "work"
    (work / "docs").mkdir(parents=True)
    for name, text in TEXTS.items():
        (work / "docs" / name).write_text(text)
    (work / "kb.toml").write_text('[tenants.kitchen]\nsource = "docs"\n[eval]\nqueries = 10\n')
    monkeypatch.chdir(work)
    for name in ("DAGSTER_HOME", "DAGSTER_PG_URL", "KB_CONFIG"):
        monkeypatch.setenv(name, "")  # `kb run` sets them; they must not outlive the test
        monkeypatch.delenv(name)
    return work


def kb(*arguments: str) -> subprocess.CompletedProcess[str]:
    """One whole process, as a person runs it."""
    code = "from kb_pipeline.cli.app import run; run()"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=dict(os.environ), check=False
    )


def test_a_run_indexes_measures_and_promotes_and_the_next_has_nothing_to_do(folder: Path, capsys: Captured) -> None:
    first = kb("run", "--json")
    assert first.returncode == 0, first.stderr
    outcome = json.loads(first.stdout)["kitchen"]
    assert outcome["assets"]["documents"]["new"] == 3
    assert set(outcome["assets"]) == set(
        ("documents", "chunks", "fingerprints", "embeddings", "hnsw_index", "eval_report", "live_index")
    )

    assert main(["status", "--json"]) == 0
    status = json.loads(capsys.readouterr().out)["kitchen"]
    assert (status["documents"], status["missing_embeddings"], status["dead_letters"]) == (3, 0, 0)
    assert status["live"]["dims"] == 256
    assert status["last_eval"]["verdict"] == "pass"

    assert main(["search", "how long does tea take", "--json", "-k", "1"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["doc_id"] == "tea.md"

    assert main(["run"]) == 0
    assert "3 documents unchanged; nothing to do" in capsys.readouterr().out

    (folder / "docs" / "tea.md").write_text(TEXTS["tea.md"] + "\nGreen tea wants cooler water than black tea does.\n")
    (folder / "docs" / "soup.md").rename(folder / "docs" / "onion-soup.md")
    assert main(["plan", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["documents"]["changed"] == 1
    assert plan["documents"]["renamed"] == 1
    assert plan["texts_to_embed"] == 1
    second = kb("run", "--json")
    assert second.returncode == 0, second.stderr
    assert json.loads(second.stdout)["kitchen"]["assets"]["embeddings"]["texts"] == 1

    assert main(["chunks"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {row["doc_id"] for row in rows} == {"bread.md", "onion-soup.md", "tea.md"}
    for row in rows:
        assert (folder / "docs" / row["doc_id"]).read_text()[row["start"] : row["end"]] == row["text"]


def test_a_run_of_a_busy_tenant_ends_with_75_or_waits(folder: Path, kb_env: Database, capsys: Captured) -> None:
    from kb_pipeline.store.locks import tenant_lock

    with tenant_lock(kb_env, "kitchen", wait_s=0):
        assert main(["run", "--no-wait"]) == 75
    assert "kitchen" in capsys.readouterr().err


def test_an_asset_that_comes_too_early_names_the_one_to_run_first(folder: Path) -> None:
    """As in the UI, where each asset can be materialized alone."""
    code = (
        "from kb_pipeline.cli.execute import execute\n"
        "from kb_pipeline.session import open_session\n"
        "execute(open_session(), 'kitchen', job_name='kb_run', assets=('chunks',))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ), check=False
    )
    assert "StaleStage" in done.stderr
    assert "run `documents` first" in done.stderr


def test_a_source_that_is_not_there_is_one_clear_message(folder: Path) -> None:
    (folder / "kb.toml").write_text('[tenants.kitchen]\nsource = "nowhere"\n')
    done = kb("run")
    assert done.returncode == 1
    assert str(folder / "nowhere") in done.stderr
    assert "Traceback" not in done.stderr


def test_a_killed_run_is_marked_failed_by_the_next(folder: Path, kb_env: Database) -> None:
    """What `kill -9` leaves: a run in state STARTED whose process is gone."""
    code = (
        "import dagster as dg, socket\n"
        "from kb_pipeline.cli.instance import PROCESS_TAG, fail_dead_runs, open_instance\n"
        "from kb_pipeline.session import open_session, process_mark\n"
        "with open_instance(open_session()) as instance:\n"
        "    def left(mark):\n"
        "        run = instance.create_run_for_job(dg.job(name='left')(lambda: None), tags={PROCESS_TAG: mark})\n"
        "        return run.run_id\n"
        "    dead, alive = left(f'{socket.gethostname()}:999999999:1'), left(process_mark())\n"
        "    foreign = left('elsewhere:1:1')\n"
        "    assert fail_dead_runs(instance) == [dead]\n"
        "    assert instance.get_run_by_id(dead).status == dg.DagsterRunStatus.FAILURE\n"
        "    assert instance.get_run_by_id(alive).status != dg.DagsterRunStatus.FAILURE\n"
        "    assert instance.get_run_by_id(foreign).status != dg.DagsterRunStatus.FAILURE\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ), check=False
    )
    assert done.returncode == 0, done.stderr
