"""The `kb` command: its parts, and how errors end it."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from kb_pipeline.errors import KbError

DEBUG = "--debug"


def build_app() -> typer.Typer:
    """The `kb` command with all its parts."""
    from kb_pipeline.cli import commands

    app = typer.Typer(
        name="kb",
        help="Index knowledge bases in Postgres: only what changed, measured before it goes live, and a way back.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    app.callback()(options)
    commands.register(app)
    return app


def options(debug: Annotated[bool, typer.Option(DEBUG, help="Show the traceback of an error.")] = False) -> None:
    """Index knowledge bases in Postgres: only what changed, measured before it goes live, and a way back."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `kb` and return its exit code. An error is one message on standard error; `--debug` shows its traceback."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    own = words[: words.index("--")] if "--" in words else words
    debug = DEBUG in own
    words = [word for word in own if word != DEBUG] + words[len(own) :]
    if debug:
        logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    for name in ("kb_pipeline", "evals"):  # the run's log in Dagster has their lines; here they would break the bars
        logging.getLogger(name).addHandler(logging.NullHandler())
    try:
        build_app()(words, prog_name="kb")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except KeyboardInterrupt:
        print("kb: stopped; run the same command again to go on", file=sys.stderr)
        return 130
    except KbError as error:
        if debug:
            raise
        print(f"kb: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except Exception as error:
        if debug:
            raise
        print(f"kb: {type(error).__name__}: {error}\n    (run it with {DEBUG} to see where)", file=sys.stderr)
        return 1
    return 0


def run() -> None:
    """What the `kb` script runs."""
    sys.exit(main())
