"""`kb maintain`: give back what nothing needs any more."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from kb_pipeline.cli.options import Config, Json, print_json


def maintain(
    repack: Annotated[
        bool, typer.Option("--repack", help="Then make each partition of the contents anew, so that files shrink.")
    ] = False,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Drop builds past their soak or refused, collect orphans, VACUUM and ANALYZE, remove old logs and staged files.

    The schedule `maintenance` does the same every night, without --repack: that takes room for a copy of the largest
    partition and the time of its index builds. Searches and runs go on.
    """
    from kb_pipeline.cli.instance import open_instance
    from kb_pipeline.config.durations import parse_duration
    from kb_pipeline.maintenance import in_words
    from kb_pipeline.maintenance import maintain as work
    from kb_pipeline.session import open_session

    session = open_session(config)
    done = work(session)
    with open_instance(session) as instance:
        from sensors.old_runs import purge_old_runs

        done.runs_deleted = purge_old_runs(instance, parse_duration(session.settings.history.keep))
    if not as_json:
        print(in_words(done))
    repacked: list[dict[str, object]] = []
    if repack:
        from kb_pipeline.migrate.repack import repack as make_anew

        for partition in make_anew(session):
            repacked.append(asdict(partition))
            if not as_json:
                print(partition.line())
    if as_json:
        print_json({**asdict(done), **({"repacked": repacked} if repack else {})})
