"""`outbox doctor`: look at everything that the relay needs."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Final

import typer

from outbox.cli.errors import FailedError
from outbox.cli.invocation import of
from outbox.cli.output import Output, counted
from relay.database import make_engine
from relay.doctor import examine
from relay.finding import Finding

STYLES: Final = {"ok": "green", "degraded": "yellow", "failed": "bold red"}


def doctor(
    context: typer.Context,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="JSON for scripts.")] = False,
) -> None:
    """Check the database, its settings, the role's rights and the routes; say what to do."""
    run = of(context)
    settings = run.settings
    engine = make_engine(settings.url)
    try:
        findings = []
        for finding in examine(settings, engine):
            findings.append(finding)
            if not as_json:
                _show(run.output, finding)
    finally:
        engine.dispose()
    if as_json:
        run.output.json({"checks": [asdict(finding) for finding in findings]})
    failed = [finding.check for finding in findings if finding.state == "failed"]
    if failed:
        raise FailedError(f"{counted(len(failed), 'check')} failed: {', '.join(failed)}")


def _show(output: Output, finding: Finding) -> None:
    output.line(f"{finding.state:<8}  {finding.check}: {finding.found}", STYLES[finding.state])
    if finding.advice is not None:
        output.line(f"{'':<8}  → {finding.advice}")
