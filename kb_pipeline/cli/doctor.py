"""`kb doctor`: is everything as it should be?"""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from kb_pipeline.cli.options import Config, Json, Tenant, print_json


def doctor(
    triggers: Annotated[
        bool, typer.Option("--triggers", help="Show what would be rebuilt, what not, and how far it is from that.")
    ] = False,
    tenant: Tenant = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Look for what is wrong: what, why it matters, the command that mends it. Exit code 1 when something is."""
    from kb_pipeline.diagnose import diagnose, explain_triggers
    from kb_pipeline.session import chosen_tenants, open_session

    session = open_session(config)
    tenants = chosen_tenants(session, tenant)
    if triggers:
        explained = explain_triggers(session, tenants)
        if as_json:
            print_json({name: [asdict(each) for each in found] for name, found in explained.items()})
            return
        for name, found in explained.items():
            print(f"{name}:")
            for each in found:
                print(f"  {'FIRES' if each.fires else 'no   '} {each.trigger:<11} {each.words}")
        return
    findings = diagnose(session, tenants)
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            who = f"{finding.tenant_id}: " if finding.tenant_id else ""
            print(f"{'ok   ' if finding.ok else 'WRONG'} {finding.check:<12} {who}{finding.finding}")
            if not finding.ok:
                print(f"      why: {finding.why}\n      do:  {finding.fix}")
    raise typer.Exit(0 if all(finding.ok for finding in findings) else 1)
