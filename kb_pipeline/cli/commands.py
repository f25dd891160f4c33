"""Every command of `kb`, by name. A command's own imports happen when it runs: `kb --help` stays quick."""

from __future__ import annotations

import typer

from kb_pipeline.cli import (
    batches,
    builds,
    chunks,
    db,
    dead_letters,
    demo,
    dev,
    doctor,
    embeddings,
    evaluate,
    golden,
    history,
    init,
    maintain,
    migrate,
    plan,
    promote,
    purge,
    reject,
    run,
    search,
    spend,
    status,
    tenants,
    tune,
)


def register(app: typer.Typer) -> None:
    """Add the commands in the order `kb --help` shows them."""
    for name, command in (
        ("init", init.init),
        ("run", run.run),
        ("plan", plan.plan),
        ("search", search.search),
        ("status", status.status),
        ("eval", evaluate.evaluate),
        ("history", history.history),
        ("builds", builds.builds),
        ("promote", promote.promote),
        ("reject", reject.reject),
        ("rollback", promote.rollback),
        ("rebuild", run.rebuild),
        ("chunks", chunks.chunks),
        ("spend", spend.spend),
        ("batches", batches.batches),
        ("purge", purge.purge),
        ("doctor", doctor.doctor),
        ("maintain", maintain.maintain),
        ("tune", tune.tune),
        ("dev", dev.dev),
        ("demo", demo.demo),
    ):
        app.command(name)(command)
    app.add_typer(migrate.app, name="migrate", help="Change the embedding model: start, look on, pause, resume, abort.")
    app.add_typer(golden.app, name="golden", help="Golden sets: add, list, check, sample, settle.")
    app.add_typer(tenants.app, name="tenants", help="List the tenants, or erase one.")
    app.add_typer(embeddings.app, name="embeddings", help="Vectors in and out as Parquet.")
    app.add_typer(dead_letters.app, name="dead-letters", help="What could not be indexed, and trying it again.")
    app.add_typer(db.app, name="db", help="The embedded Postgres: start, stop, url, backup, restore.")
