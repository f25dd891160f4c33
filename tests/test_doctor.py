"""`kb doctor` names what is wrong with the command that mends it, and its exit code tells scripts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from index_helpers import Corpus, clustered, load, measured, serve

from kb_pipeline.cli.app import main
from kb_pipeline.config.schema import EmbedderConfig
from kb_pipeline.embed.registry import resolve_spec
from kb_pipeline.store.database import Database
from kb_pipeline.store.health_checks import hot_updates, known_bugs
from kb_pipeline.store.maintenance import TableState

SPEC = resolve_spec(EmbedderConfig())
Captured = pytest.CaptureFixture[str]


@pytest.fixture
def corpus(kb_env: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Corpus:
    toml = tmp_path / "kb.toml"
    toml.write_text('[index]\nexact_below = 50\npreset = "dev"\n[tenants.acme]\nsource = "docs"\n')
    monkeypatch.setenv("KB_CONFIG", str(toml))
    corpus = load(kb_env, "acme", clustered(300, SPEC.dims), spec=SPEC)
    measured(kb_env, "acme", serve(kb_env, corpus), "pass")
    return corpus


def doctor(capsys: Captured, *arguments: str) -> tuple[int, dict[str, list[dict[str, Any]]]]:
    code = main(["doctor", "--json", *arguments])
    findings: dict[str, list[dict[str, Any]]] = {}
    for finding in json.loads(capsys.readouterr().out):
        findings.setdefault(finding["check"], []).append(finding)
    return code, findings


def test_a_sound_tenant_has_only_good_findings(corpus: Corpus, capsys: Captured) -> None:
    code, findings = doctor(capsys)
    assert [each for found in findings.values() for each in found if not each["ok"]] == [] and code == 0
    assert {"versions", "connections", "dead rows", "hot", "buffers", "indexes", "staging"} <= set(findings)
    assert {"embeddings", "live", "plan", "norms", "build memory"} <= set(findings)
    assert "uses kb_build_" in findings["plan"][0]["finding"]
    assert main(["doctor"]) == 0
    assert "ok    plan" in capsys.readouterr().out


def test_what_is_wrong_says_why_and_what_to_do(corpus: Corpus, kb_env: Database, capsys: Captured) -> None:
    with kb_env.connect("owner") as conn:
        conn.execute(b"UPDATE kb.contents SET embedding_v1 = (embedding_v1::real[]::vector + embedding_v1)")
        conn.execute("UPDATE kb.builds SET index_name = index_name")
    code, findings = doctor(capsys)
    wrong = findings["norms"][0]
    assert code == 1 and not wrong["ok"] and "not of length one" in wrong["finding"] and wrong["why"] and wrong["fix"]
    with kb_env.connect("owner") as conn:
        row = conn.execute("SELECT index_name FROM kb.builds").fetchone()
    assert row is not None
    with kb_env.connect("owner", autocommit=True) as conn:
        conn.execute(f"DROP INDEX kb.{row[0]}".encode())
    _, findings = doctor(capsys)
    assert "has no index" in findings["indexes"][0]["finding"]
    assert not findings["plan"][0]["ok"] and "kb rebuild" in findings["plan"][0]["fix"]


def test_an_exact_tenant_is_looked_at_too(
    kb_env: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    (tmp_path / "kb.toml").write_text("[tenants.acme]\n")
    monkeypatch.setenv("KB_CONFIG", str(tmp_path / "kb.toml"))
    corpus = load(kb_env, "acme", clustered(30, SPEC.dims), spec=SPEC)
    measured(kb_env, "acme", serve(kb_env, corpus, method="exact"), "pass")
    code, findings = doctor(capsys)
    assert code == 0 and "compares" in findings["plan"][0]["finding"] and "build memory" not in findings
    assert findings["norms"][0]["finding"].startswith("30 vectors"), "all of a small tenant"
    assert not findings["connections"][0]["finding"].startswith("0 of"), "this one at least"


def test_triggers_are_explained(corpus: Corpus, kb_env: Database, capsys: Captured) -> None:
    assert main(["doctor", "--triggers", "--json"]) == 0
    lines = {each["trigger"]: each for each in json.loads(capsys.readouterr().out)["acme"]}
    assert "fires from 390, 90 from now" in lines["growth"]["words"] and not lines["growth"]["fires"]
    with kb_env.connect("owner") as conn:
        conn.execute("UPDATE kb.tenants SET contents = 390")
    assert main(["doctor", "--triggers"]) == 0
    assert "FIRES growth" in capsys.readouterr().out


def test_numbers_of_tables_become_findings() -> None:
    cold = TableState("contents_p0", 5_000, 0, 0, 2_000, 500, 0)
    assert not hot_updates([cold], 0).ok and "25 %" in hot_updates([cold], 0).finding
    assert hot_updates([cold], 2_000).ok, "documents were changed in bulk, which is no fault"
    assert not hot_updates([cold], 500).ok
    assert hot_updates([TableState("documents", 5_000, 0, 0, 2_000, 500, 0)], 0).ok
    assert known_bugs("0.8.5") == [] and "0.8.3" in known_bugs("0.8.3")[0].finding
