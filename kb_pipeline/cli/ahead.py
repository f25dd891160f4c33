"""The stages before `embeddings`, begun in a second process while the first one imports Dagster.

Importing Dagster and its Postgres storage takes 2.5 s of one core; reading and chunking need none of it. The Dagster
run takes their summaries, or their error, when it comes to the asset: outputs are registered under its run id.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any, Self

from kb_pipeline.errors import KbError
from kb_pipeline.processes import end_with_parent
from kb_pipeline.session import Session

STAGES = ("documents", "chunks", "fingerprints")


class StagesAhead:
    """Runs the first stages of a run beside this process; to be used as a context manager that ends them with it."""

    def __init__(
        self,
        session: Session,
        tenant_id: str,
        *,
        run_id: str,
        assets: tuple[str, ...],
        op_config: Mapping[str, Mapping[str, Any]],
    ) -> None:
        self.stages = STAGES[: len(assets)] if assets[:1] == STAGES[:1] and sys.platform == "linux" else ()
        # Forked: the settings, the source given on the command line and what is imported are there at once. The child
        # opens connections of its own and leaves by os._exit, so it never touches the parent's.
        context = get_context("fork")
        self._results, sender = context.Pipe(duplex=False)
        self._process = context.Process(target=_run, args=(session, tenant_id, run_id, self.stages, op_config, sender))
        self._sender = sender

    def __enter__(self) -> Self:
        if self.stages:
            self._process.start()
        self._sender.close()
        return self

    def __exit__(self, *_: object) -> None:
        if self.stages:
            self._process.kill()
            self._process.join()
        self._results.close()

    def summary(self, asset: str) -> Any:
        """The summary of a stage, waited for. Stages are asked for in their order. Raises what the stage raised."""
        try:
            done, result = self._results.recv()
        except EOFError:
            raise KbError(f"the process that ran `{asset}` ended without an answer; run again") from None
        if isinstance(result, BaseException):
            raise result
        if done != asset:
            raise KbError(f"`{asset}` was asked for, but `{done}` ran")
        return result


def _run(
    session: Session,
    tenant_id: str,
    run_id: str,
    stages: tuple[str, ...],
    op_config: Mapping[str, Mapping[str, Any]],
    sender: Connection,
) -> None:
    from kb_pipeline.stages.chunk_units import cores

    end_with_parent()
    # Chunking takes a process a core: threads of the tokenizer's beside them would only take memory.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for asset in stages:
        try:
            stage = import_module(f"kb_pipeline.stages.{asset}")
            context = replace(session.stage(tenant_id, run_id), processes=cores())
            sender.send((asset, stage.run(context, **op_config.get(asset, {}))))
        except Exception as error:
            sender.send((asset, error if isinstance(error, KbError) else KbError(f"{type(error).__name__}: {error}")))
            return
