"""A tenant with the whole chain of stages, whose configuration goes through the holds as a session's does."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from databases import copied
from migrate_models import PROJECTED
from stage_world import World

from evals.run import EvalSummary, evaluate
from kb_pipeline.config.load import Configuration
from kb_pipeline.config.schema import Settings
from kb_pipeline.embed.protocol import EmbedderSpec
from kb_pipeline.embed.registry import make_embedder
from kb_pipeline.index.desired import desired_state
from kb_pipeline.migrate.holds import held_back
from kb_pipeline.planner.model import Plan
from kb_pipeline.planner.plan import plan
from kb_pipeline.search.hit import Hit
from kb_pipeline.search.retriever import Retriever
from kb_pipeline.session import Session
from kb_pipeline.stages import hnsw_index, live_index
from kb_pipeline.stages.context import StageContext
from kb_pipeline.stages.live_index import LiveSummary
from kb_pipeline.stages.wanted import embedder_config
from kb_pipeline.store.actual import actual_state
from kb_pipeline.store.database import Database
from kb_pipeline.store.migrations_state import read_holds
from kb_pipeline.store.server import embedded_dsn
from kb_pipeline.store.versions import read_version

LOCAL: dict[str, Any] = {"provider": "local", "model": None, "dims": 256}
SMALL: dict[str, Any] = {"provider": PROJECTED, "model": "p384", "dims": 384}
LARGE: dict[str, Any] = {"provider": PROJECTED, "model": "p1536", "dims": 1536, "storage": "halfvec"}


@dataclass
class Changing(World):
    """`sections["embedder"]` is what kb.toml says."""

    def model(self, embedder: dict[str, Any]) -> None:
        """Write another model into the configuration."""
        self.sections = {**self.sections, "embedder": embedder}

    def settings(self) -> Settings:
        """As the file has it."""
        return super().context().settings

    def session(self) -> Session:
        """As a process that starts now opens it."""
        with self.db.connect("owner") as conn:
            held, stored = held_back(self.settings(), {}, read_holds(conn))
        return Session(Configuration(held, None), self.db, stored=stored)

    def context(self, run_id: str | None = None) -> StageContext:
        """What the stages of the next run are given: the held model, where a person holds it."""
        ctx = super().context(run_id)
        with self.db.connect("owner") as conn:
            held, _ = held_back(ctx.settings, {}, read_holds(conn))
        return replace(ctx, settings=held, tenant=held.tenant(self.tenant_id))

    def chain(self) -> tuple[EvalSummary, LiveSummary]:
        """One whole run."""
        self.run()
        ctx = self.context()
        hnsw_index.run(ctx)
        return evaluate(ctx), live_index.run(ctx, by="test")

    def plan(self) -> Plan:
        """What a run would do."""
        with self.db.connect("owner") as conn:
            return plan(desired_state(self.context().tenant), actual_state(conn, self.tenant_id))

    def live(self) -> int:
        """The live version."""
        return self.one("SELECT version FROM kb.live WHERE tenant_id = %(t)s")

    def search(self, query: str, *, k: int = 3) -> list[Hit]:
        """As a new client."""
        with Retriever(self.db, self.session().settings) as retriever:
            return retriever.search(query, tenant=self.tenant_id, k=k)

    def search_in(self, version: int, query: str, *, k: int = 3) -> list[Hit]:
        """As a client whose vectors are of this version."""
        with self.db.connect("owner") as conn:
            spec: EmbedderSpec = read_version(conn, version).spec
        embedder = make_embedder(embedder_config(self.context().tenant.embedder, spec))
        vector = np.asarray(embedder.embed_queries([query]).vectors[0])
        with Retriever(self.db, self.session().settings) as retriever:
            return retriever.search_vector(vector, tenant=self.tenant_id, version=version, k=k)

    def lacking(self, version: int) -> int:
        """Contents in use without this version's vector."""
        return self.one(
            f"SELECT count(*) FROM kb.contents WHERE tenant_id = %(t)s AND orphaned_at IS NULL "
            f"AND embedding_v{version} IS NULL"
        )

    def columns(self) -> list[str]:
        """Embedding columns there are."""
        return [
            name
            for (name,) in self.query(
                "SELECT attname FROM pg_attribute WHERE attrelid = 'kb.contents'::regclass AND NOT attisdropped "
                "AND attname LIKE 'embedding_v%%' ORDER BY 1"
            )
        ]


@dataclass(frozen=True, slots=True)
class Mould:
    """A world made once for many tests: each gets a copy of its database and of its folder."""

    home: Path
    world: Changing
    database: str

    @contextmanager
    def cast(self) -> Generator[Changing]:
        """A copy of the database, and the folder as it was, at its place: documents are where they were indexed."""
        world = self.world
        with copied(self.home, self.database) as name:
            shutil.rmtree(world.root)
            shutil.copytree(_kept(world), world.root)
            yield replace(world, db=Database(embedded_dsn(self.home, name)), sections=dict(world.sections), runs=100)


@contextmanager
def mould(home: Path, root: Path, fill: Callable[[Changing], object]) -> Generator[Mould]:
    """What `fill` makes of an empty world."""
    with copied(home, "kb_template") as name:
        world = Changing(Database(embedded_dsn(home, name)), root)
        fill(world)
        shutil.copytree(root, _kept(world))
        yield Mould(home, world, name)


def _kept(world: Changing) -> Path:
    return world.root.with_name(f"{world.root.name}-kept")
