"""`kb db`: the embedded Postgres, and copies of the data."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from kb_pipeline.cli.options import Json, Yes, print_json

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@app.command()
def start(as_json: Json = False) -> None:
    """Start the embedded server and keep it beyond the last process, until `kb db stop`."""
    from kb_pipeline.cli.instance import instance_folder
    from kb_pipeline.home import kb_home
    from kb_pipeline.store.database import dagster_dsn, open_database
    from kb_pipeline.store.server import keep_alive

    refuse_own_server("start")
    status = keep_alive(kb_home())
    url = dagster_dsn(open_database())
    if as_json:
        print_json(asdict(status) | {"dagster_url": url})
        return
    print(f"Postgres {status.major} runs on {status.data} until `kb db stop`\n{status.url}")
    print(f"for a webserver or daemon of your own:\nexport DAGSTER_HOME={instance_folder()} DAGSTER_PG_URL='{url}'")


@app.command()
def stop(
    force: Annotated[bool, typer.Option("--force", help="Also while other processes use it.")] = False,
    as_json: Json = False,
) -> None:
    """Stop the embedded server; while other processes use it, it stops with the last of them."""
    from kb_pipeline.home import kb_home
    from kb_pipeline.store.server import stop_server

    refuse_own_server("stop")
    status = stop_server(kb_home(), force=force)
    if as_json:
        print_json(asdict(status))
    elif status.running:
        print("in use by other processes; it stops with the last of them (--force stops it now)")
    else:
        print("stopped")


@app.command()
def url() -> None:
    """Print the DSN of the engine's database; starts nothing."""
    import os

    from kb_pipeline.home import kb_home
    from kb_pipeline.store.server import embedded_dsn

    print(os.environ.get("KB_DSN") or embedded_dsn(kb_home()))


@app.command()
def backup(file: Annotated[Path, typer.Argument(help="File to write.")]) -> None:
    """Write everything of the engine's database to one file, consistent while runs go on."""
    from kb_pipeline.store.database import open_database
    from kb_pipeline.store.dump import dump

    database = open_database()
    dump(database, file)
    print(f"wrote {file} ({file.stat().st_size / 2**20:,.1f} MB); `kb db restore {file}` brings it back")


@app.command()
def restore(file: Annotated[Path, typer.Argument(help="File of `kb db backup`.")], yes: Yes = False) -> None:
    """Replace everything in the engine's database by a backup. Asks first; --yes does not."""
    from kb_pipeline.errors import ConfigError
    from kb_pipeline.store.database import open_database
    from kb_pipeline.store.dump import restore_dump

    if not file.is_file():
        raise ConfigError(f"no file {file.absolute()}")
    database = open_database()
    if not yes and not typer.confirm("Replace everything that is in the database now?"):
        raise typer.Exit(1)
    restore_dump(database, file)
    print(f"restored {file}; `kb status` shows what is there now")


def refuse_own_server(verb: str) -> None:
    """Raises `ConfigError` where `KB_DSN` names a server that is not ours to start or stop."""
    import os

    from kb_pipeline.errors import ConfigError

    if os.environ.get("KB_DSN"):
        raise ConfigError(f"KB_DSN points at a Postgres of your own; {verb} it with its own tools, or unset KB_DSN")
