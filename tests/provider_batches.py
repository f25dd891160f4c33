"""The Files and Batch API of the test provider. A job does nothing until the test lets it: `finish`, or a delay."""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from provider_server import ProviderServer

MAX_INPUTS = 50_000
MAX_BYTES = 200_000_000
Reply = tuple[int, bytes]


@dataclass
class Desk:
    """Uploaded files and jobs of one server."""

    server: ProviderServer
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    content: dict[str, bytes] = field(default_factory=dict)
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    room: int | None = None
    """Tokens of all open jobs that it takes; None: any number. One that is refused for it is "validating" first."""
    no_room: str = "Enqueued token limit reached for the model in organization org-1. Limit: {room:,} enqueued tokens."
    """What it says then. With a `429 ` before, it says so at once."""
    delay_s: float | None = None
    """Jobs end by themselves after so long; None: when the test says."""
    after: Callable[[str], None] | None = None
    """Called with each step that was done (`upload`, `create`), before its answer is sent; may raise: answer lost."""

    def finish(self, status: str = "completed", *, share: float = 1.0) -> None:
        """Let every open job end; `share` of its texts are embedded and billed, the first ones."""
        for job in self.jobs.values():
            if job["status"] == "in_progress":
                self._end(job, status, share)

    def handle(self, method: str, path: str, query: dict[str, str], headers: dict[str, str], body: bytes) -> Reply:
        """Answer one request."""
        parts = path.removeprefix("/v1/").split("/")
        match (method, parts):
            case ("POST", ["files"]):
                return self._upload(headers, body)
            case ("GET", ["files"]):
                return _list(list(self.files.values()), query)
            case ("GET", ["files", name, "content"]) if name in self.content:
                return 200, self.content[name]
            case ("DELETE", ["files", name]) if name in self.files:
                del self.files[name], self.content[name]
                return _json(200, {"id": name, "object": "file", "deleted": True})
            case ("POST", ["batches"]):
                return self._create(json.loads(body))
            case ("GET", ["batches"]):
                return _list(list(self.jobs.values()), query)
            case ("GET", ["batches", name]) if name in self.jobs:
                job = self.jobs[name]
                if job["status"] == "validating":
                    job["status"] = "failed"
                if self.delay_s is not None and job["status"] == "in_progress":
                    if time.time() - job["_at"] >= self.delay_s:
                        self._end(job, "completed", 1.0)
                return _json(200, job)
            case _:
                return _json(404, {"error": {"message": f"No such {parts[0]} object", "type": "x", "code": None}})

    def _upload(self, headers: dict[str, str], body: bytes) -> Reply:
        boundary = re.search(r'boundary="?([^";]+)', headers["content-type"])
        assert boundary is not None
        fields: dict[str, bytes] = {}
        name = ""
        for part in body.split(b"--" + boundary[1].encode())[1:-1]:
            head, _, value = part.removeprefix(b"\r\n").partition(b"\r\n\r\n")
            label = re.search(rb'name="([^"]+)"', head)
            assert label is not None
            fields[label[1].decode()] = value.removesuffix(b"\r\n")
            if file_name := re.search(rb'filename="([^"]+)"', head):
                name = file_name[1].decode()
        file = self._file(name, fields["file"], fields["purpose"].decode())
        if self.after is not None:
            self.after("upload")
        return _json(200, file)

    def _file(self, name: str, content: bytes, purpose: str) -> dict[str, Any]:
        file_id = f"file-{uuid.uuid4().hex[:12]}"
        self.files[file_id] = {
            "id": file_id,
            "object": "file",
            "bytes": len(content),
            "created_at": int(time.time()),
            "filename": name,
            "purpose": purpose,
            "status": "processed",
        }
        self.content[file_id] = content
        return self.files[file_id]

    def _create(self, ask: dict[str, Any]) -> Reply:
        content = self.content.get(ask["input_file_id"])
        if content is None:
            return _json(404, {"error": {"message": "No such file object", "type": "x", "code": None}})
        lines = [json.loads(line) for line in content.splitlines()]
        problem = self._problem(ask, lines, content)
        code = "invalid"
        tokens = sum(self.server.count_tokens(line["body"]["input"]) for line in lines)
        busy = sum(job["_tokens"] for job in self.jobs.values() if job["status"] == "in_progress")
        if self.room is not None and busy + tokens > self.room:
            code, problem = "token_limit_exceeded", self.no_room.format(room=self.room)
            if problem.startswith("429 "):
                return _json(429, {"error": {"message": problem[4:], "type": "tokens", "code": None}})
        job_id = f"batch_{uuid.uuid4().hex[:12]}"
        job: dict[str, Any] = {
            "id": job_id,
            "object": "batch",
            "endpoint": ask["endpoint"],
            "errors": {"object": "list", "data": [{"code": code, "message": problem}]} if problem else None,
            "input_file_id": ask["input_file_id"],
            "completion_window": ask["completion_window"],
            "status": ("failed" if code == "invalid" else "validating") if problem else "in_progress",
            "output_file_id": None,
            "error_file_id": None,
            "created_at": int(time.time()),
            "metadata": ask.get("metadata"),
            "request_counts": {"total": len(lines), "completed": 0, "failed": 0},
            "_at": time.time(),
            "_tokens": tokens,
        }
        self.jobs[job_id] = job
        self.server.ledger.batch_jobs += 1
        if self.after is not None:
            self.after("create")
        return _json(200, job)

    def _problem(self, ask: dict[str, Any], lines: list[dict[str, Any]], content: bytes) -> str:
        if ask["endpoint"] != "/v1/embeddings" or ask["completion_window"] != "24h":
            return "wrong endpoint or window"
        if len(lines) > MAX_INPUTS or len(content) > MAX_BYTES:
            return "The batch is too large"
        if len({line["custom_id"] for line in lines}) != len(lines):
            return "custom_id is not unique"
        if any(line["body"].get("model") != self.server.model for line in lines):
            return "The model does not exist"
        return ""

    def _end(self, job: dict[str, Any], status: str, share: float) -> None:
        lines = [json.loads(line) for line in self.content[job["input_file_id"]].splitlines()]
        count = int(len(lines) * share)
        good: list[bytes] = []
        bad: list[bytes] = []
        for line in lines[:count]:
            answer = self.server.batch_answer(line["body"])
            reply = {
                "id": f"req-{uuid.uuid4().hex[:8]}",
                "custom_id": line["custom_id"],
                "response": {"status_code": answer[0], "request_id": "r", "body": json.loads(answer[1])},
                "error": None,
            }
            (good if answer[0] == 200 else bad).append(json.dumps(reply).encode())
        for line in lines[count:]:
            error = {"code": "batch_expired", "message": "This request could not be executed in time"}
            bad.append(json.dumps({"custom_id": line["custom_id"], "response": None, "error": error}).encode())
        good.reverse()  # the order of the output is not that of the input
        if good:
            job["output_file_id"] = self._file("output.jsonl", b"\n".join(good) + b"\n", "batch_output")["id"]
        if bad:
            job["error_file_id"] = self._file("errors.jsonl", b"\n".join(bad) + b"\n", "batch_output")["id"]
        job["request_counts"] = {"total": len(lines), "completed": len(good), "failed": len(bad)}
        job["status"] = status


def _list(items: list[dict[str, Any]], query: dict[str, str]) -> Reply:
    found = [item for item in reversed(items) if "purpose" not in query or item.get("purpose") == query["purpose"]]
    if "after" in query:
        places = [place for place, item in enumerate(found) if item["id"] == query["after"]]
        found = found[places[0] + 1 :] if places else []
    limit = min(int(query.get("limit", 20)), 100)
    page = found[:limit]
    more = len(found) > limit
    told = {"object": "list", "data": page, "has_more": more}
    if page:
        told |= {"first_id": page[0]["id"], "last_id": page[-1]["id"]}
    return _json(200, told)


def _json(status: int, value: dict[str, Any]) -> Reply:
    return status, json.dumps(value).encode()
