"""The jobs: the whole chain of one tenant, and a rebuild of its index."""

from __future__ import annotations

import dagster as dg

CHAIN = ("documents", "chunks", "fingerprints", "embeddings", "hnsw_index", "eval_report", "live_index")
"""Asset names in the order of the flow."""

DATA_CHECKS = {"chunks": "chunks_sound", "embeddings": "vectors_sound", "hnsw_index": "index_sound"}
"""Checks by Great Expectations: seconds of import and 150 MB that a run of the chain is spared; their own job has them,
and so has everything that is materialized in the UI by hand."""
data_checks = dg.AssetSelection.checks(
    *(dg.AssetCheckKey(dg.AssetKey(asset), name) for asset, name in DATA_CHECKS.items())
)

kb_checks = dg.define_asset_job(
    "kb_checks",
    selection=data_checks,
    description="Check the data of all tenants: chunks, vectors and indexes.",
)

kb_run = dg.define_asset_job(
    "kb_run",
    selection=dg.AssetSelection.assets(*CHAIN) - data_checks,
    description="Bring one tenant to what its configuration and its source say. Does only what is needed.",
)

kb_rebuild = dg.define_asset_job(
    "kb_rebuild",
    selection=dg.AssetSelection.assets("hnsw_index", "eval_report", "live_index") - data_checks,
    config={"ops": {"hnsw_index": {"config": {"rebuild": True}}}},
    description="Build, measure and promote a new index for one tenant, also when the live one is fine.",
)
