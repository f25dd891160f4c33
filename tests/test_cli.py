"""`kb` as a person meets it: what it says, where, and what it ends with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kb_pipeline.cli.app import main
from kb_pipeline.cli.run import worst
from kb_pipeline.store.database import Database

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def folder(tmp_path: Path, kb_env: Database, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder with a knowledge base of its own."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return work


def test_help_names_every_command(capsys: Captured) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    for name in ("init", "run", "rebuild", "tenants", "purge", "plan", "search", "status", "eval", "chunks", "builds"):
        assert f"\n  {name} " in shown
    for name in ("promote", "rollback", "dead-letters", "doctor", "dev", "db", "demo"):
        assert f"\n  {name} " in shown


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["run", "--until", "embedings"], ["search"], ["search", "q", "-k", "0"]]
)
def test_wrong_usage_ends_with_2(arguments: list[str], folder: Path, capsys: Captured) -> None:
    assert main(arguments) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_a_mistyped_asset_names_the_nearest(folder: Path, capsys: Captured) -> None:
    main(["run", "--until", "embedings"])
    assert "embeddings" in capsys.readouterr().err


def test_a_configuration_error_is_one_message_and_2(folder: Path, capsys: Captured) -> None:
    (folder / "kb.toml").write_text("[embedder]\nmodle = 'x'\n")
    assert main(["status"]) == 2
    error = capsys.readouterr().err
    assert "embedder.model" in error
    assert "Traceback" not in error


def test_a_named_configuration_that_is_missing(folder: Path, capsys: Captured) -> None:
    assert main(["status", "--config", "nowhere.toml"]) == 2
    assert str(folder / "nowhere.toml") in capsys.readouterr().err


def test_debug_shows_the_traceback(folder: Path) -> None:
    from kb_pipeline.errors import ConfigError

    with pytest.raises(ConfigError):
        main(["status", "--config", "nowhere.toml", "--debug"])


def test_init_writes_a_file_that_is_valid_and_refuses_to_replace_it(folder: Path, capsys: Captured) -> None:
    from kb_pipeline.config.load import load

    assert main(["init", "--source", 'my "docs"', "--tenant", "wiki"]) == 0
    assert load(environ={}).settings.tenant("wiki").source == str(folder / 'my "docs"')
    assert main(["init"]) == 2
    assert "--force" in capsys.readouterr().err
    assert main(["init", "--force"]) == 0


def test_status_of_nothing(folder: Path, capsys: Captured) -> None:
    assert main(["status", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["default"]["documents"] == 0


def test_an_unknown_tenant_is_named_with_the_known_ones(folder: Path, capsys: Captured) -> None:
    (folder / "kb.toml").write_text('[tenants.docs]\nsource = "docs"\n')
    assert main(["status", "--tenant", "dogs"]) == 2
    assert "docs" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["A", "a'b", "../x", "a b", "", "a" * 64])
def test_a_bad_tenant_id_is_refused_at_the_edge(name: str, folder: Path, capsys: Captured) -> None:
    assert main(["run", "--tenant", name, "--source", str(folder)]) == 2
    assert "not valid" in capsys.readouterr().err


def test_tenants_of_the_file_are_listed_and_one_that_left_is_paused(folder: Path, capsys: Captured) -> None:
    (folder / "kb.toml").write_text('[tenants.one]\nsource = "a"\n[tenants.two]\nsource = "b"\n')
    assert main(["tenants", "list", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["tenant"], row["state"]) for row in rows] == [("one", "active"), ("two", "active")]
    (folder / "kb.toml").write_text('[tenants.one]\nsource = "a"\n')
    assert main(["tenants", "list", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["tenant"], row["state"]) for row in rows] == [("one", "active"), ("two", "paused")]


def test_two_tenants_and_a_command_about_one(folder: Path, capsys: Captured) -> None:
    (folder / "kb.toml").write_text('[tenants.one]\nsource = "a"\n[tenants.two]\nsource = "b"\n')
    assert main(["rollback"]) == 2
    assert "one, two" in capsys.readouterr().err


def test_the_worst_of_several_ends() -> None:
    assert worst([0, 0]) == 0
    assert worst([0, 3]) == 3
    assert worst([3, 75, 0]) == 75
    assert worst([5, 1, 3]) == 1


def test_db_commands_leave_a_server_of_your_own_alone(folder: Path, capsys: Captured) -> None:
    assert main(["db", "stop"]) == 2
    assert "KB_DSN" in capsys.readouterr().err
    assert main(["db", "url"]) == 0
    assert capsys.readouterr().out.startswith("postgresql://")


def test_the_dagster_home_that_is_named_holds_our_instance(folder: Path, home: Path) -> None:
    """`kb db start` names it for a webserver of one's own, which without the file would keep its runs in SQLite."""
    from kb_pipeline.cli.instance import instance_folder

    assert instance_folder() == home / "dagster"
    assert [path.name for path in instance_folder().iterdir()] == ["dagster.yaml"]
    assert "DAGSTER_PG_URL" in (home / "dagster" / "dagster.yaml").read_text()


def test_a_backup_brings_everything_back(folder: Path, kb_env: Database, tmp_path: Path, capsys: Captured) -> None:
    (folder / "kb.toml").write_text('[tenants.one]\nsource = "a"\n')
    assert main(["tenants", "list"]) == 0
    assert main(["db", "backup", str(tmp_path / "kb.dump")]) == 0, capsys.readouterr().err
    assert main(["tenants", "drop", "one", "--yes"]) == 0
    with kb_env.connect("owner") as conn:
        assert conn.execute("SELECT count(*) FROM kb.tenants").fetchone() == (0,)
    assert main(["db", "restore", str(tmp_path / "kb.dump"), "--yes"]) == 0, capsys.readouterr().err
    with kb_env.connect("owner") as conn:
        assert conn.execute("SELECT tenant_id FROM kb.tenants").fetchall() == [("one",)]
    with kb_env.connect("reader", "one") as conn:
        assert conn.execute("SELECT count(*) FROM kb.documents").fetchone() == (0,)


def test_dropping_a_tenant_that_is_not_there(folder: Path, capsys: Captured) -> None:
    assert main(["tenants", "drop", "nobody", "--yes"]) == 2
    assert "nobody" in capsys.readouterr().err
