"""`kb maintain`: give back what nothing needs any more."""

from __future__ import annotations

from dataclasses import asdict

from kb_pipeline.cli.options import Config, Json, print_json


def maintain(config: Config = None, as_json: Json = False) -> None:
    """Drop builds past their soak or refused, collect orphans, VACUUM and ANALYZE, remove old logs and staged files.

    The schedule `maintenance` does the same every night.
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
    if as_json:
        print_json(asdict(done))
    else:
        print(in_words(done))
