"""One run of LangChain's `index()` over a folder of Markdown: SQLRecordManager (SQLite) and PGVector, no vector index.

`cleanup="full"`, because only it takes away the pieces of deleted files; batches of 100, its default, or as told;
content hashes by SHA-256. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

from langchain_classic.indexes import SQLRecordManager
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.indexing import index
from langchain_postgres import PGVector
from langchain_text_splitters import RecursiveCharacterTextSplitter
from wordllama_256 import PIECE_CHARACTERS, CountingEmbedder, markdown_files


class WordLlamaEmbeddings(Embeddings):
    """The counting embedder as LangChain asks for it."""

    def __init__(self) -> None:
        self.model = CountingEmbedder()

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Vectors of the pieces."""
        return self.model.embed(texts).tolist()

    def embed_query(self, text: str) -> list[float]:
        """Vector of a query; not used here."""
        return self.model.embed([text])[0].tolist()


def pieces(root: Path) -> Iterator[Document]:
    """Every file's pieces, read one file at a time."""
    splitter = RecursiveCharacterTextSplitter(chunk_size=PIECE_CHARACTERS, chunk_overlap=0)
    for path in markdown_files(root):
        name = path.relative_to(root).as_posix()
        text = path.read_text(encoding="utf-8", errors="replace")
        for ordinal, body in enumerate(splitter.split_text(text)):
            yield Document(page_content=body, metadata={"source": name, "ordinal": ordinal})


def main() -> None:
    """Index the folder once."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--docs", type=Path, required=True)
    parser.add_argument("--dsn", required=True, help="postgresql:// of a database of its own")
    parser.add_argument("--state", type=Path, required=True, help="folder kept between runs")
    parser.add_argument("--batch", type=int, default=100)
    args = parser.parse_args()
    args.state.mkdir(parents=True, exist_ok=True)
    embeddings = WordLlamaEmbeddings()
    store = PGVector(
        embeddings,
        connection=args.dsn.replace("postgresql://", "postgresql+psycopg://", 1),
        collection_name="bench",
        embedding_length=256,
        use_jsonb=True,
    )
    records = SQLRecordManager("bench", db_url=f"sqlite:///{args.state / 'records.sqlite'}")
    records.create_schema()
    result = index(
        pieces(args.docs),
        records,
        store,
        batch_size=args.batch,
        cleanup="full",
        source_id_key="source",
        key_encoder="sha256",
        upsert_kwargs={},
    )
    print(json.dumps({"texts": embeddings.model.texts, **result}))


if __name__ == "__main__":
    main()
