"""Recall of an index stored in other ways, on the tenant's own vectors; and the plots that show it."""

from __future__ import annotations

from pathlib import Path

import pytest
from eval_tenant import add_tenant, build, context, rows

from evals.report.axes import Scale, log_ticks
from evals.run import evaluate
from evals.storages import wanted_storages
from kb_pipeline.errors import ConfigError
from kb_pipeline.store.database import Database

DOCUMENTS = {f"d{n}": [f"The kettle number {n} boils water for tea in {n % 17} minutes."] for n in range(150)}


def test_each_storage_is_tried(db: Database, home: Path) -> None:
    version = add_tenant(db, "t", DOCUMENTS)
    build(db, "t", version, live=True)
    ctx = context(db, "t", eval={"queries": 20}, index={"preset": "dev"})
    summary = evaluate(ctx, storages=["all"])
    with db.connect("owner") as conn:
        (trial,) = conn.execute("SELECT measurements -> 'storages' FROM kb.eval_runs").fetchone() or ({},)
    assert (trial["rows"], trial["of_rows"], trial["m"]) == (150, rows(db, "t"), 8)
    assert trial["questions"] > 10
    found = {one["storage"]: one for one in trial["variants"]}
    assert list(found) == ["vector", "halfvec", "binary"]
    assert found["vector"]["bytes"] > found["halfvec"]["bytes"] > found["binary"]["bytes"]
    for name, one in found.items():
        widest = one["points"][-1]
        assert (widest["ef_search"], len(one["points"])) == (640, 7)
        assert min(widest["recall_10"], widest["recall_20"]) > (0.95 if name != "binary" else 0.9), name
    for form in (summary.markdown, Path(summary.html_path).read_text()):
        assert "Index storage compared" in form
        assert "Recall and time by storage" in form
    assert "Index storage compared" not in evaluate(ctx).markdown


def test_only_storages_that_take_the_dims_are_tried() -> None:
    assert wanted_storages(["all"], 3_072, "halfvec") == ["halfvec", "binary"]
    assert wanted_storages(["binary", "binary"], 8_000, "halfvec") == ["binary"]
    with pytest.raises(ConfigError, match="takes 2,000 dims"):
        wanted_storages(["vector"], 3_072, "vector")
    with pytest.raises(ConfigError, match="none of vector, halfvec, binary or all"):
        wanted_storages(["int8"], 256, "vector")


def test_a_logarithmic_scale_has_round_ticks() -> None:
    assert log_ticks(0.4, 18) == [0.5, 1.0, 2.0, 5.0, 10.0]
    assert log_ticks(2.1, 2.3) == [2.1, 2.3]
    assert log_ticks(3.0, 3.0) == [3.0]
    assert [Scale(1, 100, 0, 10, log=True)(value) for value in (1, 10, 100)] == pytest.approx([0, 5, 10])
