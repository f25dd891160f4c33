"""Parameters, memory and slots: decisions without a database."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kb_pipeline.config.durations import parse_duration
from kb_pipeline.config.schema import IndexConfig
from kb_pipeline.errors import ConfigError, IndexBuildError
from kb_pipeline.index.memory import Allowance, allowance, bytes_per_row, maintenance_work_mem, needed_mb
from kb_pipeline.index.params import MAX_DIMS, exact_below_rows, resolve_params
from kb_pipeline.index.placement import free_slot
from kb_pipeline.planner.model import IndexParams
from kb_pipeline.store.builds import BuildRow


@pytest.mark.parametrize(
    ("preset", "m", "ef"), [("dev", 8, 32), ("balanced", 16, 64), ("high", 24, 128), ("max", 32, 200)]
)
def test_presets(preset: str, m: int, ef: int) -> None:
    assert resolve_params(IndexConfig.model_validate({"preset": preset}), 256, "vector") == IndexParams(m, ef, "vector")


@pytest.mark.parametrize(
    ("dims", "column", "storage"),
    [(256, "vector", "vector"), (2000, "vector", "vector"), (2001, "vector", "halfvec"), (3072, "halfvec", "halfvec"),
     (256, "halfvec", "halfvec"), (4000, "halfvec", "halfvec"), (4096, "halfvec", "binary"),
     (8192, "vector", "binary")],
)  # fmt: skip
def test_storage_by_dims(dims: int, column: str, storage: str) -> None:
    assert resolve_params(IndexConfig(), dims, column).storage == storage


@pytest.mark.parametrize(
    ("config", "dims", "column", "fix"),
    [
        ({"storage": "vector"}, 3072, "vector", 'storage = "halfvec"'),
        ({"storage": "halfvec"}, 4096, "halfvec", 'storage = "binary"'),
        ({"storage": "vector"}, 256, "halfvec", 'storage = "halfvec"'),
        ({"m": 64, "ef_construction": 100}, 256, "vector", "ef_construction = 128"),
        ({}, 20_000, "vector", "[embedder] dims"),
    ],
)
def test_a_wrong_choice_names_the_fix(config: dict[str, object], dims: int, column: str, fix: str) -> None:
    with pytest.raises(ConfigError, match="(?s).*") as caught:
        resolve_params(IndexConfig.model_validate(config), dims, column)
    assert fix in str(caught.value)


def test_ef_construction_follows_m_where_it_was_not_given() -> None:
    assert resolve_params(IndexConfig(m=64), 256, "vector").ef_construction == 128


@given(
    st.integers(1, 16_000), st.sampled_from(["vector", "halfvec"]), st.integers(2, 100), st.sampled_from(["dev", "max"])
)
def test_what_is_resolved_is_what_postgres_takes(dims: int, column: str, m: int, preset: str) -> None:
    params = resolve_params(IndexConfig.model_validate({"preset": preset, "m": m}), dims, column)
    assert 4 <= params.ef_construction <= 1000 and params.ef_construction >= 2 * params.m
    assert dims <= MAX_DIMS[params.storage]


def test_exact_below_follows_the_volume() -> None:
    assert exact_below_rows(IndexConfig(), 256) == 4882
    assert exact_below_rows(IndexConfig(), 1536) == 813
    assert exact_below_rows(IndexConfig(exact_below=50), 1536) == 50


def test_bytes_per_row_is_the_formula_at_m_16() -> None:
    assert bytes_per_row(IndexParams(16, 64, "vector"), 256) == pytest.approx(682 + 4 * 256, abs=1)
    assert bytes_per_row(IndexParams(16, 64, "halfvec"), 256) == pytest.approx(682 + 2 * 256, abs=1)


def test_what_does_not_fit_is_refused_with_the_setting_that_would_fit() -> None:
    params = IndexParams(16, 64, "vector")
    needed = needed_mb(1_000_000, params, 1536)
    with pytest.raises(IndexBuildError, match=f"build_memory_mb = {needed}") as caught:
        maintenance_work_mem(1_000_000, params, 1536, Allowance(needed * 2 // 3, "test"))
    assert "halfvec" in str(caught.value)
    assert maintenance_work_mem(1_000_000, params, 1536, Allowance(needed, "test")) == needed


def test_allowance_takes_the_configured_number_over_everything() -> None:
    assert allowance(123, 64, 128, local=True).mb == 123
    assert allowance(None, 64, 128, local=False).mb == 128


def build(build_id: int, slot: str | None, state: str, version: int = 1) -> BuildRow:
    return BuildRow(build_id, "acme", version, "hnsw" if slot else "exact", slot, {}, state, 0, None, 0.0)


def test_a_new_build_takes_the_free_slot() -> None:
    assert free_slot([], 1) == ("a", None)
    assert free_slot([build(1, "a", "live")], 1) == ("b", None)
    assert free_slot([build(1, "b", "live"), build(2, None, "previous")], 1) == ("a", None)
    assert free_slot([build(1, "a", "live", version=2)], 1) == ("a", None)


def test_without_a_free_slot_the_candidate_leaves_and_never_the_live_build() -> None:
    live, previous, candidate = build(1, "a", "live"), build(2, "b", "previous"), build(3, "b", "candidate")
    assert free_slot([live, previous], 1) == ("b", previous)
    assert free_slot([live, candidate], 1) == ("b", candidate)


@pytest.mark.parametrize(("text", "hours"), [("7d", 168), ("36h", 36), ("1d12h", 36), ("0s", 0), ("90m", 1.5)])
def test_durations(text: str, hours: float) -> None:
    assert parse_duration(text).total_seconds() == hours * 3600


@pytest.mark.parametrize("text", ["", "7", "d", "seven days", "-1d", "99999999999999d"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_duration(text)
