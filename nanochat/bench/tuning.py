"""The same learning-rate search for every arm: complete short runs, halved, on seeds that no verdict sees.

Rung 1 trains the 5 points of a factor-2 grid at C/8, rung 2 the best 3 at C/4, rung 3 the best 2 at C on twice the
seeds, each with full warm-up and decay, because rankings flip during decay (arXiv:2509.02046). While any arm's best
point lies on the edge of the grid, every arm gets the two next points on its own best side. On the way from C/4 to C a
rate shrinks by :data:`HORIZON_EXPONENT`; which of the two is better there is measured, because a verdict rests on it: a
rate chosen on two short runs once made a WIN that fresh seeds confirmed and another draw of the text did not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

GRID = (-2, -1, 0, 1, 2)
"""Powers of two times the centre, which is the optimizer's prior carried to the length of the run."""


@dataclass(frozen=True, slots=True)
class Rung:
    """One round of the search.

    Args:
        share: of the budget that each run spends.
        kept: points that survive it.
        seeds: share of the tuning seeds that it uses, from the first on.
    """

    share: float
    kept: int
    seeds: float

    def of(self, seeds: Sequence[int]) -> Sequence[int]:
        """Its seeds; at least one."""
        return seeds[: max(1, round(self.seeds * len(seeds)))]


RUNGS = (Rung(1 / 8, 3, 0.5), Rung(1 / 4, 2, 0.5), Rung(1.0, 1, 1.0))

EXTENSION = 2
MAX_EXTENSIONS = 2

HORIZON_EXPONENT = 0.32
"""The best rate falls as (tokens)^-0.32 when a run gets longer: arXiv:2409.19913, measured there on larger models."""


@dataclass(frozen=True, order=True, slots=True)
class Trial:
    """One learning rate of one arm on one rung; ``point`` is its power of two times the centre."""

    label: str
    rung: int
    point: int
    seed: int


@dataclass(frozen=True, slots=True)
class Tuned:
    """The search of one arm.

    Args:
        rate: learning rate of its verdict runs; other budgets have theirs from :meth:`at`.
        point: the winner's power of two times the centre.
        scores: mean loss in bits per byte by rung and point; infinite where a run diverged.
        at_edge: the winner of rung 1 still lies on the grid's edge.
    """

    rate: float
    point: int
    scores: Mapping[int, Mapping[int, float]]
    at_edge: bool

    def at(self, share: float) -> float:
        """Learning rate for ``share`` of the budget."""
        return self.rate * share**-HORIZON_EXPONENT

    @property
    def sensitivity(self) -> float:
        """Mean excess of rung 1 over its best point, bits per byte; infinite if any point diverged."""
        values = list(self.scores[0].values())
        return sum(values) / len(values) - min(values) if all(map(math.isfinite, values)) else math.inf


Score = Callable[[Sequence[Trial]], Mapping[Trial, float]]
"""Trains what it is given and returns bits per byte, infinite where a run diverged."""


@dataclass
class _Search:
    points: list[int]
    scores: dict[int, dict[int, float]] = field(default_factory=dict)

    def ranked(self, rung: int) -> list[int]:
        """Points from best to worst; ties go to the smaller step."""
        return sorted(self.scores[rung], key=lambda point: (self.scores[rung][point], abs(point), point))

    def at_edge(self) -> bool:
        return self.ranked(0)[0] in (min(self.points), max(self.points))

    def extend(self) -> list[int]:
        """The two next points on the side where the best one is (the better neighbour's side if it is inside)."""
        best = self.ranked(0)[0]
        middle = (min(self.points) + max(self.points)) / 2
        upward = best > middle or (best == middle and self.ranked(0)[1] > best)
        edge = max(self.points) if upward else min(self.points)
        new = [edge + (step if upward else -step) for step in range(1, EXTENSION + 1)]
        self.points += new
        return new


def search(
    centres: Mapping[str, float], seeds: Sequence[int], score: Score, grid: Sequence[int] = GRID
) -> dict[str, Tuned]:
    """Tune every arm with the same number of trials.

    Args:
        centres: learning rate in the middle of the grid, by arm.
        seeds: tuning seeds; every arm's trials of a rung run on the same of them.
        score: trains the trials.
        grid: powers of two times the centre.
    """
    searches = {label: _Search(sorted(grid)) for label in centres}
    _rung(searches, 0, {label: sorted(grid) for label in centres}, seeds, score)
    for _ in range(MAX_EXTENSIONS):
        if not any(each.at_edge() for each in searches.values()):
            break
        _rung(searches, 0, {label: each.extend() for label, each in searches.items()}, seeds, score)
    for rung in range(1, len(RUNGS)):
        keep = RUNGS[rung - 1].kept
        _rung(searches, rung, {label: each.ranked(rung - 1)[:keep] for label, each in searches.items()}, seeds, score)
    last = len(RUNGS) - 1
    return {
        label: Tuned(
            rate=rate_on(last, centres[label], each.ranked(last)[0]),
            point=each.ranked(last)[0],
            scores={rung: dict(sorted(found.items())) for rung, found in each.scores.items()},
            at_edge=each.at_edge(),
        )
        for label, each in searches.items()
    }


def carried(rate: float, share: float) -> float:
    """A rate of the grid, meant for the short rungs, at ``share`` of the budget."""
    return rate * (RUNGS[-2].share / share) ** HORIZON_EXPONENT


def rate_on(rung: int, centre: float, point: int) -> float:
    """The learning rate that a point of the grid stands for: itself on the short rungs, carried to C on the last."""
    rate = centre * 2.0**point
    return carried(rate, RUNGS[rung].share) if rung == len(RUNGS) - 1 else rate


def _rung(
    searches: Mapping[str, _Search],
    rung: int,
    points: Mapping[str, Sequence[int]],
    seeds: Sequence[int],
    score: Score,
) -> None:
    seeds = RUNGS[rung].of(seeds)
    trials = [Trial(label, rung, point, seed) for label in searches for point in points[label] for seed in seeds]
    losses = score(trials)
    for label, each in searches.items():
        found = each.scores.setdefault(rung, {})
        for point in points[label]:
            found[point] = sum(losses[Trial(label, rung, point, seed)] for seed in seeds) / len(seeds)
