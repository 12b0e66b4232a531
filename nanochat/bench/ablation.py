"""Runs an ablation as a suite of its combinations; effects go into ``ablation.json .md .html`` beside the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from html import escape

from nanochat.bench.crew import Crew
from nanochat.bench.engine import run as run_suite
from nanochat.bench.factorial import Effect, effects
from nanochat.bench.factors import Ablation, combination
from nanochat.bench.observe import Observer
from nanochat.bench.statistics import MIN_SEEDS
from nanochat.bench.stylesheet import STYLE
from nanochat.bench.verdicts import ArmVerdict, Verdicts
from nanochat.bench.wording import number, probability
from nanochat.record import write_bytes, write_json

SCHEMA = "mgr.ablation.v1"

HEADINGS = ("effect", "is", "Δ bpb", "interval", "p", "note")


@dataclass(frozen=True, slots=True)
class Found:
    """The result of an ablation.

    Args:
        ablation: what was asked.
        verdicts: of every combination against the first values of all knobs.
        effects: main effects, then interactions.
        alpha: family-wise error rate over all effects.
    """

    ablation: Ablation
    verdicts: Verdicts
    effects: tuple[Effect, ...]
    alpha: float


def run(ablation: Ablation, view: Observer, crew: Crew | None = None) -> Found:
    """Train, judge, estimate, write; ``crew`` as for :func:`nanochat.bench.engine.run`."""
    return conclude(ablation, run_suite(ablation.plan.config, view=view, crew=crew))


def conclude(ablation: Ablation, verdicts: Verdicts) -> Found:
    """Effects from a finished suite of the combinations, and the files."""
    arms = {arm.label: arm for arm in verdicts.arms}
    chosen = [arms[ablation.label(cell)] for cell in ablation.cells]
    barred = {cell: fault for cell, arm in zip(ablation.cells, chosen, strict=True) if (fault := _fault(arm))}
    config, preset = verdicts.plan.config, verdicts.plan.preset
    judged = effects(
        ablation.factors,
        ablation.cells,
        [arm.bpb for arm in chosen],
        sesoi=config.sesoi,
        alpha=config.alpha,
        words=preset.verdict,
        barred=barred,
    )
    found = Found(ablation, verdicts, tuple(judged), config.alpha)
    write(found)
    return found


def _fault(arm: ArmVerdict) -> tuple[str, str] | None:
    """Why an arm's numbers may not enter a contrast: its own faults only, not those of the baseline."""
    if arm.audit.faults:
        return "INVALID", arm.audit.faults[0]
    lost = arm.bpb.count(None)
    return ("UNSTABLE", f"diverged in {lost} of {len(arm.bpb)} seeds") if lost else None


def write(found: Found) -> None:
    """The files; ``ablation.json`` last."""
    directory = found.verdicts.directory
    write_bytes(directory / "ablation.md", markdown(found).encode())
    write_bytes(directory / "ablation.html", page(found).encode())
    write_json(directory / "ablation.json", document(found))


def document(found: Found) -> dict[str, object]:
    """``ablation.json``."""
    ablation, plan = found.ablation, found.verdicts.plan
    arms = {arm.label: arm for arm in found.verdicts.arms}
    cells = [
        {"values": combination(ablation.factors, cell), "arm": label, "verdict": arms[label].verdict}
        | {"mean": arms[label].mean, "difference": arms[label].difference, "bpb": list(arms[label].bpb)}
        for cell in ablation.cells
        for label in [ablation.label(cell)]
    ]
    return {
        "schema": SCHEMA,
        "run_id": plan.name,
        "mechanism": ablation.mechanism,
        "factors": {factor.name: list(factor.levels) for factor in ablation.factors},
        "seeds": len(plan.seeds),
        "alpha": found.alpha,
        "sesoi": plan.config.sesoi,
        "valid": found.verdicts.valid,
        "effects": [asdict(effect) for effect in found.effects],
        "combinations": cells,
        "left_out": {combination(ablation.factors, cell): reason for cell, reason in ablation.refused.items()},
    }


def row(effect: Effect) -> tuple[str, ...]:
    """One line of the effect table, as text."""
    span = "" if effect.low is None or effect.high is None else f"[{effect.low:+.4f}, {effect.high:+.4f}]"
    p = "" if effect.p_adjusted is None else probability(effect.p_adjusted)
    return effect.name, effect.verdict, number(effect.estimate, "+.4f"), span, p, effect.note


def sentences(found: Found) -> list[str]:
    """How the table is to be read."""
    plan, factors = found.verdicts.plan, found.ablation.factors
    first = combination(factors, found.ablation.cells[0])
    lines = [
        f"{len(plan.seeds)} paired seeds, baseline {first}. A main effect is that value minus the first one, averaged "
        "over the other knobs; an interaction is how much one knob's effect changes with the other's value. Negative "
        f"is better. Intervals are simultaneous at {1 - found.alpha:.0%}, p after Holm over all effects; TIE is within "
        f"±{plan.config.sesoi:g}."
    ]
    if not plan.preset.verdict or len(plan.seeds) < MIN_SEEDS:
        lines.append(f"Verdict words are off: {len(plan.seeds)} seeds, need {MIN_SEEDS}.")
    if found.ablation.refused:
        lines.append("Combinations are missing: what is estimated supposes that no three knobs interact.")
        for cell, reason in found.ablation.refused.items():
            lines.append(f"Left out: {combination(factors, cell)}: {reason}")
    return lines


def markdown(found: Found) -> str:
    """``ablation.md``, for a pull request."""

    def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
        cells = [[cell.replace("|", "\\|") for cell in each] for each in rows]
        return ["| " + " | ".join(each) + " |" for each in (headings, ["---"] * len(headings), *cells)]

    lines = [f"# Ablation of {found.ablation.mechanism}: {found.verdicts.plan.name}", ""]
    lines += [*table(HEADINGS, [row(effect) for effect in found.effects]), "", *sentences(found), "", "## Combinations"]
    lines += ["", *table(("combination", "verdict", "bpb", "Δ bpb"), combinations_of(found)), ""]
    return "\n".join(lines)


def combinations_of(found: Found) -> list[tuple[str, ...]]:
    """Verdicts of the combinations against the baseline, as text."""
    arms = {arm.label: arm for arm in found.verdicts.arms}
    rows = []
    for cell in found.ablation.cells:
        arm = arms[found.ablation.label(cell)]
        name = combination(found.ablation.factors, cell)
        rows.append((name, arm.verdict, number(arm.mean, ".4f"), number(arm.difference, "+.4f")))
    return rows


def page(found: Found) -> str:
    """``ablation.html``: one file without scripts and without network."""
    title = f"Ablation of {found.ablation.mechanism}: {found.verdicts.plan.name}"
    body = [
        f"<h1>{escape(title)}</h1>",
        f"<figure>{figure(found.effects, found.verdicts.plan.config.sesoi)}</figure>",
        _table(HEADINGS, [row(effect) for effect in found.effects]),
        *(f"<p>{escape(sentence)}</p>" for sentence in sentences(found)),
        "<h2>Combinations</h2>",
        _table(("combination", "verdict", "bpb", "Δ bpb"), combinations_of(found)),
        '<p><a href="report.html">The whole report of these combinations</a></p>',
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><main>\n"
        + "\n".join(body)
        + "\n</main></body></html>\n"
    )


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col">{escape(heading)}</th>' for heading in headings)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in each) + "</tr>" for each in rows)
    return f'<div class="scroll" tabindex="0"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


ROW, LEFT, WIDTH = 24, 250, 640


def figure(found: Sequence[Effect], sesoi: float) -> str:
    """Every effect with its simultaneous interval, and the band of no interest, as an SVG element."""
    shown = [effect for effect in found if effect.estimate is not None]
    ends = [abs(end) for effect in shown for end in (effect.low, effect.high) if end is not None]
    reach = 1.05 * max([2 * sesoi, *ends])
    height = ROW * (len(shown) + 1) + 8

    def x(value: float) -> float:
        return LEFT + (WIDTH - LEFT) * (value + reach) / (2 * reach)

    band = f'<rect x="{x(-sesoi):.1f}" y="0" width="{x(sesoi) - x(-sesoi):.1f}" height="{ROW * len(shown)}"'
    parts = [
        f'{band} fill="currentColor" opacity="0.12"/>',
        f'<line x1="{x(0):.1f}" x2="{x(0):.1f}" y1="0" y2="{ROW * len(shown)}" stroke="currentColor"/>',
    ]
    for index, effect in enumerate(shown):
        assert effect.estimate is not None and effect.low is not None and effect.high is not None
        y = ROW * (index + 0.5)
        parts += [
            f'<text x="0" y="{y + 4:.1f}" fill="currentColor" font-size="12">{escape(effect.name)}</text>',
            f'<line x1="{x(effect.low):.1f}" x2="{x(effect.high):.1f}" y1="{y}" y2="{y}" stroke="currentColor" '
            'stroke-width="2"/>',
            f'<circle cx="{x(effect.estimate):.1f}" cy="{y}" r="4" fill="currentColor"><title>'
            f"{escape(effect.name)}: {effect.estimate:+.4f}</title></circle>",
        ]
    for value in (-reach / 1.05, 0.0, reach / 1.05):
        anchor = "middle" if value == 0 else "start" if value < 0 else "end"
        parts.append(
            f'<text x="{x(value):.1f}" y="{height - 10}" text-anchor="{anchor}" fill="currentColor" font-size="12">'
            f"{value:+.3f}</text>"
        )
    title = "Effects in bits per byte with simultaneous intervals; left is better"
    return f'<svg role="img" viewBox="0 0 {WIDTH} {height}"><title>{title}</title>{"".join(parts)}</svg>'
