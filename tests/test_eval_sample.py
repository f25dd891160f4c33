"""`kb golden sample --model` against a chat endpoint that is a real HTTP server: what is asked, what becomes of it."""

from __future__ import annotations

import json
import threading
from collections.abc import Generator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from eval_tenant import add_tenant, build, context

from evals.run import evaluate
from kb_pipeline.cli.app import main
from kb_pipeline.store.database import Database

DOCUMENTS = {
    f"d{n}": [f"The kettle number {n} boils water for tea in {n} minutes."] for n in range(12)
}  # fmt: skip


class Chat:
    """An OpenAI-compatible chat endpoint; `answers` says what it answers to the n-th request, a number is a status."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.keys: set[str | None] = set()
        self.answers: Any = lambda n: f'"What does kettle {n} do?"\n'
        chat = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                chat.asked.append(body)
                chat.keys.add(self.headers.get("Authorization"))
                answer = chat.answers(len(chat.asked))
                message = {"role": "assistant", "content": answer}
                choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
                made = {
                    "id": "c",
                    "object": "chat.completion",
                    "created": 0,
                    "model": body["model"],
                    "choices": choices,
                }
                status = answer if isinstance(answer, int) else 200
                content = json.dumps({"error": {"message": "no"}} if status != 200 else made).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"


@pytest.fixture
def chat(monkeypatch: pytest.MonkeyPatch) -> Generator[Chat]:
    here = Chat()
    monkeypatch.setenv("OPENAI_BASE_URL", here.url)
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    yield here
    here.server.shutdown()
    here.server.server_close()


@pytest.fixture
def kb(kb_env: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs a command on tenant t, in a folder of its own; gives (exit code, what it printed, what it complained of)."""
    version = add_tenant(kb_env, "t", DOCUMENTS)
    build(kb_env, "t", version, live=True)
    (tmp_path / "kb.toml").write_text('[tenants.t]\nsource = "."\n')
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> tuple[int, str, str]:
        code = main([*words, "--tenant", "t"])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def test_a_models_questions_are_synthetic_until_a_person_accepts_them(kb_env: Database, kb: Any, chat: Chat) -> None:
    code, said, _ = kb("golden", "sample", "asked", "--count", "5", "--model", "some-model")
    assert (code, "5 questions proposed" in said) == (0, True)
    assert [body["model"] for body in chat.asked] == ["some-model"] * 5
    assert chat.keys == {"Bearer secret"}
    assert all("boils water" in body["messages"][-1]["content"] for body in chat.asked)
    lines = [json.loads(line) for line in Path("asked/queries.jsonl").read_text().splitlines()]
    assert {(line["group"], line["synthetic"]) for line in lines} == {("model", True)}
    assert {line["text"] for line in lines} == {f"What does kettle {n} do?" for n in range(1, 6)}, "no quotes, one line"
    assert kb("golden", "add", "asked")[0] == 0
    summary = evaluate(context(kb_env, "t", eval={"queries": 5}))
    assert "5 questions of them are synthetic" in summary.markdown
    first, second = (line["_id"] for line in lines[:2])
    assert kb("golden", "settle", "asked", "--accept", first, "--strike", second)[0] == 0
    (newest, _) = json.loads(kb("golden", "list", "--json")[1])
    assert (newest["version"], newest["questions"], newest["synthetic"]) == (2, 4, 3)
    assert "3 questions of them are synthetic" in evaluate(context(kb_env, "t", eval={"queries": 5})).markdown


@pytest.mark.parametrize(
    ("answer", "code", "told"),
    [(401, 1, "the chat model m gave no question"), ("  ", 2, "the chat model m answered without a question")],
)
def test_a_model_that_gives_nothing_leaves_no_set(kb: Any, chat: Chat, answer: Any, code: int, told: str) -> None:
    chat.answers = lambda _: answer
    ended, _, complaint = kb("golden", "sample", "asked", "--model", "m")
    assert told in complaint
    assert ended in (code, 75)
    assert not Path("asked").exists()


def test_a_model_needs_a_key(kb: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    code, _, complaint = kb("golden", "sample", "asked", "--model", "m")
    assert (code, "OPENAI_API_KEY" in complaint) == (2, True)
