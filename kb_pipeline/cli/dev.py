"""`kb dev`: Postgres, webserver and daemon, until Ctrl-C."""

from __future__ import annotations

from typing import Annotated

import typer

from kb_pipeline.cli.options import Config


def dev(
    port: Annotated[int, typer.Option("--port", "-p", help="Port of the UI; the next free one if it is taken.")] = 3000,
    host: Annotated[str, typer.Option("--host", help="Address the UI listens on.")] = "127.0.0.1",
    config: Config = None,
) -> None:
    """Start the Dagster UI with its daemon on this folder's knowledge bases. Ctrl-C stops everything."""
    from kb_pipeline.cli.processes import free_port, serve
    from kb_pipeline.session import open_session

    session = open_session(config)
    serve(session, host=host, port=free_port(host, port))
