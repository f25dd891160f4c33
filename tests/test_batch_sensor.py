"""The sensor that looks at batch jobs: it asks for a run when one has ended, once, and never collects itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from provider_server import KEY, ProviderServer

from kb_pipeline.store.database import Database

pytestmark = pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20")


def test_a_run_is_requested_when_a_job_has_ended(
    tmp_path: Path, kb_env: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dagster as dg

    from kb_pipeline.embed.batch_lines import request_line
    from kb_pipeline.embed.registry import resolve_spec
    from kb_pipeline.session import open_session
    from kb_pipeline.store.bank import space_key
    from kb_pipeline.store.batches import Item, open_jobs, plan_job, update_job
    from sensors.batches import batches_sensor

    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("KB_CONFIG", str(tmp_path / "kb.toml"))
    with ProviderServer(dims=1536) as server, dg.instance_for_test() as instance:
        (tmp_path / "kb.toml").write_text(
            f'[embedder]\nprovider = "openai"\nlane = "batch"\nbase_url = "{server.url}"\n'
            f"[tenants.acme]\nsource = {json.dumps(str(tmp_path))}\n"
        )
        session = open_session()
        spec = resolve_spec(session.tenant("acme").embedder)

        def look() -> dg.SensorResult | dg.SkipReason:
            return batches_sensor(dg.build_sensor_context(instance=instance))  # type: ignore[return-value]

        assert isinstance(look(), dg.SkipReason)
        with session.db.connect("owner", autocommit=True) as conn:
            job_id = plan_job(
                conn, "acme", "run", key="k", space=space_key(spec), spec=spec, items=[Item(bytes(32), 3)], usd=0.0
            )
            file = server.desk._file("kb-k.jsonl", request_line(spec, bytes(32), "one two three"), "batch")
            ask = {"input_file_id": file["id"], "endpoint": "/v1/embeddings", "completion_window": "24h"}
            job = json.loads(server.desk._create({**ask, "metadata": {"kb_job": "k"}})[1])
            update_job(conn, "acme", job_id, state="submitted", batch_id=job["id"], file_id=file["id"])
            skipped = look()
            assert isinstance(skipped, dg.SkipReason)
            assert "1 batch jobs are at the provider, none has ended" in str(skipped.skip_message)
            server.desk.finish()
            found = look()
            assert isinstance(found, dg.SensorResult) and found.run_requests is not None
            (request,) = found.run_requests
            assert request.partition_key == "acme"
            assert str(request.run_key).startswith(f"batches:acme:{job_id}:")
            assert [each.state for each in open_jobs(conn, "acme")] == ["submitted"]
