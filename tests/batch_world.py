"""A tenant whose texts go through the batch lane of the test provider: for tests of the lane."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from provider_server import ProviderServer
from stage_world import World, page

from kb_pipeline.errors import BatchesPending
from kb_pipeline.store.database import Database

PARAGRAPHS = [f"Paragraph {number} says something that no other says, at some length." for number in range(30)]


class Killed(BaseException):
    """Stands for `kill -9`: nothing of ours catches it."""


def batch_world(db: Database, tmp_path: Path, server: ProviderServer, embedder: dict[str, Any] | None = None) -> World:
    """Ten documents of three texts each; without an [embedder], in the batch lane."""
    sections = {"embedder": embedder or settings(server), "chunking": {"max_tokens": 24}}
    made = World(db, tmp_path, sections=sections)
    with db.connect("owner") as conn:
        conn.execute("INSERT INTO kb.tenants (tenant_id) VALUES ('world') ON CONFLICT DO NOTHING")
    made.write({f"{at}.md": page(f"Title {at}", PARAGRAPHS[at * 3 : at * 3 + 3]) for at in range(10)})
    return made


def settings(server: ProviderServer, **options: object) -> dict[str, Any]:
    """[embedder] for the server, in the batch lane."""
    return {
        "provider": "openai",
        "model": "text-embedding-3-small",
        "dims": 16,
        "base_url": server.url,
        "api_key_env": "KB_TEST_EMBED_KEY",
        "lane": "batch",
        "max_wait_s": 5.0,
        **options,
    }


def pending(world: World) -> str:
    """Run, and expect the provider to be at it."""
    with pytest.raises(BatchesPending) as caught:
        world.run()
    return str(caught.value)


def kill_at(monkeypatch: pytest.MonkeyPatch, owner: object, name: str, *, before: bool = True, after: int = 0) -> None:
    """The next run dies at this function, before it or when it is done."""
    original: Callable[..., Any] = getattr(owner, name)
    calls = 0

    def dying(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls <= after:
            return original(*args, **kwargs)
        if not before:
            original(*args, **kwargs)
        raise Killed

    monkeypatch.setattr(owner, name, dying)


def require_done(world: World, server: ProviderServer, *, texts: int = 30) -> None:
    """Everything is indexed, and every text was paid for exactly once, at half the price."""
    assert server.ledger.paid_twice() == 0
    assert len(server.ledger.batch_texts) == len(server.ledger.paid_texts) == texts
    assert server.ledger.requests == 0
    assert world.one("SELECT count(*) FROM kb.documents WHERE tenant_id = %(t)s") == 10
    assert world.one("SELECT count(*) FROM kb.contents WHERE embedding_v1 IS NULL") == 0
    rows = world.query("SELECT lane, sum(texts)::int, sum(tokens)::int, sum(usd)::float8 FROM kb.spend GROUP BY lane")
    spent = {lane: (count, tokens, usd) for lane, count, tokens, usd in rows if count}
    assert spent.keys() == {"batch"}
    count, tokens, usd = spent["batch"]
    assert (count, tokens) == (texts, server.ledger.paid_tokens)
    assert usd == pytest.approx(tokens * 0.02 / 1e6 / 2)
    assert world.query("SELECT FROM kb.batch_items") == []
    assert world.query("SELECT FROM kb.vector_bank") == []
    world.require_true_counters()
