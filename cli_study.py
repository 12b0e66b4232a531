"""`mgr selftest`, `mgr ablate`, `mgr heads`: is the engine to be trusted, which knob matters, what do heads do?"""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cli_view import FOUND_A_FAILURE, AsJson, console, emit, suite_options, with_options
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


@with_options(suite_options(without=("arms", "baseline", "attention_patterns", "looks")))
def ablate(
    mechanism: Annotated[str, typer.Argument(help="An attention type that `mgr list` shows.", metavar="MECHANISM")],
    factor: Annotated[
        list[str] | None,
        typer.Option("--factor", help="A knob and its values, the baseline's first; repeatable.", metavar="KNOB=a,b"),
    ] = None,
    as_json: AsJson = False,
    **given: Any,
) -> int:
    """Which knobs of a mechanism matter? Every combination trained and tuned alike; main effects and interactions."""
    from nanochat.bench.factors import design, forecast

    chosen = {key: tuple(x) if isinstance(x, list) else x for key, x in given.items()}
    asked = design(mechanism, factor or (), {key: x for key, x in chosen.items() if x not in (None, ())})
    from nanochat.bench.factorial import contrasts

    if not any(contrast.estimable for contrast in contrasts(asked.factors, asked.cells)):
        from nanochat.config import ConfigError

        why = next(iter(asked.refused.values()))
        raise ConfigError([f"--factor: got a design that can tell no effect, need values that go together: {why}"])
    from nanochat.bench.clusters import crew_of

    crew = crew_of(asked.plan.config)  # a wrong one is refused before anything is forecast
    for line in forecast(asked):
        typer.echo(line, err=as_json)
    from nanochat.bench.ablation import HEADINGS, combinations_of, document, row, run, sentences
    from nanochat.bench.view import LiveSuite, PlainSuite

    out = console(stderr=as_json)
    view = LiveSuite(out) if out.is_terminal else PlainSuite(lambda line: typer.echo(line, err=as_json))
    found = run(asked, view, crew)
    if as_json:
        emit(document(found))
    else:
        rows = [row(effect) for effect in found.effects]
        shown = len(HEADINGS) - (not any(cells[-1] for cells in rows))  # without notes, no column for them
        typer.echo("\n" + plain_table(HEADINGS[:shown], [cells[:shown] for cells in rows]))
        typer.echo("\n" + plain_table(("combination", "verdict", "bpb", "Δ bpb"), combinations_of(found)))
        typer.echo("\n" + "\n".join(textwrap.fill(sentence, 80) for sentence in sentences(found)))
        typer.echo(f"\n{found.verdicts.directory / 'ablation.html'}")
    return 0 if found.verdicts.valid else FOUND_A_FAILURE


def heads(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Folders of finished runs, which differ by seed only.", metavar="RUN..."),
    ],
    plots: Annotated[Path | None, typer.Option(help="Write the heat maps into this folder.")] = None,
    plots_format: Annotated[Literal["png", "svg"] | None, typer.Option(help="Of the heat maps (default: png).")] = None,
    as_json: AsJson = False,
) -> int:
    """What the heads of trained models do on held-out text: where they look, how unlike they are, and what only theirs
    has to show.
    """
    from nanochat.config import ConfigError
    from nanochat.observed import observe, same

    same(runs)
    if plots_format is not None and plots is None:
        raise ConfigError([f"--plots-format: got {plots_format} without figures, need --plots DIR too"])
    try:
        if plots is not None:
            plots.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError([f"--plots: cannot create {plots}: {error.strerror}"]) from error
    found = observe(runs, report=lambda line: typer.echo(line, err=True))
    from nanochat import heat

    drawn = [] if plots is None else heat.draw(found, plots, plots_format or "png")
    if as_json:
        return emit(heat.document(found) | {"plots": [str(path) for path in drawn]})
    typer.echo(plain_table(["layer", "head", *found.measures], heat.rows(found)) + "\n")
    typer.echo("\n\n".join(heat.maps(found)) + "\n")
    typer.echo("\n".join(textwrap.fill(sentence, 79) for sentence in heat.sentences(found)))
    typer.echo(f"{found.tokens} tokens of held-out text in {found.windows} windows")
    return 0
