"""The jobs: the whole chain of one tenant, and a rebuild of its index."""

from __future__ import annotations

import dagster as dg

CHAIN = ("documents", "chunks", "fingerprints", "embeddings", "hnsw_index", "eval_report", "live_index")
"""Asset names in the order of the flow."""

kb_run = dg.define_asset_job(
    "kb_run",
    selection=dg.AssetSelection.assets(*CHAIN),
    description="Bring one tenant to what its configuration and its source say. Does only what is needed.",
)

kb_rebuild = dg.define_asset_job(
    "kb_rebuild",
    selection=dg.AssetSelection.assets("hnsw_index", "eval_report", "live_index"),
    config={"ops": {"hnsw_index": {"config": {"rebuild": True}}}},
    description="Build, measure and promote a new index for one tenant, also when the live one is fine.",
)
