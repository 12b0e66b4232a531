"""Verdicts in words: the headline, what each word and flag means, numbers as people write them. Text only."""

from __future__ import annotations

from collections.abc import Sequence

from nanochat.bench.statistics import MIN_SEEDS
from nanochat.bench.verdicts import ArmVerdict, Comparison, Untuned, Verdicts

MEANINGS = {
    "WIN": "better than the baseline",
    "LOSS": "worse than the baseline",
    "TIE": "the difference is shown to be too small to matter",
    "INCONCLUSIVE": "neither a difference nor its absence could be shown",
    "UNSTABLE": "runs diverged, so that means would flatter it",
    "INVALID": "a check failed; its numbers do not count",
    "BASELINE": "what the others are compared with",
}
"""In the order from best to worst in which a table sorts them."""

FLAGS = {
    "negligible": "negligible",
    "fragile": "FRAGILE",
    "budget": "ranking not stable in budget",
    "time": "not at equal time",
}

FLAG_MEANINGS = {
    "negligible": "the difference is real, but smaller than what was said to matter",
    "fragile": "better than the baseline at a single learning rate only",
    "budget": "at a smaller budget it is the other way round",
    "time": "at equal seconds the verdict is another one",
}

MOST_NAMES = 3
MOST_RESERVATIONS = 6

HEADINGS = (
    "arm",
    "verdict",
    "Δ bits per byte",
    "interval",
    "bits per byte",
    "p",
    "Δ untuned",
    "seeds needed",
    "step time",
)


def row(arm: ArmVerdict) -> tuple[str, ...]:
    """One line of the verdict table, as text."""
    return (
        arm.label,
        word(arm),
        number(arm.difference, "+.4f"),
        "" if arm.low is None or arm.high is None else f"[{arm.low:+.4f}, {arm.high:+.4f}]",
        number(arm.mean, ".4f"),
        probability(arm.p_adjusted),
        untuned_text(arm.untuned),
        needed(arm),
        time_text(arm),
    )


def word(arm: ArmVerdict) -> str:
    """The verdict and what qualifies it."""
    return f"{arm.verdict} ({', '.join(FLAGS[flag] for flag in arm.flags)})" if arm.flags else arm.verdict


def untuned_text(found: Untuned | None) -> str:
    """The difference with everyone at the baseline's learning rate; empty where it was not tried."""
    return "" if found is None else "diverges" if found.difference is None else signed(found.difference)


def needed(arm: ArmVerdict) -> str:
    """Seeds that would detect the smallest effect of interest; empty where too few tell the spread."""
    if arm.difference is None or len(arm.bpb) < MIN_SEEDS:
        return ""
    return "over 10^7" if arm.seeds_needed is None else f"{arm.seeds_needed:,}"


def time_text(arm: ArmVerdict) -> str:
    """Seconds per step over the baseline's; marked where the cores were busy with something else."""
    return "" if arm.time_ratio is None else f"{arm.time_ratio:.2f}x" + ("" if arm.audit.time_valid else " (busy)")


def number(value: float | None, form: str) -> str:
    """A number that may be missing."""
    return "" if value is None else format(value, form)


def signed(value: float | None, form: str = "+.4f") -> str:
    """A difference with a minus as wide as a plus."""
    return number(value, form).replace("-", "\u2212")


def probability(p: float | None) -> str:
    """A p value in two digits, its exponent without padding.

    Example:
        >>> probability(2.2e-07), probability(0.0312)
        ('2e-7', '0.031')
    """
    if p is None:
        return ""
    return f"{p:.2g}" if p >= 1e-4 or p == 0 else f"{p:.0e}".replace("e-0", "e-")


def span(low: float | None, high: float | None) -> str:
    """An interval."""
    return "" if low is None or high is None else f"[{signed(low)}, {signed(high)}]"


def plural(count: int, noun: str) -> str:
    """A count with its noun.

    Example:
        >>> plural(1, "arm"), plural(3, "arm")
        ('1 arm', '3 arms')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def no_verdicts(verdicts: Verdicts) -> bool:
    """Whether the design is too small for any verdict."""
    return not verdicts.plan.preset.verdict or len(verdicts.plan.seeds) < MIN_SEEDS


def headline(verdicts: Verdicts) -> str:
    """The answer in one sentence."""
    contenders = verdicts.contenders
    if all(arm.verdict == "INVALID" for arm in contenders):
        return f"No comparison is valid: {contenders[0].note}."
    if no_verdicts(verdicts):
        return f"No verdict: {plural(len(verdicts.plan.seeds), 'seed')} cannot carry one, it takes {MIN_SEEDS}."
    first = _of_one(contenders[0], verdicts) if len(contenders) == 1 else _of_many(contenders, verdicts)
    return first + _of_seconds([arm for arm in contenders if arm.verdict == "WIN"])


def _of_seconds(wins: Sequence[ArmVerdict]) -> str:
    """Whether wins at equal operations are wins at equal seconds; empty where nobody measured it."""
    timed = [arm for arm in wins if arm.time is not None and arm.time.verdict != "INVALID"]
    held = [arm for arm in timed if arm.time is not None and arm.time.verdict == "WIN"]
    if not timed:
        return ""
    if len(held) == len(wins):
        return " At equal seconds too."
    if len(wins) == 1:
        return f" At equal seconds: {brief(timed[0].time)}."
    whom = "them" if len(timed) == len(wins) else f"the {len(timed)} that could be timed"
    return f" At equal seconds {len(held) or 'none'} of {whom}{_names(held) if held else ''}."


def _of_one(arm: ArmVerdict, verdicts: Verdicts) -> str:
    by = "" if arm.difference is None else f"{abs(arm.difference):.3f} bits per byte"
    sesoi = verdicts.plan.config.sesoi
    return {
        "WIN": f"{arm.label} beats {arm.against} by {by}.",
        "LOSS": f"{arm.label} is worse than {arm.against} by {by}.",
        "TIE": f"{arm.label} and {arm.against} are equal within ±{sesoi:g} bits per byte.",
        "INCONCLUSIVE": f"Undecided: {arm.label} may be anything from {signed(arm.low, '+.3f')} to "
        f"{signed(arm.high, '+.3f')} bits per byte away from {arm.against}.",
        "UNSTABLE": f"{arm.label} cannot be compared with {arm.against}: {arm.note}.",
    }[arm.verdict]


def _of_many(contenders: Sequence[ArmVerdict], verdicts: Verdicts) -> str:
    base = "the baseline" if len(verdicts.plan.baselines) == 1 else "their baseline"
    total = len(contenders)
    by_word = {name: [arm for arm in contenders if arm.verdict == name] for name in MEANINGS}
    wins = by_word.pop("WIN")
    first = (
        f"{len(wins)} of {total} arms {'beats' if len(wins) == 1 else 'beat'} {base}{_names(wins)}"
        if wins
        else f"None of {total} arms beats {base}"
    )
    says = {
        "LOSS": "worse",
        "TIE": "equal within what matters",
        "INCONCLUSIVE": "undecided",
        "UNSTABLE": "diverged",
        "INVALID": "failed a check",
    }
    rest = [f"{len(found)} {says[name]}" for name, found in by_word.items() if found]
    return f"{first}; {', '.join(rest)}." if rest else f"{first}."


def _names(arms: Sequence[ArmVerdict]) -> str:
    return f" ({', '.join(arm.label for arm in arms)})" if len(arms) <= MOST_NAMES else ""


def reservations(verdicts: Verdicts) -> list[str]:
    """What a reader must know before believing the headline: one sentence each, the gravest first."""
    arms = verdicts.arms
    bases = {arm.label for arm in arms if not arm.against and arm.verdict == "INVALID"}
    found = [f"{arm.label}, a baseline, is INVALID: {arm.note}." for arm in arms if arm.label in bases]
    found += [
        f"{arm.label} is INVALID: {arm.note}."
        for arm in arms
        if arm.verdict == "INVALID" and arm.against and arm.against not in bases
    ]
    found += [f"{arm.label} is UNSTABLE: {arm.note}." for arm in arms if arm.verdict == "UNSTABLE"]
    found += [f"{arm.label}: {_meaning(arm, flag)}." for arm in arms for flag in arm.flags]
    found += [
        f"{arm.label}: {arm.note}." for arm in arms if arm.verdict == "INCONCLUSIVE" and arm.note and arm.confirmation
    ]
    if len(found) > MOST_RESERVATIONS:
        found = [*found[: MOST_RESERVATIONS - 1], f"And {len(found) - MOST_RESERVATIONS + 1} more, arm by arm."]
    edges = [arm.label for arm in arms if arm.tuned.at_edge]
    if edges:
        shown = ", ".join(edges[:MOST_NAMES]) + (f" and {len(edges) - MOST_NAMES} more" * (len(edges) > MOST_NAMES))
        found.append(f"The best learning rate lies at the edge of what was tried: {shown}.")
    if busy_note(verdicts):
        found.append(busy_note(verdicts))
    return found


def _meaning(arm: ArmVerdict, flag: str) -> str:
    return f"at equal seconds {brief(arm.time)}" if flag == "time" else FLAG_MEANINGS[flag]


def busy_note(verdicts: Verdicts) -> str:
    """A warning where times were taken on a busy machine."""
    if all(arm.audit.time_valid for arm in verdicts.arms):
        return ""
    return "Step times marked (busy) were taken while other work shared the cores; they are no measurement."


def overlap_note(verdicts: Verdicts) -> str:
    """What became of training text that repeats held-out text."""
    found = verdicts.provenance["overlap"]

    def share(of: str, when: str) -> str:
        return f"{found[of][when] / max(1, found[of]['grams']):.2%}"

    return (
        f"Runs of 13 words of the evaluation set that also stand in the training text: {share('evaluation', 'after')} "
        f"({share('evaluation', 'before')} before {found['removed_bytes'] / 1e3:,.0f} kB were taken out of "
        f"{found['documents']} training documents); of all held-out text {share('held_out', 'after')} "
        f"({share('held_out', 'before')})."
    )


def selftest_note(verdicts: Verdicts) -> str:
    """The badge: what the engine's own tests said last, in the place where the suite was run."""
    return verdicts.provenance["selftests"]["badge"]


def brief(found: Comparison | None) -> str:
    """A further comparison in one cell."""
    return "" if found is None else f"{found.verdict} {signed(found.difference)}".rstrip()


def told(found: Comparison, *, change: bool = False) -> str:
    """The same in full; with ``change`` how it differs from the full budget."""
    text = f"{found.verdict}, {plural(found.seeds, 'pair')}"
    if found.difference is not None:
        text += f", {signed(found.difference)} {span(found.low, found.high)}, p = {probability(found.p)}"
    if change and found.change is not None:
        text += f"; {signed(found.change)} compared with the full budget, p = {probability(found.change_p)}"
    return text + (f" ({found.note})" if found.note else "")


def superscript(number: int) -> str:
    """Digits for an exponent."""
    return str(number).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def number_text(value: float) -> str:
    """A large number as people write it.

    Example:
        >>> number_text(2e11)
        '2 × 10¹¹'
    """
    factor, _, exponent = f"{value:.2e}".partition("e")
    factor, power = f"{float(factor):g}", int(exponent)
    return f"10{superscript(power)}" if factor == "1" else f"{factor} × 10{superscript(power)}"


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, whichever reads best."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
