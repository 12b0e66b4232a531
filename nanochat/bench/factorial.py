r"""Full factorial designs over paired seeds: which knob matters, and which only together with another.

Cells are the combinations of levels. With :math:`\mu` the expected bits per byte of the cells, an effect is a contrast
:math:`w \cdot \mu` of the full grid, whose weights sum to zero:

- main effect of level l of a factor: level l minus the first level, averaged over all other factors' levels;
- interaction of level l of one factor and m of another: the difference that l makes at m, minus the one that it makes
  at the other factor's first level, averaged over the rest.

The seed is the unit: a contrast is one number per seed, so what seeds have in common cancels. Where cells are missing,
a contrast is estimated only if the model of main effects and two-way interactions leaves it estimable (Searle 1971,
*Linear Models*, chapter 5: w X in the row space of the cells that are there); otherwise it is named and left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np

from nanochat.bench.factors import Cell, Factor, combination, grid
from nanochat.bench.statistics import MIN_SEEDS, Floats, decide

TOLERANCE = 1e-9


@dataclass(frozen=True, slots=True)
class Contrast:
    """A question to the design.

    Args:
        places: (factor, level) that it is about: one of a main effect, two of an interaction.
        weights: of the cells that are there, in their order; empty where they cannot answer it.
    """

    places: tuple[tuple[int, int], ...]
    weights: tuple[float, ...]

    @property
    def estimable(self) -> bool:
        return bool(self.weights)


@dataclass(frozen=True, slots=True)
class Effect:
    """What the seeds say about a contrast; numbers are in bits per byte, negative is better.

    Args:
        name: such as ``group=so3`` or ``group=so3 x block=4``.
        order: 1 for a main effect, 2 for an interaction.
        verdict: ``WIN LOSS TIE INCONCLUSIVE``; ``UNSTABLE`` or ``INVALID`` where its cells have no numbers; ``NONE``
            where the design cannot tell.
        note: why, where the word does not say it all.
        estimate, low, high: with its simultaneous interval.
        values: by seed.
        sd: over seeds.
        p, p_adjusted, p_tie: paired t; after Holm over all effects; two one-sided tests, after Holm.
    """

    name: str
    order: int
    verdict: str
    note: str = ""
    estimate: float | None = None
    low: float | None = None
    high: float | None = None
    values: tuple[float, ...] = ()
    sd: float | None = None
    p: float | None = None
    p_adjusted: float | None = None
    p_tie: float | None = None


def contrasts(factors: Sequence[Factor], cells: Sequence[Cell]) -> list[Contrast]:
    """Every main effect and two-way interaction, with its weights on the cells that are there.

    Example:
        >>> one = contrasts([Factor("a", ("0", "1"))], [(0,), (1,)])[0]
        >>> [round(weight, 6) for weight in one.weights]
        [-1.0, 1.0]
    """
    everything = grid(factors)
    full = np.array([_row(factors, cell) for cell in everything])
    there = np.array([_row(factors, cell) for cell in cells])
    inverse = np.linalg.pinv(there)
    projector = inverse @ there
    found = []
    for places in _questions(factors):
        wanted = np.array([_weight(factors, places, cell) for cell in everything]) @ full
        answered = np.allclose(wanted @ projector, wanted, atol=TOLERANCE)
        found.append(Contrast(places, tuple((wanted @ inverse).tolist()) if answered else ()))
    return found


def _questions(factors: Sequence[Factor]) -> list[tuple[tuple[int, int], ...]]:
    main = [[(at, level) for level in range(1, len(factor.levels))] for at, factor in enumerate(factors)]
    pairs = [pair for one, other in combinations(main, 2) for pair in product(one, other)]
    return [(place,) for places in main for place in places] + pairs


def _row(factors: Sequence[Factor], cell: Cell) -> list[float]:
    """One cell in the model: an intercept, an indicator of each level but the first, and their products by pairs."""
    main = [[float(cell[at] == level) for level in range(1, len(factor.levels))] for at, factor in enumerate(factors)]
    pairs = [a * b for one, other in combinations(main, 2) for a, b in product(one, other)]
    return [1.0, *(value for values in main for value in values), *pairs]


def _weight(factors: Sequence[Factor], places: Sequence[tuple[int, int]], cell: Cell) -> float:
    """Weight of a cell of the full grid: signs at the factors asked about, means over all others."""
    asked = dict(places)
    weight = 1.0
    for at, factor in enumerate(factors):
        if at not in asked:
            weight /= len(factor.levels)
        else:
            weight *= (cell[at] == asked[at]) - float(cell[at] == 0)
    return weight


def name_of(factors: Sequence[Factor], contrast: Contrast) -> str:
    """``knob=value``, or two of them for an interaction."""
    return " x ".join(f"{factors[at].name}={factors[at].levels[level]}" for at, level in contrast.places)


def effects(
    factors: Sequence[Factor],
    cells: Sequence[Cell],
    scores: Sequence[Sequence[float | None]],
    *,
    sesoi: float,
    alpha: float,
    words: bool = True,
    barred: dict[Cell, tuple[str, str]] | None = None,
) -> list[Effect]:
    """Judge every effect by the rules of :func:`nanochat.bench.statistics.decide`; all of them are one family.

    Args:
        factors, cells: the design.
        scores: bits per byte by cell and seed; None where a run diverged or failed. Seeds that not all cells have are
            left out.
        sesoi, alpha: smallest effect of interest, bits per byte; family-wise error rate.
        words: whether verdict words are given; a smoke test has too few seeds for any.
        barred: cells whose audit failed or whose runs diverged: word and reason.
    """
    asked = contrasts(factors, cells)
    seeds = min(map(len, scores))
    found: dict[int, Effect] = {}
    judged: dict[int, Floats] = {}
    for index, contrast in enumerate(asked):
        name, order = name_of(factors, contrast), len(contrast.places)
        if not contrast.estimable:
            found[index] = Effect(name, order, "NONE", "confounded: combinations that it needs are missing")
            continue
        used = [at for at, weight in enumerate(contrast.weights) if abs(weight) > TOLERANCE]
        fault = _fault(factors, cells, used, scores, barred or {})
        if fault:
            found[index] = Effect(name, order, *fault)
        else:
            table = np.array([scores[at][:seeds] for at in used], dtype=np.float64)
            judged[index] = np.array([contrast.weights[at] for at in used]) @ table
    family = sum(contrast.estimable for contrast in asked)
    if judged:
        found |= _judged(factors, asked, judged, family, sesoi, alpha, words and seeds >= MIN_SEEDS)
    return [found[index] for index in range(len(asked))]


def _fault(
    factors: Sequence[Factor],
    cells: Sequence[Cell],
    used: Sequence[int],
    scores: Sequence[Sequence[float | None]],
    barred: dict[Cell, tuple[str, str]],
) -> tuple[str, str] | None:
    """Why a contrast has no number although the design could tell it."""
    for at in used:
        word, why = barred.get(cells[at], ("UNSTABLE", "runs are missing") if None in scores[at] else ("", ""))
        if word:
            return word, f"{combination(factors, cells[at])}: {why}"
    return None


def _judged(
    factors: Sequence[Factor],
    asked: Sequence[Contrast],
    judged: dict[int, Floats],
    family: int,
    sesoi: float,
    alpha: float,
    words: bool,
) -> dict[int, Effect]:
    decision = decide(np.array(list(judged.values())), sesoi=sesoi, alpha=alpha, arms=family)
    found = {}
    for row, (index, values) in enumerate(judged.items()):
        one = decision.row(row)
        found[index] = Effect(
            name=name_of(factors, asked[index]),
            order=len(asked[index].places),
            verdict=str(one.verdict) if words else "INCONCLUSIVE",
            estimate=float(one.mean),
            low=float(one.low),
            high=float(one.high),
            values=tuple(values.tolist()),
            sd=float(one.sd),
            p=float(one.p),
            p_adjusted=float(one.p_holm),
            p_tie=float(one.p_tie),
        )
    return found
