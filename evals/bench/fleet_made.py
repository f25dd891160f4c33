"""A fleet of tenants, written straight into the tables, with random vectors around centres and a folder as source."""

from __future__ import annotations

import os
import random
from hashlib import sha256
from typing import Any
from zlib import crc32

from evals.bench.workspace import Workspace

DIMS = 256
MIDDLE_ROWS, LARGE_ROWS = 5_000, 50_000
PER_DOCUMENT = 50
CHUNKER = "1::320:0"


def sizes_of(*, small: int, middle: int, large: int) -> dict[str, int]:
    """Tenant -> contents."""
    source = random.Random(2)
    sizes = {f"large{number}": LARGE_ROWS for number in range(large)}
    sizes |= {f"middle{number}": MIDDLE_ROWS for number in range(middle)}
    return sizes | {f"small{number}": source.randint(50, 500) for number in range(small)}


def vectors_of(name: str, rows: int) -> Any:
    """`(rows, DIMS) float32` around the same centres, always the same for a tenant."""
    import numpy as np

    centres = np.random.default_rng(2).standard_normal((200, DIMS)).astype("f4")
    own = np.random.default_rng(crc32(name.encode()))
    made = centres[own.integers(0, 200, rows)] + 0.7 * own.standard_normal((rows, DIMS)).astype("f4")
    return made / np.linalg.norm(made, axis=1, keepdims=True)


def make_fleet(space: Workspace, *, small: int, middle: int, large: int) -> None:
    """All tenants, each served as the plan says; those that are there already stay."""
    from kb_pipeline.config.schema import EmbedderConfig
    from kb_pipeline.embed.registry import resolve_spec

    db = database(space)
    spec = resolve_spec(EmbedderConfig())
    with db.connect("owner") as conn:
        known = {row[0] for row in conn.execute("SELECT tenant_id FROM kb.live")}
        if not conn.execute("SELECT 1 FROM kb.embedding_versions").fetchone():
            add_version(db, spec)
    for name, rows in sizes_of(small=small, middle=middle, large=large).items():
        if name not in known:
            add_tenant(space, db, name, vectors_of(name, rows))
            serve(db, name, spec)


def database(space: Workspace) -> Any:
    """The engine's database, with its tables."""
    from kb_pipeline.store.database import open_database

    os.environ["KB_HOME"] = str(space.home)
    return open_database(space.home)


def add_version(db: Any, spec: Any) -> None:
    """Version 1, with its column."""
    from dataclasses import asdict

    from psycopg.types.json import Jsonb

    with db.connect("owner") as conn:
        conn.execute(
            "INSERT INTO kb.embedding_versions (version, embedder_hash, embedder, dims, storage) VALUES "
            "(nextval('kb.embedding_version_number'), %s, %s, %s, %s)",
            (spec.hash(), Jsonb(asdict(spec)), spec.dims, spec.storage),
        )
        conn.execute(f"ALTER TABLE kb.contents ADD COLUMN embedding_v1 vector({spec.dims})".encode())
        conn.execute(b"ALTER TABLE kb.contents ALTER COLUMN embedding_v1 SET STORAGE EXTERNAL")


def add_tenant(space: Workspace, db: Any, name: str, vectors: Any) -> None:
    """Contents in documents of `PER_DOCUMENT`, each a file of the tenant's source, as a run would have left them."""
    from psycopg.types.json import Jsonb

    from kb_pipeline.fingerprint import fingerprint
    from kb_pipeline.sources.files import FolderSource

    rows = len(vectors)
    names = [fingerprint("", f"{name} {number}") for number in range(rows)]
    folder = space.folder / "sources" / name
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(0, rows, PER_DOCUMENT):
        (folder / f"{number:06}.md").write_text(f"Document {number} of {name}.\n")
    documents = [
        (item.doc_id, item.uri, sha256((folder / item.doc_id).read_bytes()).digest(), Jsonb(dict(item.state)))
        for item in FolderSource(folder, (), (), 50.0).list()
    ]
    with db.connect("owner") as conn:
        conn.execute("CREATE TEMP TABLE loaded (n int, fp bytea, v vector) ON COMMIT DROP")
        with conn.cursor().copy("COPY loaded FROM STDIN WITH (FORMAT BINARY)") as copy:
            copy.set_types(["int4", "bytea", "vector"])
            for number in range(rows):
                copy.write_row((number, names[number], vectors[number]))
        values = {"t": name, "n": rows, "per": PER_DOCUMENT}
        for statement in (
            "INSERT INTO kb.tenants (tenant_id, contents, inserted_total) VALUES (%(t)s, %(n)s, %(n)s) ON CONFLICT "
            "(tenant_id) DO UPDATE SET contents = %(n)s, inserted_total = %(n)s",
            "INSERT INTO kb.tenant_versions (tenant_id, version, state) VALUES (%(t)s, 1, 'complete')",
            "INSERT INTO kb.contents (tenant_id, fingerprint, context, body, tokens, embedding_v1) SELECT %(t)s, fp, "
            "'', 'body ' || n, 2, v FROM loaded",
        ):
            conn.execute(statement.encode(), values)
        conn.cursor().executemany(
            "INSERT INTO kb.documents (tenant_id, doc_id, uri, content_sha256, text_sha256, source_state, format, "
            "chunker) VALUES (%s, %s, %s, %s, %s, %s, 'markdown', %s)",
            [(name, doc_id, uri, sha, sha, state, CHUNKER) for doc_id, uri, sha, state in documents],
        )
        conn.execute(
            "INSERT INTO kb.chunks (tenant_id, doc_id, ordinal, fingerprint, start_offset, end_offset, kind) SELECT "
            "%(t)s, to_char(n / %(per)s * %(per)s, 'FM000000') || '.md', n %% %(per)s, fp, 0, 1, 'text' FROM loaded",
            values,
        )


def serve(db: Any, name: str, spec: Any) -> None:
    """A build as the plan says, live."""
    from kb_pipeline.config.schema import Settings
    from kb_pipeline.index.build import build_exact, build_hnsw
    from kb_pipeline.index.desired import desired_state
    from kb_pipeline.index.promote import promote
    from kb_pipeline.planner.plan import plan
    from kb_pipeline.stages.context import NullProgress
    from kb_pipeline.store.actual import actual_state
    from kb_pipeline.store.versions import read_version

    config = Settings().tenant(name)
    with db.connect("owner") as conn:
        action = plan(desired_state(config), actual_state(conn, name)).rebuild
        version = read_version(conn, 1)
    assert action is not None and version.spec == spec
    built = (
        build_exact(db, name, action, version, run_id="bench")
        if action.method == "exact"
        else build_hnsw(db, name, action, version, config.index, run_id="bench", progress=NullProgress())
    )
    promote(db, name, built.build_id, by="bench", why="unmeasured, for a benchmark", force=True)
