"""The report's tables: one column is one line here, and every column can be sorted by."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape

from nanochat.bench.figures import COSTS, on_front
from nanochat.bench.verdicts import ArmVerdict, Verdicts, excess
from nanochat.bench.wording import (
    FLAGS,
    MEANINGS,
    brief,
    needed,
    number,
    number_text,
    probability,
    signed,
    span,
    time_text,
    untuned_text,
)

Key = float | str | None


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table with a row per arm.

    Args:
        heading: with the unit.
        key: what it is sorted by; None where there is nothing.
        show: the cell's HTML; the key as text if not given.
        long: text that may take several lines.
    """

    heading: str
    key: Callable[[ArmVerdict], Key]
    show: Callable[[ArmVerdict], str] | None = None
    long: bool = False


def figure(heading: str, key: Callable[[ArmVerdict], float | None], form: str) -> Column:
    """A column of numbers in one format; a sign in the format means a true minus."""
    return Column(heading, key, lambda arm: (signed if "+" in form else number)(key(arm), form))


def text(heading: str, key: Callable[[ArmVerdict], str], *, long: bool = False) -> Column:
    """A column of words."""
    return Column(heading, key, lambda arm: escape(key(arm)), long)


def table(name: str, columns: Sequence[Column], arms: Iterable[ArmVerdict]) -> str:
    """A sortable table.

    Args:
        name: what a screen reader calls it.
        columns: the first one names the row; one that is empty for every arm is left out.
        arms: one row each.
    """
    arms = list(arms)
    columns = [column for column in columns if any(column.key(arm) not in (None, "") for arm in arms)]
    words = [any(isinstance(column.key(arm), str) for arm in arms) for column in columns]
    head = "".join(
        f'<th scope="col" aria-sort="none"{_class(word, False)}>'
        f'<button type="button">{escape(column.heading)}</button></th>'
        for column, word in zip(columns, words, strict=True)
    )
    body = "".join(
        "<tr>"
        + "".join(
            _cell(column, arm, word, first=column is columns[0]) for column, word in zip(columns, words, strict=True)
        )
        + "</tr>"
        for arm in arms
    )
    return (
        f'<div class="scroll" role="region" aria-label="{escape(name)}" tabindex="0"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _class(word: bool, long: bool) -> str:
    names = " ".join(name for name, wanted in (("text", word), ("long", long)) if wanted)
    return f' class="{names}"' if names else ""


def _cell(column: Column, arm: ArmVerdict, word: bool, *, first: bool) -> str:
    key = column.key(arm)
    shown = column.show(arm) if column.show else escape(str(key))
    sort = "" if key is None else escape(str(key))
    tag, scope = ("th", ' scope="row"') if first else ("td", "")
    return f'<{tag}{scope}{_class(word, column.long)} data-key="{sort}">{shown}</{tag}>'


def anchor(verdicts: Verdicts, arm: ArmVerdict) -> str:
    """Where the page tells about one arm."""
    return f"arm-{verdicts.plan.labels.index(arm.label)}"


def link(verdicts: Verdicts, arm: ArmVerdict) -> str:
    """An arm's name, leading to what the page tells about it."""
    name = escape(short(verdicts, arm))
    return f'<a href="#{anchor(verdicts, arm)}">{name}</a>' if arm.against else name


def short(verdicts: Verdicts, arm: ArmVerdict) -> str:
    """An arm's name without the optimizer and schedule that stand beside it."""
    config, own = verdicts.plan.config, verdicts.plan.arm(arm.label)
    name = arm.label.removesuffix(f"+{own.scheduler}") if len(config.schedulers) > 1 else arm.label
    return name.removesuffix(f"+{own.optimizer}") if len(config.optimizers) > 1 else name


def word(arm: ArmVerdict) -> str:
    """A verdict with its flags."""
    flags = "".join(f" <small>{FLAGS[flag]}</small>" for flag in arm.flags)
    return f'<span class="word {arm.verdict}">{arm.verdict}</span>{flags}'


def named(verdicts: Verdicts) -> list[Column]:
    """The first columns of every table: the arm and, where there are several, its optimizer and schedule."""
    plan = verdicts.plan
    return [Column("arm", lambda arm: arm.label, lambda arm: link(verdicts, arm))] + (
        [
            *([text("optimizer", lambda arm: plan.arm(arm.label).optimizer)] * (len(plan.config.optimizers) > 1)),
            *([text("schedule", lambda arm: plan.arm(arm.label).scheduler)] * (len(plan.config.schedulers) > 1)),
        ]
    )


def verdict_table(verdicts: Verdicts) -> str:
    """The table that everything else explains."""
    order = list(MEANINGS)
    columns = [
        *named(verdicts),
        Column("verdict", lambda arm: f"{order.index(arm.verdict)} {arm.verdict}", word),
        figure("Δ bits per byte", lambda arm: arm.difference, "+.4f"),
        Column(
            f"simultaneous {1 - verdicts.plan.config.alpha:.0%} interval",
            lambda arm: arm.low,
            lambda arm: span(arm.low, arm.high),
        ),
        figure("bits per byte", lambda arm: arm.mean, ".4f"),
        Column("p, corrected", lambda arm: arm.p_adjusted, lambda arm: probability(arm.p_adjusted)),
        figure("seeds", lambda arm: len(arm.bpb), "d"),
        Column("seeds needed", _seeds_needed, needed),
        Column("step time", lambda arm: arm.time_ratio, time_text),
    ]
    return table("Verdicts", columns, verdicts.arms)


def _seeds_needed(arm: ArmVerdict) -> float | None:
    return None if not needed(arm) else 1e99 if arm.seeds_needed is None else arm.seeds_needed


def cost_table(verdicts: Verdicts) -> str:
    """What the fronts are drawn from."""
    fronts = {cost.name: {arm.label for arm in on_front(verdicts, cost)} for cost in COSTS}

    def front(arm: ArmVerdict) -> str:
        return ", ".join(name for name, labels in fronts.items() if arm.label in labels)

    columns = [
        *named(verdicts),
        figure("bits per byte", lambda arm: arm.mean, ".4f"),
        Column("operations per run", lambda arm: arm.operations, lambda arm: number_text(arm.operations)),
        figure("steps", lambda arm: arm.steps, ",d"),
        figure("seconds per run", lambda arm: arm.seconds, ".1f"),
        figure("milliseconds per step", lambda arm: arm.step_seconds and 1e3 * arm.step_seconds, ".2f"),
        figure("peak memory, MiB", lambda arm: arm.peak_bytes and arm.peak_bytes * 2.0**-20, ",.0f"),
        figure("parameters", lambda arm: arm.parameters, ",d"),
        text("on the front of", front),
    ]
    return table("Costs", columns, verdicts.arms)


def statistics_table(verdicts: Verdicts) -> str:
    """Numbers behind the verdicts."""

    def effect(name: str) -> Callable[[ArmVerdict], float | None]:
        return lambda arm: None if arm.effects is None else getattr(arm.effects, name)

    def diverging(arm: ArmVerdict) -> float | None:
        diverged = None in arm.bpb or any(None in base.bpb for base in verdicts.arms if base.label == arm.against)
        return effect("divergence_p")(arm) if diverged else None

    columns = [
        *named(verdicts),
        figure("spread (sd) of Δ", lambda arm: arm.sd, ".4f"),
        Column("paired t, p", lambda arm: arm.p, lambda arm: probability(arm.p)),
        Column("sign flips, p", lambda arm: arm.p_sign_flip, lambda arm: probability(arm.p_sign_flip)),
        Column("signed ranks, p", effect("rank_p"), lambda arm: probability(effect("rank_p")(arm))),
        Column("equivalence, p", lambda arm: arm.p_tie, lambda arm: probability(arm.p_tie)),
        Column("as many divergences, p", diverging, lambda arm: probability(diverging(arm))),
        figure("detectable at 80 %", lambda arm: arm.detectable, ".4f"),
    ]
    return table("Statistics", columns, verdicts.contenders)


def effects_table(verdicts: Verdicts) -> str:
    """How much the differences are, in other units, and what happens elsewhere."""

    def spread(arm: ArmVerdict) -> tuple[float, float] | tuple[None, None]:
        return (arm.effects and arm.effects.documents) or (None, None)

    def gain(arm: ArmVerdict) -> float | None:
        return arm.effects.gain.factor if arm.effects and arm.effects.gain else None

    def worth(arm: ArmVerdict) -> str:
        found = arm.effects.gain if arm.effects else None
        return (
            ""
            if found is None
            else f"{found.factor:.2f}× [{found.low:.2f}, {found.high:.2f}]{'*' * found.extrapolated}"
        )

    columns = [
        *named(verdicts),
        figure("Δ / sd", lambda arm: arm.effects and arm.effects.standardised, "+.2f"),
        figure("better on a fresh seed", lambda arm: arm.effects and arm.effects.fresh_seed, ".0%"),
        Column("Δ for new passages too", lambda arm: spread(arm)[0], lambda arm: span(*spread(arm))),
        Column("worth in compute", gain, worth),
        text("on fresh seeds", lambda arm: brief(arm.confirmation)),
        *(_at_share(share) for share in verdicts.plan.preset.shares),
        text("at equal seconds", lambda arm: brief(arm.time)),
    ]
    return table("Effects", columns, verdicts.contenders)


def _at_share(share: float) -> Column:
    return text(f"at {share:g} of the budget", lambda arm: brief(arm.shares.get(share)))


def tuning_table(verdicts: Verdicts) -> str:
    """What the search for learning rates chose."""

    def trials(arm: ArmVerdict) -> int:
        return sum(job.stage == "tuning" for job, _ in verdicts.runs[arm.label])

    columns = [
        *named(verdicts),
        figure("rate used", lambda arm: arm.tuned.rate, ".3g"),
        figure("tuning runs", trials, "d"),
        Column(
            "mean excess over the grid",
            lambda arm: excess(arm.tuned) if excess(arm.tuned) is not None else 1e99,
            lambda arm: number(excess(arm.tuned), ".3f") or "diverges",
        ),
        Column(
            "Δ at the baseline's rate",
            lambda arm: (
                None if arm.untuned is None else 1e99 if arm.untuned.difference is None else arm.untuned.difference
            ),
            lambda arm: untuned_text(arm.untuned),
        ),
        text("best at the edge", lambda arm: "yes" if arm.tuned.at_edge else "no"),
    ]
    return table("Learning rates", columns, verdicts.arms)


def audit_table(verdicts: Verdicts) -> str:
    """What was checked after the fact."""

    def result(arm: ArmVerdict) -> str:
        return "failed" if arm.audit.faults else "passed"

    columns = [
        *named(verdicts),
        Column(
            "result",
            result,
            lambda arm: f'<span class="word INVALID">{result(arm)}</span>' if arm.audit.faults else result(arm),
        ),
        figure("runs", lambda arm: arm.audit.runs, "d"),
        figure("budget off by", lambda arm: arm.audit.budget_error, ".2%"),
        figure("ledger off by", lambda arm: arm.audit.ledger_error, ".2%"),
        figure("score off by", lambda arm: arm.audit.rescored, ".1g"),
        figure("leak", lambda arm: arm.audit.leak, ".1g"),
        figure("replay", lambda arm: arm.audit.replayed, ".3f"),
        text("cores to itself", lambda arm: "yes" if arm.audit.time_valid else "no"),
        text("faults", lambda arm: "; ".join(arm.audit.faults), long=True),
    ]
    return table("Checks", columns, verdicts.arms)
