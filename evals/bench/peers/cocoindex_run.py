"""One run of a CocoIndex 1.x app over a folder of Markdown: memoised per file, rows in Postgres, no vector index.

Memoised at the file and at the embedding of a piece, so that an edited file embeds its new pieces only. One text a
call: for this embedder `batching=True` was no faster and took four times the memory. State in LMDB. Prints one JSON
object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import asyncpg
import cocoindex as coco
import numpy as np
from cocoindex.connectors import localfs, postgres
from cocoindex.ops.text import RecursiveSplitter
from cocoindex.resources.file import FileLike, PatternFilePathMatcher
from cocoindex.resources.id import IdGenerator
from cocoindex.resources.schema import VectorSchema
from numpy.typing import NDArray
from wordllama_256 import PIECE_CHARACTERS, CountingEmbedder

POOL = coco.ContextKey[asyncpg.Pool]("bench_pool")
EMBEDDER = CountingEmbedder()
SPLITTER = RecursiveSplitter()


@dataclass
class Piece:
    """One row of the target table."""

    id: int
    filename: str
    chunk_start: int
    chunk_end: int
    text: str
    embedding: Annotated[NDArray[np.float32], VectorSchema(dtype=np.dtype(np.float32), size=256)]


@coco.lifespan
async def lifespan(builder: coco.EnvironmentBuilder) -> AsyncIterator[None]:
    """Gives the functions below a pool on the database named by BENCH_DSN."""
    async with await asyncpg.create_pool(os.environ["BENCH_DSN"]) as pool:
        builder.provide(POOL, pool)
        yield


@coco.fn(memo=True)
def embed(text: str) -> NDArray[np.float32]:
    """The vector of one piece, remembered between runs."""
    return EMBEDDER.embed([text])[0]


@coco.fn(memo=True)
async def process_file(file: FileLike, table: postgres.TableTarget[Piece]) -> None:
    """Declares the rows of one file; not called again while the file is unchanged."""
    pieces = SPLITTER.split(await file.read_text(), chunk_size=PIECE_CHARACTERS, chunk_overlap=0, language="markdown")
    ids = IdGenerator()
    for piece in pieces:
        table.declare_row(
            row=Piece(
                id=await ids.next_id(piece.text),
                filename=str(file.file_path.path),
                chunk_start=piece.start.char_offset,
                chunk_end=piece.end.char_offset,
                text=piece.text,
                embedding=embed(piece.text),
            )
        )


@coco.fn
async def app_main(root: Path) -> None:
    """The table, and one component for each file."""
    table = await postgres.mount_table_target(
        POOL, table_name="bench", table_schema=await postgres.TableSchema.from_class(Piece, primary_key=["id"])
    )
    files = localfs.walk_dir(root, recursive=True, path_matcher=PatternFilePathMatcher(included_patterns=["**/*.md"]))
    await coco.mount_each(process_file, files.items(), table)


async def update(root: Path) -> None:
    """Brings the table up to date."""
    await coco.App(coco.AppConfig(name="bench"), app_main, root=root).update()
    await coco.stop()


def main() -> None:
    """Update the app once."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--docs", type=Path, required=True)
    parser.add_argument("--dsn", required=True, help="postgresql:// of a database of its own")
    parser.add_argument("--state", type=Path, required=True, help="folder kept between runs")
    args = parser.parse_args()
    args.state.mkdir(parents=True, exist_ok=True)
    os.environ["BENCH_DSN"] = args.dsn
    os.environ["COCOINDEX_DB"] = str(args.state / "cocoindex.lmdb")
    asyncio.run(update(args.docs))
    print(json.dumps({"texts": EMBEDDER.texts}))


if __name__ == "__main__":
    main()
