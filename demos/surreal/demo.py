"""The surreal demo: numbers by birthday, growth by transseries, a reader that keeps the scale, and what that costs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import jax
import numpy as np

from demos import terminal
from demos.certificate import Certificate, certify
from demos.hahn import Series, X, inverse
from demos.result import DemoConfig, Plot, Table, Text
from demos.stage import Scene, laws, loss_plot, parameters, staged
from demos.surreal import conway, dominance, scaling, transseries
from demos.surreal.model import NORMED, SURREAL, TASKS, Weights, answers, draw, initial, train
from demos.words import against, number

TRAINED, TESTED, TESTED_MATCH = 3.0, (3.0, 10.0, 30.0), (3.0, 5.0, 8.0)
"""Powers of ten on either side of 1. A norm that adds 2^-60 to squares takes numbers below 10^-9 for zero."""

TOKENS = 8


@dataclass(frozen=True, slots=True)
class Size:
    """How much is computed: steps of training, sequences per step, models per arm, certified pairs of numbers."""

    steps: int
    batch: int
    models: int
    pairs: int


QUICK = Size(steps=1000, batch=32, models=3, pairs=60)
FULL = Size(steps=4000, batch=64, models=5, pairs=400)


@dataclass(frozen=True, slots=True)
class Arm:
    """One form of attention, trained on one task; leading axis of ``weights`` and ``losses``: models."""

    form: str
    weights: Weights
    losses: np.ndarray
    errors: dict[float, float]


def scenes(config: DemoConfig, random: np.random.Generator) -> Iterator[Scene]:
    """The four acts of the surreal demo."""
    size = QUICK if config.quick else FULL
    day = int(str(config.options["day"]))
    yield show_object(random, size, day)
    yield show_laws(random, size, day)
    steps = config.iterations(size.steps)
    yield show_learning(random, size, learn(random, size, (SURREAL, str(config.options["control"])), "largest", steps))
    yield show_limits(learn(random, size, (SURREAL, NORMED), "match", steps))


def drawn_numbers(random: np.random.Generator, day: int, count: int) -> np.ndarray:
    """Numerators over 2^day of numbers born by that day."""
    values = [conway.number(signs) * 2**day for signs in conway.born_by(day)]
    return random.choice(np.array([int(value) for value in values]), count)


def show_object(random: np.random.Generator, size: Size, day: int) -> Scene:
    """Numbers by the day they are born, sums of forms, and growth measured against its transseries."""
    values = {signs: conway.number(signs) for signs in conway.born_by(day)}
    left, right = drawn_numbers(random, day, size.pairs), drawn_numbers(random, day, size.pairs)
    born = np.unique(left)
    rows = []
    for a, b in ((Fraction(1, 2), Fraction(1, 2)), (Fraction(3, 4), Fraction(-1, 2)), (Fraction(3, 2), Fraction(1, 4))):
        x, y = (conway.form(conway.signs(value)) for value in (a, b))
        total, times = (conway.number(conway.signs_of(each)) for each in (x + y, x * y))
        rows.append((f"{named(x)} = {a}", f"{named(y)} = {b}", str(total), str(times)))
    ranked = dominance.ranked()
    first, leader = ranked[0], max(ranked, key=lambda term: term.at(dominance.LOW))
    sizes = np.array([probe.sizes for probe in scaling.PROBES], float)
    measured = np.array([[probe.measure(random, n) for n in probe.sizes] for probe in scaling.PROBES])
    certificates = (
        certify(
            "surreal.arithmetic",
            "sums and products of Conway's forms are those of the dyadic rationals",
            0.0,
            left=left,
            right=right,
            sums=(left + right) * 2**day,
            products=left * right,
            day=day,
        ),
        certify(
            "surreal.birthdays",
            "every form is the oldest number between its options, and born on the day that its signs count",
            0.0,
            numerators=born,
            days=np.array([len(conway.signs(Fraction(int(each), 2**day))) for each in born]),
            day=day,
        ),
        certify(
            "surreal.growth",
            "every probe grows as its transseries predicts, within 15 % of the rate, and ranks where that stands",
            0.15,
            sizes=sizes,
            measured=measured,
        ),
    )
    parts = (
        Text(
            "A surreal number is a pair {L | R} of sets of older ones, and stands for the oldest number between them. "
            f"Day 0 has only 0 = {{|}}; day {day} ends with {len(values)} numbers, all of them dyadic rationals."
        ),
        birthday_plot(values),
        Table(("x", "y", "x + y", "x y"), tuple(rows), title="Conway's sums and products, by the definition"),
        Text(
            "Further out are the infinite ones. A transseries orders whatever is built from x, exp and log by how it "
            f"grows, and evaluates nothing: of four terms it puts {first.name} first, though at x = "
            f"{dominance.LOW:.0f} that one is {number(first.at(dominance.LOW))} and {leader.name} is "
            f"{number(leader.at(dominance.LOW))}."
        ),
        dominance_plot(ranked),
        Text("It predicts how five quantities of a network grow; each was then grown."),
        growth_table(measured),
        growth_plot(sizes, measured),
    )
    return Scene("Numbers by birthday, growth by order", parts, certificates)


def named(x: conway.Form) -> str:
    """A form with its options as rationals."""
    left, right = (", ".join(str(conway.number(conway.signs_of(each))) for each in side) for side in (x.left, x.right))
    return f"{{{left}|{right}}}"


def birthday_plot(values: Mapping[conway.Signs, Fraction]) -> Plot:
    """Every number at its value, over the day it is born; days downwards."""
    points = np.array([float(value) for value in values.values()])
    days = np.array([len(signs) for signs in values])
    last = int(days.max())
    width = 72
    lines = []
    for day in range(last + 1):
        cells = [" "] * width
        for value in points[days == day]:
            cells[round((value + last) / (2 * last) * (width - 1))] = "●"
        lines.append(f"day {day} " + "".join(cells).rstrip())
    scale = [" "] * width
    for value in range(-last, last + 1):
        text = str(value)
        start = min(round((value + last) / (2 * last) * (width - 1)), width - len(text))
        scale[start : start + len(text)] = text
    return Plot(
        "When each number is born",
        "\n".join([*lines, "      " + "".join(scale).rstrip()]),
        "birthdays",
        {"value": points, "day": days},
    )


def dominance_plot(ranked: list[dominance.Term]) -> Plot:
    """The terms of a sum on logarithmic axes, which one leads at each x, and where the lead changes."""
    width = 76
    x = np.geomspace(dominance.LOW, dominance.HIGH, width - terminal.MARGIN - 2)
    curves = {term.name: np.array([term.at(float(each)) for each in x]) for term in ranked}
    series = {name: (x, y) for name, y in curves.items()}
    text = terminal.chart(series, xlabel="x", ylabel="term", logx=True, logy=True, width=width)
    leading = "".join(terminal.GLYPHS[place] for place in dominance.leaders(ranked, x))
    changes = dominance.changes(ranked, x)
    handed = ", ".join(f"{term.name} from x = {at:.0f}" for at, term in changes)
    crossings, heights = np.array([(at, term.at(at)) for at, term in changes]).T
    arrays = {"x": x, **curves, "crossings": crossings, "heights": heights}
    return Plot(
        "Dominance: legend in the order of exact comparison, the winner first",
        f"{text}\n{'leads':>{terminal.MARGIN}}  {leading}\n{handed}",
        "dominance",
        arrays,
    )


def growth_table(measured: np.ndarray) -> Table:
    """Prediction and measurement at the largest size, in the order of growth."""
    rows = []
    for probe in scaling.ranked():
        found = measured[scaling.PROBES.index(probe)]
        largest = probe.sizes[-1]
        predicted = scaling.at(probe.predicted, largest)
        rows.append((f"{probe.name}, {probe.grows} {largest}", probe.formula, number(predicted), number(found[-1])))
    return Table(("grown", "transseries", "predicted", "measured"), tuple(rows), title="Fastest growth first")


def growth_plot(sizes: np.ndarray, measured: np.ndarray) -> Plot:
    """Measured over predicted of every probe: flat lines at 1 are the claim."""
    steps = np.arange(1, sizes.shape[1] + 1)
    series = {}
    for probe, grown, found in zip(scaling.PROBES, sizes, measured, strict=True):
        series[probe.short] = found / np.array([scaling.at(probe.predicted, int(n)) for n in grown])
    shown = dict(list(series.items())[:4])
    text = terminal.chart(
        {name: (steps, y) for name, y in shown.items()}, xlabel="size", ylabel="measured / predicted", height=9
    )
    return Plot("What was grown, over its prediction", text, "growth", {"step": steps, **series}, detail=True)


def show_laws(random: np.random.Generator, size: Size, day: int) -> Scene:
    """Order of numbers, the field of Hahn series, limits; and two orders that are none."""
    left, right = drawn_numbers(random, day, size.pairs), drawn_numbers(random, day, size.pairs)
    exponents = random.integers(-4, 5, (size.pairs // 3, 3))
    coefficients = random.integers(1, 4, exponents.shape) * random.choice([-1, 1], exponents.shape)
    certified = {
        "forms, signs and rationals: one order": certify(
            "surreal.order",
            "forms, sign expansions and rationals are in one and the same order",
            0.0,
            left=left,
            right=right,
            signs=np.sign(left - right),
            day=day,
        ),
        "ordered ring of Hahn series": certify(
            "surreal.field",
            "triples of Hahn series satisfy the laws of an ordered ring",
            0.0,
            exponents=exponents,
            coefficients=coefficients,
        ),
        "inverses down to X^-4": certify(
            "surreal.inverses",
            "every series has an inverse, exact down to the power asked for",
            0.0,
            exponents=exponents,
            coefficients=coefficients,
            depth=4,
        ),
    }
    limit = float(transseries.limit(lambda x: transseries.exp(x * transseries.log(1 + 1 / x))))
    error = (1 + inverse(X)) * inverse(1 + inverse(X), 6) - 1
    measured = {
        "limit of (1 + 1/x)^x is e": (abs(limit - np.e), 1e-12),
        "(1 + 1/X) times its inverse, minus 1": (float(len(error.terms)), 0.0),
    }
    broken = {
        "order by the largest coefficient": (float(squares_below_zero(random)), 0.0),
        "floating point at x = 1e300 knows infinity": (wrong_at_a_large_number(), 0.0),
    }
    table = laws(certified, measured, broken)
    return Scene("Exact arithmetic and order", (table,), tuple(certified.values()))


def squares_below_zero(random: np.random.Generator) -> int:
    """Series whose square would be negative if the largest coefficient had the say instead of the leading one."""
    count = 0
    for a, b in random.integers(1, 9, (64, 2)).tolist():
        square: Series = (X * a - b) * (X * a - b)
        count += max(square.terms, key=lambda term: abs(term[1]))[1] < 0
    return count


def wrong_at_a_large_number() -> float:
    """Pairs of expressions that floating point at 1e300 orders the other way round than infinity does."""
    pairs = (
        (lambda x, log: x ** (1 / 100), lambda x, log: log(x) ** 2),
        (lambda x, log: log(log(x)), lambda x, log: 1000 * log(x) / log(x)),
    )
    return float(sum(_ordered(*pair, real=True) != _ordered(*pair, real=False) for pair in pairs))


def _ordered(f: Any, g: Any, *, real: bool) -> bool:
    """Whether f exceeds g, at 1e300 or at infinity."""
    if real:
        return bool(f(1e300, np.log) > g(1e300, np.log))
    return transseries.larger(lambda x: f(x, transseries.log), lambda x: g(x, transseries.log)) > 0


def learn(random: np.random.Generator, size: Size, forms: tuple[str, ...], task: str, steps: int) -> list[Arm]:
    """Train one arm for each form on a task, from the same weights on the same data."""
    start = initial(random, size.models)
    x, values = draw(random, TRAINED, TOKENS, size.models, steps, size.batch)
    right, ranges = TASKS[task], TESTED if task == "largest" else TESTED_MATCH
    tests = {decades: draw(random, decades, TOKENS, 512) for decades in ranges}
    arms = []
    for form in forms:
        weights, losses = train(start, x, values, right(x, values), form=form)
        errors = {}
        for decades, (shown, beside) in tests.items():
            said = np.asarray(answers(weights, shown, beside, form=form))
            errors[decades] = float(np.median(np.sqrt(((said - right(shown, beside)) ** 2).mean(-1))))
        arms.append(Arm(form, weights, np.asarray(losses), errors))
    return arms


def error_table(arms: list[Arm], title: str) -> Table:
    """Errors of two arms by the range of magnitudes."""
    rows = tuple(
        (f"magnitudes 10^-{d:.0f} to 10^{d:.0f}", *(number(arm.errors[d]) for arm in arms)) for d in arms[0].errors
    )
    return Table(("tested on", *(arm.form for arm in arms)), rows, title=title)


def witness(arm: Arm) -> dict[str, Any]:
    """The best trained reader of the task ``largest`` as the checks take it."""
    best = int(arm.losses[:, -20:].mean(-1).argmin())
    inner = jax.tree.map(lambda leaf: np.asarray(leaf[best]), arm.weights)["params"]
    return {"q": inner["q"], "key": inner["key"]["kernel"], "sharpness": float(inner["sharpness"])}


def show_learning(random: np.random.Generator, size: Size, arms: list[Arm]) -> Scene:
    """Which of eight numbers is the largest, trained over six powers of ten, tested over sixty."""
    surreal, control = arms
    layer = witness(surreal)
    x, values = draw(random, TESTED[-1], TOKENS, size.pairs)
    certificates: tuple[Certificate, ...] = (
        certify(
            "surreal.dominance",
            "the trained reader is as near to the value of the dominant token as the gap of its exponents bounds",
            1e-9,
            x=x,
            values=values,
            **layer,
        ),
        certify(
            "surreal.scale",
            "multiplying all numbers of a sequence by one factor changes no answer of the trained reader",
            1e-9,
            x=x,
            values=values,
            factors=np.array([1e-6, 1e-2, 7.0, 1e6]),
            **layer,
        ),
    )
    numbers = {
        "surreal_error": surreal.errors[TESTED[-1]],
        "control_error": control.errors[TESTED[-1]],
        "surreal_inside": surreal.errors[TRAINED],
        "control_inside": control.errors[TRAINED],
        "parameters": parameters(jax.tree.map(lambda leaf: leaf[0], surreal.weights)),
        "sharpness": float(np.exp(layer["sharpness"])),
    }
    parts = (
        Text(
            f"Eight numbers in random directions, a value beside each: which value belongs to the largest? Trained on "
            f"magnitudes 10^-{TRAINED:.0f} to 10^{TRAINED:.0f}; {size.models} models per arm, "
            f"{numbers['parameters']:.0f} parameters each, a temperature among them, same initial weights and data."
        ),
        loss_plot({arm.form: arm.losses.mean(0) for arm in arms}),
        error_table(arms, "Root mean squared error; guessing errs by 0.58"),
    )
    return Scene("The largest of eight numbers", parts, certificates, numbers)


def show_limits(arms: list[Arm]) -> Scene:
    """The same reader where magnitude is noise, and a limit that no truncated series reaches."""
    surreal, normed = arms
    parts = (
        Text(
            "Asked for the number that points most along the first axis, whatever its magnitude, the layer has to "
            "unlearn its scale. Where it has not quite, a large number drowns the direction; attention after a norm "
            "never saw the scale. Neither sees a number below 10^-9, which the norm's floor takes for zero."
        ),
        error_table(arms, "Best direction: root mean squared error"),
        Text(f"And a truncated transseries is silent behind infinitely many terms: {undecided()}."),
    )
    numbers = {
        "surreal_match": surreal.errors[TESTED_MATCH[-1]],
        "normed_match": normed.errors[TESTED_MATCH[-1]],
        "surreal_match_inside": surreal.errors[TRAINED],
    }
    return Scene("Where keeping the scale loses", parts, numbers=numbers)


def undecided() -> str:
    """What comes of a limit whose answer, -1, lies below every power of 1/x."""
    exp = transseries.exp
    try:
        found = transseries.limit(lambda x: exp(x) * (exp(1 / x - exp(-x)) - exp(1 / x)), most=12)
    except transseries.Undecided:
        return "e^x (e^(1/x - e^-x) - e^(1/x)) tends to -1, and after 12 terms it says undecided"
    return f"e^x (e^(1/x - e^-x) - e^(1/x)) was found to tend to {found}"


def closing(config: DemoConfig, numbers: Mapping[str, float]) -> tuple[str, str]:
    """What was seen, from the numbers."""
    n, control = numbers, config.options["control"]
    return (
        f"Trained over six powers of ten, the surreal reader finds the largest of eight numbers over sixty with an "
        f"error of {number(n['surreal_error'])}, {against(n['surreal_error'], n['control_error'])} {control} attention "
        f"with the same {n['parameters']:.0f} parameters; exponents count {number(n['sharpness'])} times.",
        f"Asked for the best direction instead, it errs by {number(n['surreal_match'])} over sixteen powers of ten "
        f"({number(n['surreal_match_inside'])} over six), {against(n['surreal_match'], n['normed_match'])} attention "
        "that never saw the scale.",
    )


def gist(config: DemoConfig, numbers: Mapping[str, float]) -> tuple[str, str]:
    """Learned and lost, for the table of all demos."""
    n, control = numbers, config.options["control"]
    return (
        f"largest of {TOKENS}: error {number(n['surreal_error'])}, {control} {number(n['control_error'])}",
        f"best direction: error {number(n['surreal_match'])}, without scale {number(n['normed_match'])}",
    )


run = staged(scenes, closing, gist)
