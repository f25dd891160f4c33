"""Space after changes of model: used again by the next one, and given back by `kb maintain --repack`, under load.

`python -m evals.bench.migration_repack [--rows 10000] [--changes 3] [--rate 50]`. A tenant changes from 256 to 768 dims
and back, several times, each time with another twentieth of its records edited. Then its partition is made anew while
it is searched, a nightly run of it writes, and runs of a second tenant in the same partition add, edit and delete
documents without a pause. What is compared with is a new knowledge base, loaded with the same documents.
"""

from __future__ import annotations

import argparse
import json
import random
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from evals.bench.chaos import change_documents, write_documents
from evals.bench.common import header, ratio, skip, table
from evals.bench.corpora import data_folder, missing_data
from evals.bench.forked import Forks
from evals.bench.large import questions, write_records
from evals.bench.migration_clients import Load, answering
from evals.bench.models import PROJECTED
from evals.bench.workspace import Workspace, workspace

TENANT = "default"
TOML = """
[embedder]
{embedder}
[index]
exact_below = 0
[eval]
queries = 50
recall_floor = 0.0
latency_tolerance = 100.0
latency_seconds = 0.5
[promotion]
soak = "0d"
[maintenance]
orphan_grace = "0d"
[tenants.default]
source = "{records}"
[tenants.{beside}]
source = "{docs}"
[tenants.{beside}.embedder]
provider = "local"
model = "wordllama-l2-supercat"
dims = 256
[tenants.{beside}.index]
exact_below = 1000000000
"""
LEAF = (
    "(SELECT inhrelid FROM pg_inherits WHERE inhparent = 'kb.contents'::regclass "
    "ORDER BY pg_total_relation_size(inhrelid) DESC LIMIT 1)"
)
SIZES = f"SELECT pg_table_size({LEAF}), pg_indexes_size({LEAF})"
FILES = (
    "SELECT CASE WHEN c.relname LIKE 'kb_build%' THEN 'search index' WHEN n.nspname = 'pg_toast' THEN "
    "CASE c.relkind WHEN 'i' THEN 'TOAST index' ELSE 'TOAST' END ELSE regexp_replace(c.relname, '_p[0-9]', '') END || "
    "CASE fork WHEN 'main' THEN '' ELSE ' ' || fork END, sum(pg_relation_size(c.oid, fork))::bigint "
    f"FROM (SELECT {LEAF} AS oid UNION SELECT reltoastrelid FROM pg_class WHERE oid = {LEAF} UNION "
    f"SELECT indexrelid FROM pg_index WHERE indrelid IN ({LEAF}, (SELECT reltoastrelid FROM pg_class WHERE oid = "
    f"{LEAF}))) x JOIN pg_class c ON c.oid = x.oid JOIN pg_namespace n ON n.oid = c.relnamespace, "
    "unnest(ARRAY['main', 'fsm', 'vm']) fork GROUP BY 1 ORDER BY 2 DESC"
)
"""Bytes of each file of the partition, by what is in it."""
LOCAL = 'provider = "local"'
OTHER = f'provider = "{PROJECTED}"\nmodel = "p768"\ndims = 768'


def main() -> None:
    """The whole history once."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--changes", type=int, default=3, help="of model, there and back")
    parser.add_argument("--rate", type=float, default=50.0, help="searches a second")
    parser.add_argument("--smoke", action="store_true", help="1,500 rows")
    args = parser.parse_args()
    data = data_folder()
    if data is None:
        skip(missing_data())
    rows = 1_500 if args.smoke else args.rows
    header(f"Repack of {rows:,} contents under {args.rate:g} searches/s")
    with workspace() as space, TemporaryDirectory() as scratch:
        records = space.folder / "records.jsonl"
        write_records(records, rows, Path(scratch), data)
        write_documents(space.folder / "docs", 40, 1)
        _History(space, records, space.folder / "docs").tell(args.changes, args.rate)


class _History:
    def __init__(self, space: Workspace, records: Path, docs: Path) -> None:
        self._space, self._records, self._docs = space, records, docs
        self._lines = records.read_text(encoding="utf-8").splitlines(keepends=True)
        self._beside = _neighbour(space)
        self._sizes: list[tuple[str, int, int]] = []

    def tell(self, changes: int, rate: float) -> None:
        space = self._space
        self._configure(LOCAL)
        space.kb("run")
        self._note("first load, 256 d")
        files = [self._files()]
        for at in range(1, changes + 1):
            for embedder in (OTHER, LOCAL):
                self._configure(embedder)
                if embedder is OTHER:
                    self._edit(at, 20)
                space.kb("migrate")
                space.kb("maintain")
            self._note(f"after a change to 768 d and back, {at}")
            files.append(self._files())
        self._grown(files)
        self._repacked(rate)
        self._note("after the next run and maintenance")
        lost = self._wrong()
        with workspace() as other:
            other.configure((space.folder / "kb.toml").read_text(encoding="utf-8"))
            other.kb("run")
            self._note("the same documents in a new knowledge base", other)
        mb = [(name, *(size / 2**20 for size in sizes)) for name, *sizes in self._sizes]
        table(("", "table MB", "indexes MB"), mb)
        for fault in lost[:5]:
            print(f"wrong: {fault}")
        ratio("documents that are not what the source says", len(lost), limit=0)
        ratio("table after the repack / fresh load", self._sizes[-3][1] / self._sizes[-1][1], limit=1.1)
        ratio("indexes after the repack / fresh load", self._sizes[-3][2] / self._sizes[-1][2], limit=1.1)

    def _repacked(self, rate: float) -> None:
        from kb_pipeline.config import load as configuration
        from kb_pipeline.store.database import Database

        space = self._space
        with (
            answering(Database(space.dsn()), configuration.load(space.folder / "kb.toml").settings, TENANT) as answer,
            Forks(space.env, space.folder) as forks,
        ):
            load = Load(answer, questions(100), rate)
            with load.running(), self._writing(forks) as runs:
                time.sleep(2)
                self._edit(7, 100)
                nightly = space.start("run", "--tenant", TENANT)
                started = time.monotonic()
                repacked = json.loads(space.kb("maintain", "--repack", "--json").stdout)["repacked"]
                seconds = time.monotonic() - started
                if nightly.wait():
                    raise SystemExit(f"the nightly run beside it ended with {nightly.returncode}")
        for one in repacked:
            print(
                f"{one['partition']}: {one['rows']:,} rows, {one['changed_meanwhile']:,} changes came over, "
                f"{one['seconds']:.1f} s, writers waited {one['writers_waited_ms']:.0f} ms, searches "
                f"{one['searches_waited_ms']:.0f}"
            )
        self._note("right after the repack")
        failed = [one for one in load.done if one.failed]
        print(
            f"searches: {len(load.done):,} in {seconds:.1f} s, the slowest took {max(one.ms for one in load.done):.0f} "
            f"ms; runs of the tenant beside: {len(runs)}"
        )
        for one in failed[:3]:
            print(f"failed: {one.failed}")
        ratio("failed searches", len(failed), limit=0)
        ratio("short results", sum(len(one.texts) < 10 for one in load.done if not one.failed), limit=0)
        ratio("changes that came over", sum(one["changed_meanwhile"] for one in repacked), at_least=1)
        space.kb("run")
        space.kb("maintain")

    @contextmanager
    def _writing(self, forks: Forks) -> Generator[list[int]]:
        """Runs of the second tenant, with documents added, edited and deleted, one after the other."""
        stop, runs = threading.Event(), list[int]()

        def write() -> None:
            while not stop.is_set():
                change_documents(self._docs, len(runs))
                if len(list(self._docs.rglob("*.md"))) < 25:
                    write_documents(self._docs, 40, 1)
                runs.append(forks.run("run", "--tenant", self._beside).status or 0)

        thread = threading.Thread(target=write, daemon=True)
        thread.start()
        try:
            yield runs
        finally:
            stop.set()
            thread.join()
        if any(runs):
            raise SystemExit(f"runs beside ended with {runs}: {forks.said()}")

    def _configure(self, embedder: str) -> None:
        self._space.configure(
            TOML.format(embedder=embedder, records=self._records, docs=self._docs, beside=self._beside)
        )

    def _edit(self, at: int, part: int) -> None:
        """One in `part` of the records is another text than before; others each time."""
        self._lines = [
            line.replace('"text": "', f'"text": "Edition {at}: ', 1) if number % part == at else line
            for number, line in enumerate(self._lines)
        ]
        self._records.write_text("".join(self._lines), encoding="utf-8")

    def _note(self, name: str, space: Workspace | None = None) -> None:
        table_bytes, index_bytes = (space or self._space).query(SIZES)[0]
        self._sizes.append((name, table_bytes, index_bytes))
        print(f"{name}: {table_bytes / 2**20:.1f} + {index_bytes / 2**20:.1f} MB", flush=True)

    def _files(self) -> dict[str, int]:
        return {name: size for name, size in self._space.query(FILES)}

    def _grown(self, files: list[dict[str, int]]) -> None:
        names = dict.fromkeys(name for state in files for name in state)
        columns = ["first load", *(f"change {number}" for number in range(1, len(files)))]
        rows = [(name, *(state.get(name, 0) // 8192 for state in files)) for name in names]
        table(("pages of", *columns), rows)
        for at in range(2, len(files)):
            total = sum(files[at].values()) / sum(files[at - 1].values())
            ratio(f"size after change {at} / after change {at - 1}", total, limit=1.0 if at > 2 else 1.02)

    def _wrong(self) -> list[str]:
        """Records whose text is not the one that stands in the tables, with its vector."""
        version = self._space.query("SELECT version FROM kb.live WHERE tenant_id = %s", TENANT)[0][0]
        stands: dict[str, str] = dict(
            self._space.query(
                "SELECT p.doc_id, string_agg(c.body, ' ' ORDER BY p.ordinal) FROM kb.chunks p JOIN kb.contents c "
                f"USING (tenant_id, fingerprint) WHERE tenant_id = %s AND c.embedding_v{version} IS NOT NULL "
                "GROUP BY 1",
                TENANT,
            )
        )
        wanted = {one["id"]: one["text"] for one in map(json.loads, self._records.read_text("utf-8").splitlines())}
        found = [
            f"{name}: {stands.get(name)!r}, not {text!r}" for name, text in wanted.items() if stands.get(name) != text
        ]
        found += [f"{name} is not in the source" for name in stands.keys() - wanted.keys()]
        for tenant in (TENANT, self._beside):
            ((lacking, strays),) = self._space.query(
                "SELECT (SELECT count(*) FROM kb.chunks p LEFT JOIN kb.contents c USING (tenant_id, fingerprint) WHERE "
                "p.tenant_id = t AND (c.fingerprint IS NULL OR c.orphaned_at IS NOT NULL)), (SELECT count(*) FROM "
                "kb.contents c WHERE c.tenant_id = t AND NOT EXISTS (SELECT FROM kb.chunks p WHERE (p.tenant_id, "
                "p.fingerprint) = (c.tenant_id, c.fingerprint))) FROM (VALUES (%s::text)) x (t)",
                tenant,
            )
            found += [f"{tenant}: {lacking} chunks without a content, {strays} contents without a chunk"] * bool(
                lacking or strays
            )
        return found


def _neighbour(space: Workspace) -> str:
    """A name for a tenant that comes to the same partition."""
    names = [f"beside{number}" for number in random.Random(1).sample(range(1000), 100)]
    ((name,),) = space.query(
        "SELECT n FROM unnest(%s::text[]) n, generate_series(0, 7) i WHERE "
        "satisfies_hash_partition('kb.contents'::regclass, 8, i, n) AND "
        "satisfies_hash_partition('kb.contents'::regclass, 8, i, %s::text) LIMIT 1",
        names,
        TENANT,
    )
    return str(name)


if __name__ == "__main__":
    main()
