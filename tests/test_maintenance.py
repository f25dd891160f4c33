"""Maintenance gives back what nothing needs, and nothing else; alerts tell each cause once."""

from __future__ import annotations

import json
import os
import socketserver
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from index_helpers import Corpus, build, clustered, load, measured, serve, spec_of

from kb_pipeline.alerts import Failure, tell
from kb_pipeline.config.load import Configuration
from kb_pipeline.config.schema import AlertsConfig, Settings
from kb_pipeline.maintenance import in_words, maintain
from kb_pipeline.session import Session
from kb_pipeline.store.database import Database
from kb_pipeline.store.locks import build_lock

SPEC = spec_of(16)


@pytest.fixture
def corpus(db: Database, home: Path) -> Corpus:
    corpus = load(db, "acme", clustered(60, 16), spec=SPEC)
    serve(db, corpus)
    return corpus


def session(db: Database, **sections: Any) -> Session:
    return Session(Configuration(Settings.model_validate({"tenants": {"acme": {}}, **sections}), None), db)


def states(db: Database) -> dict[int, str]:
    with db.connect("owner") as conn:
        return {row[0]: row[1] for row in conn.execute("SELECT build_id, state FROM kb.builds")}


def indexes(db: Database) -> int:
    with db.connect("owner") as conn:
        row = conn.execute("SELECT count(*) FROM pg_class WHERE relname LIKE 'kb_build_%' AND relkind = 'i'").fetchone()
    return row[0] if row else 0


def test_a_refused_candidate_and_a_previous_build_past_its_soak_leave(db: Database, corpus: Corpus) -> None:
    second = serve(db, corpus)
    first = min(states(db))
    kept = maintain(session(db))
    assert kept.dropped_builds == {} and in_words(kept) == "nothing to do", "the soak goes on"
    with db.connect("owner") as conn:
        conn.execute("UPDATE kb.builds SET changed_at = now() - interval '8 days' WHERE build_id = %s", (first,))
    done = maintain(session(db))
    assert done.dropped_builds == {str(first): "acme: its soak is over"} and done.index_bytes > 0
    refused = build(db, corpus).build_id
    assert maintain(session(db)).dropped_builds == {}, "it was not measured yet"
    measured(db, "acme", refused, "fail")
    assert maintain(session(db)).dropped_builds == {str(refused): "acme: refused"}
    assert states(db)[second] == "live" and indexes(db) == 1


def test_orphans_leave_after_their_grace(db: Database, corpus: Corpus) -> None:
    with db.connect("owner") as conn:
        conn.execute("DELETE FROM kb.chunks WHERE fingerprint = ANY(%s)", (corpus.fingerprints[:2],))
        conn.execute(
            "UPDATE kb.contents SET orphaned_at = now() - interval '2 days' WHERE fingerprint = ANY(%s)",
            (corpus.fingerprints[:2],),
        )
    assert maintain(session(db)).orphans == {}
    assert maintain(session(db, maintenance={"orphan_grace": "1d"})).orphans == {"acme": 2}


def test_vacuum_and_analyze_where_it_is_worth_it_and_never_beside_a_build(db: Database, corpus: Corpus) -> None:
    with db.connect("owner", autocommit=True) as conn:
        conn.execute(
            "INSERT INTO kb.spend (tenant_id, run_id, model) SELECT 'acme', i, 'm' FROM generate_series(1, 1500) i"
        )
        conn.execute("DELETE FROM kb.spend")
        conn.execute("SELECT pg_stat_force_next_flush()")
    with build_lock(db):
        beside = maintain_quickly(session(db))
    assert beside.vacuumed == {} and any("VACUUM spend" in reason for reason in beside.skipped)
    done = maintain(session(db))
    assert done.vacuumed["spend"] >= 1_000
    assert "spend" in [*beside.analyzed, *done.analyzed]
    assert maintain(session(db)).vacuumed == {}


def maintain_quickly(opened: Session) -> Any:
    from kb_pipeline import maintenance

    wait, maintenance.WAIT_FOR_BUILD_S = maintenance.WAIT_FOR_BUILD_S, 0.0
    try:
        return maintain(opened)
    finally:
        maintenance.WAIT_FOR_BUILD_S = wait


def test_staged_files_that_nobody_registered_leave_when_they_are_old(db: Database, corpus: Corpus, home: Path) -> None:
    def staged(run: str, *, days: int) -> Path:
        file = home / "staging" / "acme" / "chunks" / run / "part-00000.parquet"
        file.parent.mkdir(parents=True)
        file.write_bytes(b"x" * 100)
        then = (datetime.now(UTC) - timedelta(days=days)).timestamp()
        os.utime(file, (then, then))
        return file

    old, new, known = staged("r1", days=3), staged("r2", days=0), staged("r3", days=3)
    with db.connect("owner") as conn:
        conn.execute(
            "INSERT INTO kb.stage_outputs (tenant_id, asset, run_id, url, base_manifest, rows) "
            "VALUES ('acme', 'chunks', 'r3', %s, 0, 0)",
            (str(known.parent),),
        )
    done = maintain(session(db))
    assert (done.staged_folders, done.staged_bytes) == (1, 100)
    assert (old.parent.exists(), new.exists(), known.exists()) == (False, True, True)


def test_the_command_prints_what_was_done(kb_env: Database, tmp_path: Path) -> None:
    corpus = load(kb_env, "acme", clustered(60, 16), spec=SPEC)
    serve(kb_env, corpus)
    measured(kb_env, "acme", build(kb_env, corpus).build_id, "fail")
    code = "from kb_pipeline.cli.app import run; run()"
    ended = subprocess.run(
        [sys.executable, "-c", code, "maintain", "--json"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    done = json.loads(ended.stdout)
    assert list(done["dropped_builds"].values()) == ["acme: refused"] and done["runs_deleted"] == 0


class Hook(BaseHTTPRequestHandler):
    said: list[dict[str, Any]] = []
    status = 200

    def do_POST(self) -> None:
        if self.status == 200:
            self.said.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(self.status)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


def test_a_failure_is_told_once_for_its_cause(db: Database) -> None:
    server = HTTPServer(("127.0.0.1", 0), Hook)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        config = AlertsConfig(webhook=f"http://127.0.0.1:{server.server_port}/hook")
        failed = Failure("acme", "kb_run", "r1", "embeddings", "429 of 500 requests were refused")
        Hook.status = 500
        with pytest.raises(OSError):
            tell(db, config, failed)
        Hook.status = 200
        assert tell(db, config, failed) == "told the webhook"
        again = Failure("acme", "kb_run", "r2", "embeddings", "431 of 502 requests were refused")
        assert tell(db, config, again) == "told before, seen 2 times"
        tell(db, config, Failure("acme", "kb_run", "r3", "hnsw_index", "no memory"))
        tell(db, config, Failure("other", "kb_run", "r4", "embeddings", failed.message))
        assert [(each["subject"], each["step"]) for each in Hook.said] == [
            ("acme", "embeddings"),
            ("acme", "hnsw_index"),
            ("other", "embeddings"),
        ]
        assert "429 of 500" in Hook.said[0]["text"]
        well = datetime.now(UTC)
        assert tell(db, config, again, well_since=well) == "told the webhook", "it went well in between"
        assert tell(db, AlertsConfig(), failed).startswith("nobody")
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Post(socketserver.StreamRequestHandler):
    """As much of a mail server (RFC 5321) as takes one mail."""

    mails: list[str] = []
    refuses = False

    def handle(self) -> None:
        self.wfile.write(b"220 post\r\n")
        while line := self.rfile.readline().decode().strip():
            verb = line.partition(" ")[0].upper()
            if verb == "DATA":
                self.wfile.write(b"354 go on\r\n")
                body = b""
                while not body.endswith(b"\r\n.\r\n"):
                    body += self.rfile.readline()
                self.mails.append(body.decode())
            if verb == "QUIT":
                return  # without a word, as some do: the mail is taken
            self.wfile.write(b"550 no\r\n" if self.refuses and verb == "RCPT" else b"250 ok\r\n")


def test_a_failure_is_told_by_mail(db: Database) -> None:
    from email import message_from_string

    server = socketserver.TCPServer(("127.0.0.1", 0), Post)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        config = AlertsConfig(
            mail="ops@example.org", mail_from="kb@example.org", smtp=f"127.0.0.1:{server.server_address[1]}"
        )
        failed = Failure("acme", "kb_run", "r1", "eval_report", "recall@10 is 0.62, at least 0.95 is asked: über 30 %")
        Post.refuses = True
        with pytest.raises(OSError):
            tell(db, config, failed)
        Post.refuses = False
        assert tell(db, config, failed) == "told ops@example.org", "what could not be sent is tried again"
        assert tell(db, config, failed) == "told before, seen 2 times"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert len(Post.mails) == 1
    mail = message_from_string(Post.mails[0])
    assert (mail["To"], mail["From"]) == ("ops@example.org", "kb@example.org")
    assert mail["Subject"] == "kb_pipeline: kb_run failed for acme"
    text = mail.get_payload(decode=True)
    assert isinstance(text, bytes) and "eval_report: recall@10 is 0.62" in text.decode() and "über" in text.decode()
    with pytest.raises(OSError):
        tell(db, config, Failure("acme", "kb_run", "r2", "", "nobody listens any more"))
