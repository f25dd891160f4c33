"""One run of LlamaIndex's `IngestionPipeline` over Markdown files: docstore upserts, PGVectorStore, no vector index.

The docstore is a JSON file, as `persist` writes it. The transformation cache is off: it holds every node a second
time and its key is the whole list of nodes, so that it never hits after a change. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from llama_index.core.embeddings import BaseEmbedding
from llama_index.core.ingestion import DocstoreStrategy, IngestionPipeline
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import Document
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.vector_stores.postgres import PGVectorStore
from pydantic import PrivateAttr
from wordllama_256 import PIECE_CHARACTERS, CountingEmbedder, markdown_files

BATCH = 1000


class WordLlamaEmbedding(BaseEmbedding):
    """The counting embedder as LlamaIndex asks for it."""

    _model: CountingEmbedder = PrivateAttr(default_factory=CountingEmbedder)

    @property
    def texts(self) -> int:
        """How many texts were embedded."""
        return self._model.texts

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return self._model.embed(texts).tolist()

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)


def characters(text: str) -> Any:
    """A tokenizer whose tokens are characters, so that pieces are sized in characters."""
    return text


def documents(root: Path) -> list[Document]:
    """Every file as one document with its path as id."""
    found: list[Document] = []
    for path in markdown_files(root):
        name = path.relative_to(root).as_posix()
        text = path.read_text(encoding="utf-8", errors="replace")
        hidden = ["source"]
        found.append(
            Document(
                id_=name,
                text=text,
                metadata={"source": name},
                excluded_embed_metadata_keys=hidden,
                excluded_llm_metadata_keys=hidden,
            )
        )
    return found


def main() -> None:
    """Ingest the folder once."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--docs", type=Path, required=True)
    parser.add_argument("--dsn", required=True, help="postgresql:// of a database of its own")
    parser.add_argument("--state", type=Path, required=True, help="folder kept between runs")
    args = parser.parse_args()
    args.state.mkdir(parents=True, exist_ok=True)
    stored = args.state / "docstore.json"
    docstore = SimpleDocumentStore.from_persist_path(str(stored)) if stored.exists() else SimpleDocumentStore()
    embedding = WordLlamaEmbedding(model_name="wordllama", embed_batch_size=BATCH)
    pipeline = IngestionPipeline(
        transformations=[
            SentenceSplitter(
                chunk_size=PIECE_CHARACTERS, chunk_overlap=0, tokenizer=characters, include_metadata=False
            ),
            embedding,
        ],
        docstore=docstore,
        docstore_strategy=DocstoreStrategy.UPSERTS_AND_DELETE,
        vector_store=PGVectorStore.from_params(
            connection_string=args.dsn.replace("postgresql://", "postgresql+psycopg2://", 1),
            async_connection_string=args.dsn.replace("postgresql://", "postgresql+asyncpg://", 1),
            table_name="bench",
            embed_dim=256,
            use_jsonb=True,
        ),
        disable_cache=True,
    )
    nodes = pipeline.run(documents=documents(args.docs))
    docstore.persist(str(stored))
    print(json.dumps({"texts": embedding.texts, "nodes": len(nodes)}))


if __name__ == "__main__":
    main()
