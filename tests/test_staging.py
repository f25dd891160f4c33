"""Parquet between the stages: what is written is read, half-written outputs leave nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kb_pipeline.chunking.model import Chunk
from kb_pipeline.errors import ConfigError, StaleStage
from kb_pipeline.fingerprint import fingerprint
from kb_pipeline.stages.staged import StagedBatch, chunks_schema, from_arrow, to_arrow
from kb_pipeline.staging import open_staging
from kb_pipeline.store.documents import DocumentRow

SCHEMA = pa.schema([("n", pa.int64())])


def rows(*values: int) -> pa.RecordBatch:
    return pa.record_batch([pa.array(values, pa.int64())], schema=SCHEMA)


@pytest.mark.parametrize("where", ["folder", "file", "memory"])
def test_an_output_is_read_as_it_was_written(where: str, tmp_path: Path) -> None:
    url = {"folder": str(tmp_path), "file": tmp_path.as_uri(), "memory": f"memory://{tmp_path.name}"}[where]
    staging = open_staging(url)
    output = staging.output_url("acme", "chunks", "run-1")
    with staging.writer(output, SCHEMA) as writer:
        writer.write(rows(1, 2))
        writer.write(rows(3))
    assert writer.rows == 3
    assert [batch.to_pydict()["n"] for batch in staging.read(output)] == [[1, 2], [3]]
    staging.delete_tenant("acme")
    with pytest.raises(StaleStage, match="gone"):
        list(staging.read(output))


def test_an_empty_output_is_not_a_lost_one(tmp_path: Path) -> None:
    staging = open_staging(str(tmp_path))
    output = staging.output_url("acme", "chunks", "run-1")
    with staging.writer(output, SCHEMA):
        pass
    assert list(staging.read(output)) == []
    assert [path.name for path in Path(output).iterdir()] == ["part-00000.parquet"]


def test_a_failed_writer_leaves_nothing_and_a_second_try_replaces(tmp_path: Path) -> None:
    staging = open_staging(str(tmp_path))
    output = staging.output_url("acme", "chunks", "run-1")
    with pytest.raises(RuntimeError), staging.writer(output, SCHEMA) as writer:
        writer.write(rows(1))
        raise RuntimeError
    assert not Path(output).exists()
    (Path(output)).mkdir(parents=True)
    (Path(output) / "part-00007.parquet").write_bytes(b"left by a crash")
    with staging.writer(output, SCHEMA) as writer:
        writer.write(rows(5))
    assert [batch.to_pydict()["n"] for batch in staging.read(output)] == [[5]]


def test_large_outputs_have_several_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kb_pipeline.staging.PART_BYTES", 10)
    staging = open_staging(str(tmp_path))
    output = staging.output_url("acme", "chunks", "run-1")
    with staging.writer(output, SCHEMA) as writer:
        for n in range(12):
            writer.write(rows(n, n))
    assert len(list(Path(output).iterdir())) == 12
    assert [batch.to_pydict()["n"][0] for batch in staging.read(output)] == list(range(12))


@pytest.mark.parametrize("run_id", ["", "../up", "a/b", "a b"])
def test_a_run_id_is_one_folder_name(run_id: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="run id"):
        open_staging(str(tmp_path)).output_url("acme", "chunks", run_id)


def test_a_tenant_id_cannot_climb(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        open_staging(str(tmp_path)).delete_tenant("../other")


def test_an_unknown_scheme_is_a_configuration_error() -> None:
    with pytest.raises(ConfigError, match="nosuch"):
        open_staging("nosuch://bucket/place")


TEXT = st.text(st.characters(exclude_characters="\x00\x1f", exclude_categories=["Cs"]), max_size=20)
CHUNK = st.builds(
    lambda text, context, path, n: Chunk(
        n, n, n + len(text), text, context, path, "list", n, fingerprint(context, text)
    ),
    TEXT,
    TEXT,
    st.lists(TEXT.filter(bool), max_size=3).map(tuple),
    st.integers(0, 2**31 - 1),
)
DOCUMENT = st.builds(
    DocumentRow,
    doc_id=TEXT,
    uri=TEXT,
    content_sha256=st.binary(min_size=32, max_size=32),
    text_sha256=st.binary(min_size=32, max_size=32),
    state=TEXT,
    metadata=TEXT,
    format=TEXT,
    chunker=TEXT,
)


@settings(max_examples=50)
@given(
    documents=st.lists(st.tuples(DOCUMENT, st.lists(CHUNK, max_size=4)), max_size=5), gone=st.lists(TEXT, max_size=3)
)
@pytest.mark.parametrize("with_status", [False, True])
def test_a_staged_batch_survives_arrow(
    documents: list[tuple[DocumentRow, list[Chunk]]], gone: list[str], with_status: bool
) -> None:
    batch = StagedBatch(gone=gone)
    for document, chunks in documents:
        batch.add(document, "new", chunks)
    if with_status:
        batch.chunks.status = ["moved"] * len(batch.chunks.ordinal)
    batch.characters = 0
    arrow = to_arrow(batch, with_status=with_status)
    arrow.validate(full=True)
    assert arrow.schema == chunks_schema(with_status=with_status)
    assert from_arrow(arrow) == batch
    whole = StagedBatch()
    whole.add(*sample())
    joined = pa.Table.from_batches([to_arrow(whole, with_status=False), to_arrow(whole, with_status=False)])
    second = joined.combine_chunks().to_batches()[0].slice(1)
    whole.characters = 0
    assert from_arrow(second) == whole


def sample() -> tuple[DocumentRow, str, list[Chunk]]:
    row = DocumentRow("a.md", "/a.md", b"1" * 32, b"2" * 32, "{}", "{}", "markdown", "1:x:320:0")
    chunk = Chunk(0, 0, 4, "text", "Title", ("Title",), "paragraph", 2, fingerprint("Title", "text"))
    return row, "new", [chunk]


WITHOUT_PANDAS = """
import sys
from kb_pipeline.chunking.model import Chunk
from kb_pipeline.stages.staged import RowBuffer, StagedBatch, chunks_schema, from_arrow, manifest_schema, to_arrow
from kb_pipeline.staging import open_staging
from kb_pipeline.store.documents import DocumentRow

staging = open_staging(sys.argv[1])
chunks, manifest = staging.output_url("a", "chunks", "r"), staging.output_url("a", "documents", "r")
batch = StagedBatch(gone=["x"])
row = DocumentRow("a", "a", b"1" * 32, b"2" * 32, "{}", "{}", "text", "c")
batch.add(row, "new", [Chunk(0, 0, 1, "t", "", ("h",), "list", 1, b"3" * 32)])
with staging.writer(chunks, chunks_schema(with_status=False)) as writer:
    writer.write(to_arrow(batch, with_status=False))
with staging.writer(manifest, manifest_schema()) as writer:
    buffer = RowBuffer(writer, manifest_schema())
    buffer.add(doc_id="a", uri="u", kind="new")
    buffer.flush()
assert [from_arrow(each).gone for each in staging.read(chunks)] == [["x"]]
assert [each.to_pylist()[0]["state"] for each in staging.read(manifest)] == [None]
print("pandas" in sys.modules)
"""


def test_staging_needs_no_pandas(tmp_path: Path) -> None:
    """`pyarrow.array` of a list would import it, at half a second and 55 MB for every run."""
    command = [sys.executable, "-c", WITHOUT_PANDAS, str(tmp_path)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "False"
