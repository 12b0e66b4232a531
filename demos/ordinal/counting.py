"""The first act: ordinals by example, what goes down by them and stops, and the schedule on streams of losses."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from demos.certificate import Certificate, certify
from demos.ordinal import arithmetic, checks, drawing, model
from demos.ordinal.arithmetic import OMEGA, ONE, Hydra, Ordinal, chop, heads, hydra_rank, natural, omega_to
from demos.ordinal.maths import Knobs, bound
from demos.result import Plot, Table, Text
from demos.stage import Scene

SQUARE = omega_to(natural(2))
PAIRS = (
    (ONE, OMEGA),
    (OMEGA + ONE, OMEGA * natural(2)),
    (SQUARE, OMEGA * natural(2)),
)
LIMITS = (OMEGA, OMEGA * natural(2), SQUARE, omega_to(OMEGA))
LARGEST = 150_000  # bits of a member of a Goodstein sequence that is still computed
MEMBERS = 7  # of it shown
FOUGHT: Hydra = (((), ()),)
HEARD = 400  # losses of the streams in the object act
FALLING = 0.99


def show_object(random: np.random.Generator, start: int, restarts: int) -> Scene:
    """Sums and products, sequences to a limit, a Goodstein sequence, a hydra, and the schedule on streams of losses."""
    members = goodstein_members(start)
    battle = fight(FOUGHT)
    knobs = Knobs(restarts=restarts, anneals=2, patience=12, smoothing=0.0)
    heard, certificate = streams_heard(random, knobs)
    sequences = [[limit.below(n) for n in range(1, 9)] for limit in LIMITS]
    below = [each for each in (random_ordinal(random) for _ in range(60)) if max_finite(each) < len(sequences[0])]
    certificates = [
        certify(
            "ordinal.fundamental",
            "the sequences rise, stay below their limits and pass every drawn ordinal below them",
            0.0,
            limits=[checks.written(each) for each in LIMITS],
            members=[[checks.written(each) for each in sequence] for sequence in sequences],
            below=[checks.written(each) for each in below],
        ),
        certify(
            "ordinal.goodstein",
            f"from {start}: each member is the one before with its base raised and 1 taken away; ordinals fall",
            0.0,
            number=start,
            ranks=[checks.written(step.rank) for step in members],
        ),
        certify(
            "ordinal.hydra",
            f"a hydra that grows n heads at cut n is dead after {len(battle) - 1} cuts, its ordinal falling at each",
            0.0,
            trees=[nested(tree) for tree in battle],
            ranks=[checks.written(hydra_rank(tree)) for tree in battle],
        ),
        certificate,
    ]
    parts = [
        Text(
            "After 0, 1, 2, ... comes ω, then ω + 1, ω·2, ω^2, ω^ω. Up to ε0 an ordinal is a sum of powers of ω, the "
            "exponents such sums again, and the larger power always wins. Sums swallow: 1 + ω is ω. The natural sum ⊕ "
            "adds coefficient by coefficient."
        ),
        sums_table(),
        sequences_table(sequences),
        goodstein_table(start, members),
        hydra_plot(battle),
        Text(
            "Values soar and heads multiply, yet an ordinal falls at every step, and none falls for ever. So the "
            "schedule counts restarts, cuts and patience down by one ordinal, ω^2 a + ω b + c. Each loss that does not "
            f"improve is an event and lowers it: at most {bound(knobs)} from "
            f"{drawing.polynomial(knobs.restarts, knobs.anneals, knobs.patience)}, whatever the losses."
        ),
        *heard,
    ]
    return Scene("Numbers to count down with", parts, certificates, {"goodstein_members": float(len(members))})


def sums_table() -> Table:
    """Both sums and both products of a few pairs."""
    rows = []
    for x, y in PAIRS:
        larger = f"{x} < {y}" if x < y else f"{x} > {y}"
        rows.append((larger, str(x + y), str(y + x), str(x.natural_sum(y)), str(x * y), str(y * x)))
    return Table(("x, y", "x + y", "y + x", "x ⊕ y", "x·y", "y·x"), tuple(rows))


def sequences_table(sequences: list[list[Ordinal]]) -> Table:
    """The first members of the sequences to a limit, and how long it takes from there to 0."""
    rows = [
        (str(limit), *map(str, sequence[:3]), *(str(walk(limit, n)) for n in (2, 3, 4)))
        for limit, sequence in zip(LIMITS, sequences, strict=True)
    ]
    title = "Sequences to limits; steps to 0, always to the n-th"
    return Table(("limit", "1st", "2nd", "3rd", "n = 2", "n = 3", "n = 4"), tuple(rows), title=title)


def walk(start: Ordinal, n: int) -> int:
    """Steps from an ordinal to 0, always to the n-th of the fundamental sequence."""
    steps = 0
    while start.terms:
        start, steps = start.below(n), steps + 1
    return steps


def goodstein_members(start: int) -> list[arithmetic.GoodsteinStep]:
    """The first members, as long as they can be written down."""
    found = []
    for step in arithmetic.goodstein(start, MEMBERS):
        found.append(step)
        if following_bits(step) > LARGEST:
            break
    return found


def following_bits(step: arithmetic.GoodsteinStep) -> float:
    """Roughly the bits of the next member: the leading power of the next base."""
    if not step.rank.terms:
        return 0.0
    power = step.rank.terms[0][0]
    exponent = arithmetic.evaluate(power, step.base + 1)
    return exponent * float(np.log2(step.base + 1))


def goodstein_table(start: int, members: list[arithmetic.GoodsteinStep]) -> Table:
    """Base, value and ordinal of each member."""
    rows = tuple((str(step.base), magnitude(step.value), str(step.rank)) for step in members)
    title = f"Goodstein: {start}, b to b + 1, less 1"
    return Table(("base", "value", "with ω for the base"), rows, title=title)


def magnitude(value: int) -> str:
    """A number, or its power of ten."""
    return str(value) if value < 10**12 else f"about 10^{int(value.bit_length() * np.log10(2))}"


def fight(tree: Hydra) -> list[Hydra]:
    """The hydra after every cut of a highest head, until it is dead; cut n lets n copies grow."""
    battle = [tree]
    while heads(battle[-1]):
        highest = max(heads(battle[-1]), key=len)
        battle.append(chop(battle[-1], highest, len(battle)))
    return battle


def nested(tree: Hydra) -> list[Any]:
    """A tree as lists."""
    return [nested(branch) for branch in tree]


def hydra_plot(battle: list[Hydra]) -> Plot:
    """The hydra at first, after the first cuts, and at its widest."""
    widest = max(range(len(battle)), key=lambda step: len(heads(battle[step])))
    shown = sorted({0, 1, 2, widest})
    drawn = {f"cut {step}: {hydra_rank(battle[step])}": drawing.segments(battle[step]) for step in shown}
    title = f"A hydra that grows n heads at cut n, dead after {len(battle) - 1} cuts"
    return Plot(title, drawing.trees(drawn), "hydra", drawn)


def streams_heard(random: np.random.Generator, knobs: Knobs) -> tuple[list[Table | Plot], Certificate]:
    """The schedule on streams of losses, most of them made to keep it busy."""
    time = np.arange(HEARD)
    losses = {
        "flat": np.ones(HEARD),
        "falls": FALLING**time,
        "each third falls": FALLING ** (time // 3),
        "shifts": 0.3 + FALLING ** (time % 130) + 0.05 * random.normal(size=HEARD),
        "no number from the 50th": np.where(time < 50, FALLING**time, np.nan),
    }
    stacked = np.stack(list(losses.values()))
    ranks = np.asarray(model.descend(stacked, knobs=knobs))
    plain = asdict(knobs)
    counted = checks.events(ranks, plain)
    rows = tuple(
        (name, str(events), str(bound(knobs)), str(drawing.polynomial(*map(int, last))))
        for name, events, last in zip(losses, counted, ranks[:, -1], strict=True)
    )
    shown = dict(list(zip(losses, ranks, strict=True))[:4])
    sizes = np.array([knobs.restarts, knobs.anneals, knobs.patience])
    statement = f"{len(losses)} streams, of losses that are no numbers too: at most {bound(knobs)} events"
    certificate = certify(
        "ordinal.streams",
        f"{statement}, exactly so many where none improves",
        0.0,
        losses=np.nan_to_num(stacked),
        missing=np.isnan(stacked),
        knobs=plain,
        ranks=ranks,
    )
    table = Table(("losses", "events", "at most", "last rank"), rows, detail=True)
    return [
        Plot("Ordinal descent", drawing.descent(shown, plain), "descent", {"knobs": sizes, **shown}),
        table,
    ], certificate


def random_ordinal(random: np.random.Generator, depth: int = 2) -> Ordinal:
    """An ordinal below omega^omega^omega, coefficients up to 3."""
    total = natural(int(random.integers(0, 4)))
    for _ in range(int(random.integers(0, 3)) if depth else 0):
        power = omega_to(random_ordinal(random, depth - 1))
        total = total.natural_sum(power * natural(int(random.integers(1, 4))))
    return total


def max_finite(ordinal: Ordinal) -> int:
    """The largest finite number in it, exponents included."""
    return max((max(count, max_finite(exponent)) for exponent, count in ordinal.terms), default=0)
