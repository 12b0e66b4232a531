"""The ordinal demo: numbers past the finite ones, what counts down by them, a schedule tuned fairly, where it loses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise

import numpy as np

from demos import terminal
from demos.certificate import Certificate, certify
from demos.ordinal import arithmetic, checks, counting, drawing, model
from demos.ordinal.arithmetic import Ordinal, natural
from demos.ordinal.maths import Knobs, bound
from demos.ordinal.model import Run, Streams, Tuned
from demos.result import DemoConfig, Plot, Table, Text
from demos.stage import Scene, laws, staged
from demos.words import against, number


@dataclass(frozen=True, slots=True)
class Size:
    """How much is computed: steps of training, streams for tuning (of each kind; five times as many for the test)."""

    steps: int
    streams: int


QUICK = Size(steps=3000, streams=4)
FULL = Size(steps=8000, streams=8)


def scenes(config: DemoConfig, random: np.random.Generator) -> Iterator[Scene]:
    """The four acts of the ordinal demo."""
    size = QUICK if config.quick else FULL
    restarts = int(str(config.options["restarts"]))
    yield counting.show_object(random, int(str(config.options["number"])), restarts)
    yield show_laws(random, restarts)
    trained = Trained.learn(random, config, size, restarts)
    yield show_learning(trained)
    yield show_limits(trained)


# --- laws ---------------------------------------------------------------------------------------------------------


def of_row(row: np.ndarray) -> Ordinal:
    """The ordinal below omega^k of k coefficients."""
    return Ordinal(tuple((natural(power), int(count)) for power, count in enumerate(row) if count)[::-1])


def row_of(ordinal: Ordinal, size: int) -> np.ndarray:
    """The inverse of :func:`of_row`."""
    row = np.zeros(size, int)
    for exponent, count in ordinal.terms:
        row[arithmetic.evaluate(exponent, 0)] = count
    return row


def show_laws(random: np.random.Generator, restarts: int) -> Scene:
    """Order, sums and products by another arithmetic; the schedule and scale; what is no law."""
    left, right = ([counting.random_ordinal(random) for _ in range(60)] for _ in range(2))
    x, y = random.integers(0, 4, (2, 100, 4)) * random.integers(0, 2, (2, 100, 4))
    pairs = [(of_row(a), of_row(b)) for a, b in zip(x, y, strict=True)]
    knobs = Knobs(restarts=restarts, anneals=2, patience=12, smoothing=0.9, epsilon=0.003)
    losses = 1 + np.exp(-np.arange(200) / 60) + 0.1 * random.normal(size=200)
    ranks, moved = np.asarray(model.descend(np.stack([losses, losses + 100]), knobs=knobs))
    certified = {
        "order = order of numbers in base 10": certify(
            "ordinal.order",
            "with 10 for ω, drawn ordinals below ε0 become numbers in the same order",
            0.0,
            left=[checks.written(each) for each in left],
            right=[checks.written(each) for each in right],
            signs=np.array([(a > b) - (a < b) for a, b in zip(left, right, strict=True)]),
            base=10,
        ),
        "sums, by coefficients": certify(
            "ordinal.sums",
            "ordinary and natural sums below ω^4 are those of their rows of coefficients",
            0.0,
            x=x,
            y=y,
            ordinary=np.stack([row_of(a + b, 4) for a, b in pairs]),
            natural=np.stack([row_of(a.natural_sum(b), 4) for a, b in pairs]),
        ),
        "products, by polynomials": certify(
            "ordinal.products",
            "natural products below ω^4 are those of polynomials, ordinary ones lift the degree",
            0.0,
            x=x,
            y=y,
            ordinary=np.stack([row_of(a * b, 7) for a, b in pairs]),
            natural=np.stack([row_of(a.natural_product(b), 7) for a, b in pairs]),
        ),
        "losses times 2^k: the same events": certify(
            "ordinal.scale",
            "losses times 2^-40, 2^-3 or 2^40 lead to the same ranks",
            0.0,
            losses=losses,
            powers=np.array([-40.0, -3.0, 40.0]),
            knobs=asdict(knobs),
            ranks=ranks,
        ),
    }
    broken = {
        "x + y = y + x": (float(sum(a + b != b + a for a, b in pairs)), 0.0),
        "x < z gives x + y < z + y": (
            float(sum(a < c and not a + b < c + b for (a, b), (c, _) in pairwise(pairs))),
            0.0,
        ),
        "patience refilled: the rank falls": (float(refilled(knobs)), 0.0),
        "losses plus 100: the same events": (float((ranks != moved).any(-1).sum()), 0.0),
    }
    return Scene("Exact arithmetic, errors counted", [laws(certified, {}, broken)], list(certified.values()))


def refilled(knobs: Knobs) -> int:
    """How often the rank rises when an improvement refills the patience, on losses that improve every second time."""
    plain, rises = asdict(knobs), 0
    rank = knobs.restarts, knobs.anneals, knobs.patience
    for time in range(100):
        after = (rank[0], rank[1], knobs.patience) if time % 2 else checks.lowered(*rank, plain)
        rises += after > rank
        rank = after
    return rises


# --- learning -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Trained:
    """Every schedule, tuned for any stopping time and for the end of still streams, on streams of both kinds.

    The streams of the test are the same for all: the first half still, the second not.
    """

    kind: str
    streams: Streams
    anytime: dict[str, Tuned]
    known_end: dict[str, Tuned]
    trials: int

    @classmethod
    def learn(cls, random: np.random.Generator, config: DemoConfig, size: Size, restarts: int) -> Trained:
        kind, steps = str(config.options["stream"]), config.iterations(size.steps)
        tuning = model.draw(random, kind, size.streams, steps)
        fresh = model.draw(random, kind, len(model.RATES) * size.streams, steps)
        last = max(1, steps // 50)
        anytime, known_end = {}, {}
        choices = model.trials(steps, restarts)
        for name, listed in choices.items():
            found = model.tried(tuning, listed)
            anytime[name] = model.tune(found, lambda e: np.log(e.mean(-1)).mean(-1), fresh)
            known_end[name] = model.tune(found, lambda e: e[:, : size.streams, -last:].mean((-1, -2)), fresh)
        return cls(kind, fresh, anytime, known_end, len(choices["ordinal"]) * len(model.RATES))

    @property
    def half(self) -> int:
        """How many streams are still."""
        return len(self.streams.heights) // 2

    @property
    def shown(self) -> int:
        """The stream that is drawn and certified: the first that does not stay as it is."""
        return self.half

    def changes(self) -> np.ndarray:
        """Steps at which the curve of the shown stream jumps."""
        moved = np.abs(np.diff(self.streams.curves[self.shown], axis=0)).max(-1)
        return np.flatnonzero(moved > 0.05) + 1

    @property
    def knobs(self) -> Knobs:
        """Of the ordinal schedule as it was tuned."""
        listener = self.anytime["ordinal"].trial.listener
        assert isinstance(listener, Knobs), "the ordinal trials listen by knobs"
        return listener

    def run(self, name: str) -> Run:
        """What a schedule left of the shown stream."""
        return Run(*(np.asarray(part)[self.shown] for part in self.anytime[name].run))


def show_learning(trained: Trained) -> Scene:
    """Errors at an unknown stopping time, the shown run, and its event log."""
    half = trained.half
    found = {
        name: [tuned.typical(part) for part in (slice(None), slice(half), slice(half, None))]
        for name, tuned in trained.anytime.items()
    }
    best = min((name for name in found if name != "ordinal"), key=lambda name: found[name][0])
    ratios = np.log(
        np.asarray(trained.anytime["ordinal"].run.errors).mean(-1)
        / np.asarray(trained.anytime[best].run.errors).mean(-1)
    )
    ratio = float(np.exp(ratios.mean()))
    spread = ratio * float(ratios.std(ddof=1)) / len(ratios) ** 0.5
    rows = tuple(
        (name, *map(number, found[name]), number(tuned.rate), tuned.trial.said)
        for name, tuned in sorted(trained.anytime.items(), key=lambda item: found[item[0]][0])
    )
    weights = trained.streams.curves.shape[-1]
    steps = trained.streams.heights.shape[1]
    run = trained.run("ordinal")
    plain = asdict(trained.knobs)
    events = int(checks.events(run.ranks, plain))
    numbers = {f"{name}_{part}": found[name][i] for name in found for i, part in enumerate(("both", "still", "other"))}
    numbers |= {
        "best": found[best][0],
        "ratio": ratio,
        "spread": spread,
        "parameters": float(weights),
        "events": float(events),
    }
    numbers["best_is"] = float(list(found).index(best))
    parts = [
        Text(
            f"A curve of {weights} waves is learned from {model.POINTS} noisy points a step, {steps} steps. On half of "
            f"the streams it stays, {said(trained.kind)}; nobody knows which, nor when the run is stopped. Every "
            f"schedule learns the same {weights} numbers and was tuned with {trained.trials} trials on other streams."
        ),
        Table(
            ("schedule", "all", "still", trained.kind, "rate", "setting"),
            rows,
            title=f"Error when stopped at any time, {2 * half} fresh streams (geometric mean)",
        ),
        Text(
            f"Ordinal over {best}, the best control: {number(numbers['ratio'])} ± {spread:.2g} (one standard "
            "error, stream by stream)."
        ),
        run_plot(trained),
        errors_plot(trained, best),
    ]
    return Scene("A curve that may change, a stop that may come", parts, learned_certificates(trained), numbers)


def said(kind: str) -> str:
    """What the other half of the streams does."""
    return {
        "shifts": "on the others it jumps twice",
        "drift": "on the others it drifts all the time",
        "bursts": "on the others a burst of noise drowns it for a tenth of the run",
    }[kind]


def run_plot(trained: Trained) -> Plot:
    """The rank of the shown run, over the learning rate."""
    run, plain = trained.run("ordinal"), asdict(trained.knobs)
    knobs = trained.knobs
    text = drawing.descent({"one of the streams": run.ranks}, plain, height=10)
    sizes = np.array([knobs.restarts, knobs.anneals, knobs.patience])
    arrays = {"knobs": sizes, "ranks": run.ranks, "factors": run.factors, "shifts": trained.changes()}
    where = ", ".join(map(str, trained.changes()[:4].tolist()))
    happened = f"the curve jumps at {where}" if trained.kind == "shifts" else trained.kind
    return Plot(f"Rank of the run on one of these ({happened})", text, "run", arrays)


def errors_plot(trained: Trained, best: str) -> Plot:
    """Error of a few schedules on the shown stream, averaged over windows."""
    names = list(dict.fromkeys(["ordinal", best, "cosine"]))
    steps = trained.streams.heights.shape[1]
    window = max(1, steps // 60)
    count = steps // window
    smooth = {
        name: np.asarray(trained.run(name).errors)[: count * window].reshape(count, window).mean(1) for name in names
    }
    taken = (np.arange(count) + 1) * window
    text = terminal.chart(
        {name: (taken, y) for name, y in smooth.items()}, xlabel="step", ylabel="error", logy=True, height=10
    )
    arrays = {"steps": taken, "shifts": trained.changes(), **smooth}
    return Plot("Error on the same stream", text, "errors", arrays)


def learned_certificates(trained: Trained) -> list[Certificate]:
    """Of the run that was made: its event log, its learning rates from its losses, and the curve it ended with."""
    run, plain = trained.run("ordinal"), asdict(trained.knobs)
    start = np.array([[trained.knobs.restarts, trained.knobs.anneals, trained.knobs.patience]])
    happened = np.flatnonzero((np.diff(np.concatenate([start, run.ranks]), axis=0) != 0).any(-1))
    steps = np.concatenate([[-1], happened])
    curve = trained.streams.curves[trained.shown][-1]
    error = float(((np.asarray(run.weights) - curve) ** 2).sum())
    return [
        certify(
            "ordinal.log",
            f"the run's {len(happened)} events, of at most {bound(trained.knobs)}: each a step of the schedule to a "
            "lower ordinal",
            0.0,
            steps=steps,
            ranks=np.concatenate([start, np.asarray(run.ranks)[happened]]),
            knobs=plain,
        ),
        certify(
            "ordinal.rates",
            "the run's losses, heard again, give the same events and the same learning rates to the bit",
            0.0,
            losses=run.losses,
            factors=run.factors,
            steps=steps,
            knobs=plain,
        ),
        certify(
            "ordinal.learned",
            f"the curve the run ended with has a mean squared distance of {number(error)} from the true one",
            1e-12,
            weights=np.asarray(run.weights),
            curve=curve,
            error=error,
        ),
    ]


# --- limits -------------------------------------------------------------------------------------------------------


def show_limits(trained: Trained) -> Scene:
    """A known end, restarts that nothing called for, and the time lost after a change that comes at a low level."""
    half = trained.half
    last = max(1, trained.streams.heights.shape[1] // 50)
    ends = {
        name: float(np.asarray(tuned.run.errors)[:half, -last:].mean()) for name, tuned in trained.known_end.items()
    }
    tuned = trained.anytime["ordinal"]
    spent = trained.knobs.restarts - np.asarray(tuned.run.ranks)[:half, -1, 0]
    means = {name: float(np.asarray(each.run.errors)[half:].mean()) for name, each in trained.anytime.items()}
    winner = min((name for name in ends if name != "ordinal"), key=lambda name: ends[name])
    arithmetic_winner = min((name for name in means if name != "ordinal"), key=lambda name: means[name])
    rows = [
        (f"still, end known, tuned for it: error there ({winner})", number(ends["ordinal"]), number(ends[winner])),
        (
            f"{trained.kind}: mean error, not geometric ({arithmetic_winner})",
            number(means["ordinal"]),
            number(means[arithmetic_winner]),
        ),
        ("restarts spent where nothing changed", f"{spent.mean():.3g} of {trained.knobs.restarts}", "0"),
    ]
    parts = [
        Text(
            "Who knows the end can plan for it. And the schedule does not hear a shift as such: it only hears that "
            "nothing improves, cuts first, and restarts when its cuts are spent, whether or not anything has changed."
        ),
        Table(("what counts against it", "ordinal", "control"), tuple(rows)),
    ]
    numbers = {
        "end": ends["ordinal"],
        "end_control": ends[winner],
        "end_cosine": ends["cosine"],
        "mean": means["ordinal"],
        "mean_control": means[arithmetic_winner],
        "restarts_spent": float(spent.mean()),
    }
    return Scene("Where counting down loses", parts, numbers=numbers)


def closing(config: DemoConfig, numbers: Mapping[str, float]) -> tuple[str, str]:
    """What was seen, from the numbers."""
    n = numbers
    schedules = [key.removesuffix("_both") for key in n if key.endswith("_both")]
    best = schedules[int(n["best_is"])]
    usual = "cosine" if best == "plateau" else "plateau"
    return (
        f"Stopped at an unknown time, on streams that may change, the ordinal schedule errs by "
        f"{number(n['ordinal_both'])}, {number(n['ratio'])} ± {n['spread']:.2g} of the best control's ({best}) and "
        f"{against(n['ordinal_both'], n[f'{usual}_both'])} {usual}, each tuned as long and learning the same "
        f"{n['parameters']:.0f} numbers; its shown run made {n['events']:.0f} events, each to a lower ordinal.",
        f"On still streams with a known end it errs by {number(n['end'])}, "
        f"{against(n['end'], n['end_control'])} the best control there ({number(n['end_cosine'])} for cosine), after "
        f"{n['restarts_spent']:.3g} restarts that nothing called for; on {config.options['stream']} its mean error is "
        f"{number(n['mean'])}, {against(n['mean'], n['mean_control'])} the best control's.",
    )


def gist(_: DemoConfig, numbers: Mapping[str, float]) -> tuple[str, str]:
    """Learned and lost, for the table of all demos."""
    n = numbers
    return (
        f"any stop: error {number(n['ordinal_both'])}, best control {number(n['best'])}",
        f"known end: error {number(n['end'])}, best control {number(n['end_control'])}",
    )


run = staged(scenes, closing, gist)
