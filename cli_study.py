"""`mgr selftest`: is the engine itself to be trusted?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli_view import FOUND_A_FAILURE, AsJson, emit
from nanochat.tables import table as plain_table

if TYPE_CHECKING:
    from nanochat.bench.selftests import Finding

Artifacts = Annotated[Path, typer.Option(help="Root of everything that runs write.")]

ROOT = Path("artifacts")


def selftest(
    full: Annotated[bool, typer.Option("--full", help="The long ones too: they train some 400 small models.")] = False,
    only: Annotated[list[str] | None, typer.Option(help="This one, repeatable, such as causality.")] = None,
    jobs: Annotated[int | None, typer.Option(help="Runs at a time; one per physical core.", min=1)] = None,
    artifacts_dir: Artifacts = ROOT,
    as_json: AsJson = False,
) -> int:
    """Test the engine: error rates, planted effects, cheats, determinism. What it finds stands in every report."""
    from nanochat.bench.selftests import run
    from nanochat.bench.selftests.kept import standing

    findings = run(
        artifacts_dir,
        full=full,
        names=only or (),
        jobs=jobs,
        told=lambda finding: None if as_json else typer.echo(_told(finding)),
    )
    found = standing(artifacts_dir)
    if as_json:
        emit({"schema": "mgr.selftest.v1", "badge": found["badge"], "findings": [each.to_json() for each in findings]})
    else:
        typer.echo(found["badge"])
    return 0 if all(finding.passed for finding in findings) else FOUND_A_FAILURE


def _told(finding: Finding) -> str:
    """A self-test as text: what it claims, and its numbers between their bounds."""
    word = "passed" if finding.passed else "FAILED"
    rows = [
        [
            "ok" if measure.passed else "NO",
            f"{measure.value:.4g}",
            _bounds(measure.low, measure.high),
            ("control: " if measure.control else "") + measure.what,
        ]
        for measure in finding.measures
    ]
    head = f"{finding.name}: {word}, {finding.seconds:.0f} s. {finding.claim}"
    return f"{head}\n{plain_table(['', 'found', 'need', ''], rows)}\n"


def _bounds(low: float, high: float) -> str:
    if low == high:
        return f"{low:g}"
    if high == float("inf"):
        return f"at least {low:.3g}"
    return f"at most {high:.3g}" if low == -float("inf") else f"{low:.3g} to {high:.3g}"
