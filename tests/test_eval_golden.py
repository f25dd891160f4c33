"""Golden sets: what is read, what is refused, what is only named. And questions nobody wrote."""

from __future__ import annotations

from pathlib import Path

import pytest
from eval_tenant import golden_folder

from evals.golden import from_body, read_golden, resolved
from evals.questions import probes, sampled_questions, sentence_of
from kb_pipeline.errors import ConfigError


def test_a_set_is_read_with_its_hash(tmp_path: Path) -> None:
    questions = {"q1": "how to begin", "q2": "how to end", "q3": "nobody judged this"}
    first = read_golden(golden_folder(tmp_path / "a", questions, [("q1", "d1", 2), ("q1", "d2", 0), ("q2", "d2", 1)]))
    assert first.judgments == {"q1": {"d1": 2, "d2": 0}, "q2": {"d2": 1}}
    assert list(first.questions) == ["q1", "q2"]
    assert [problem.kind for problem in first.problems] == ["unjudged"] and "q3" in str(first.problems[0])
    again = read_golden(
        golden_folder(tmp_path / "b", questions, [("q2", "d2", 1), ("q1", "d2", 0), ("q1", "d1", 2)], header=False)
    )
    assert again.sha256 == first.sha256, "order and header do not matter"
    other = read_golden(golden_folder(tmp_path / "c", questions, [("q1", "d1", 1), ("q2", "d2", 1)]))
    assert other.sha256 != first.sha256


def test_every_fault_is_named_at_once(tmp_path: Path) -> None:
    folder = golden_folder(
        tmp_path / "bad",
        {"q1": "one", "empty": "  "},
        [("q1", "d1", 1), ("q1", "d1", 2), ("gone", "d1", 1)],
    )
    with (folder / "queries.jsonl").open("a") as file:
        file.write('{"_id": "q1", "text": "twice"}\nnot json\n')
    with (folder / "qrels" / "test.tsv").open("a") as file:
        file.write("q1\td2\tmuch\n")
    with pytest.raises(ConfigError) as raised:
        read_golden(folder)
    message = str(raised.value)
    for part in ("empty", "q1/d1", "gone", "line 4", "test.tsv line 5", "stand twice"):
        assert part in message, part


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"queries\.jsonl.*qrels"):
        read_golden(tmp_path)
    with pytest.raises(ConfigError, match="nowhere"):
        read_golden(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="no question has a relevant document"):
        read_golden(golden_folder(tmp_path / "none", {"q": "text"}, [("q", "d", 0)]))


def test_uris_become_document_ids_and_unknown_ones_are_named(tmp_path: Path) -> None:
    golden = read_golden(
        golden_folder(tmp_path / "g", {"q": "text"}, [("q", "file:///a.md", 1), ("q", "b.md", 1), ("q", "gone.md", 1)])
    )
    fitted = resolved(golden, {"file:///a.md": "a.md", "b.md": "b.md"})
    assert fitted.judgments == {"q": {"a.md": 1, "b.md": 1, "gone.md": 1}}
    assert fitted.unknown == pytest.approx(1 / 3)
    assert "gone.md" in str(fitted.problems[-1])
    with pytest.raises(ConfigError, match="neither document ids nor uris"):
        resolved(golden, {})


def test_a_sentence_reads_like_prose() -> None:
    body = (
        "## Title\n\nShort. The [quick](http://x) `brown` fox jumps over the dog. ![i](y)\n\n- a list item with words"
    )
    texts = {sentence_of(body, seed=bytes([number]) * 8) for number in range(40)}
    assert texts == {"The quick brown fox jumps over the dog.", "a list item with words"}
    assert sentence_of("x = 1", seed=b"\0" * 8) == "x = 1"
    assert sentence_of("--- *** ---", seed=b"\0" * 8) == ""


def test_probes_are_fixed_by_the_tenant_and_equal_sentences_are_asked_once() -> None:
    assert probes("a", 3) == probes("a", 3) != probes("b", 3)
    asked = sampled_questions(
        [(b"1" * 32, "the same words again here"), (b"2" * 32, "the same words again here"), (b"3" * 32, "***")]
    )
    assert [question.fingerprint for question in asked] == [b"1" * 32]


def test_questions_stand_in_one_order_wherever_the_set_comes_from(tmp_path: Path) -> None:
    """A bootstrap depends on it, and so does a repetition to the last digit."""
    ids = ["q10", "q9", "long-name", "b"]
    read = read_golden(golden_folder(tmp_path / "g", {qid: qid for qid in ids}, [(qid, "d", 1) for qid in ids]))
    body = read.body()
    shuffled = {name: dict(reversed(body[name].items())) for name in ("questions", "judgments")}
    again = from_body("g", {**body, **shuffled})
    for golden in (read, again):
        assert list(golden.questions) == list(golden.judgments) == sorted(ids)
    assert again.sha256 == read.sha256
