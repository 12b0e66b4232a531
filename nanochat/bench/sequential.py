r"""Group-sequential verdicts: stop an arm early without paying for the extra looks with false verdicts.

At look j, with :math:`n_j` seeds, a hypothesis is rejected where its p is at most :math:`c_j(\alpha)`. The cut-offs are
O'Brien and Fleming's: the partial sum of differences leaves one and the same band :math:`\pm b` at any look with
probability :math:`\alpha` in all, so :math:`c_j = 2 \Phi(-b / \sqrt{n_j})`. Three equal looks at .05 give .0005, .0141,
.0451. Several arms share :math:`\alpha` by Holm's rule: with m of them open each has :math:`c_j(\alpha / m)`, and every
decision frees its share for the others.

Source: O'Brien and Fleming 1979 (doi:10.2307/2530245); Maurer and Bretz 2013 (doi:10.1080/19466315.2013.807748) for
Holm with looks; Jennison and Turnbull 1989 for repeated intervals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.special import ndtr, ndtri, stdtrit

from nanochat.bench.statistics import MIN_SEEDS, Floats, equivalence_p, paired_p

NODES = 64
"""Gauss-Legendre nodes across the band; crossing probabilities are then exact to 1e-8 (tested)."""

HALVINGS = 50

TINY = 1e-200
"""Stands for a p that underflows."""


@dataclass(frozen=True, slots=True)
class Look:
    """What one look decides about k arms; every field has shape (k,).

    Args:
        verdict: ``WIN``, ``LOSS`` or ``TIE``; empty where the arm stays open.
        mean, sd: of the paired differences so far, bits per byte.
        low, high: repeated simultaneous intervals: they cover all means at all looks at level 1 - alpha.
        p, p_tie: unadjusted, of the difference and of equivalence within +-sesoi.
        p_adjusted: of the difference, over all looks and arms: the least alpha at which it would be called.
    """

    verdict: tuple[str, ...]
    mean: Floats
    sd: Floats
    low: Floats
    high: Floats
    p: Floats
    p_tie: Floats
    p_adjusted: Floats


@cache
def cutoffs(looks: tuple[int, ...], alpha: float) -> tuple[float, ...]:
    """Two-sided nominal p for every look, which together reject a true null with probability ``alpha``.

    Args:
        looks: seeds at each look, increasing.
        alpha: error over all looks.

    Example:
        >>> [round(p, 4) for p in cutoffs((4, 8, 12), 0.05)]
        [0.0005, 0.0141, 0.0451]
    """
    if list(looks) != sorted(set(looks)) or not looks or looks[0] < 1:
        raise ValueError(f"looks: got {looks}, need increasing numbers of seeds")
    final = np.sqrt(looks[-1])
    low, high = -ndtri(alpha / 2) * final, -ndtri(alpha / 2 / len(looks)) * final + 1e-9
    for _ in range(HALVINGS if len(looks) > 1 else 0):
        middle = (low + high) / 2
        low, high = (middle, high) if _crossing(looks, middle) > alpha else (low, middle)
    band = high if len(looks) > 1 else low
    return tuple(float(2 * ndtr(-band / np.sqrt(n))) for n in looks)


def _crossing(looks: Sequence[int], band: float) -> float:
    """Chance that a random walk with unit normal steps is outside +-``band`` at one of the looks."""
    nodes, weights = _quadrature(NODES)
    places, weights = nodes * band, weights * band
    density = np.exp(-(places**2) / (2 * looks[0])) / np.sqrt(2 * np.pi * looks[0])
    crossed = 2 * ndtr(-band / np.sqrt(looks[0]))
    for before, now in zip(looks, looks[1:], strict=False):
        spread = np.sqrt(now - before)
        mass = weights * density
        crossed += mass @ (ndtr((-band - places) / spread) + ndtr((places - band) / spread))
        steps = (places[:, None] - places[None, :]) / spread
        density = np.exp(-(steps**2) / 2) @ mass / (spread * np.sqrt(2 * np.pi))
    return float(crossed)


@cache
def _quadrature(nodes: int) -> tuple[Floats, Floats]:
    return np.polynomial.legendre.leggauss(nodes)


def examine(
    differences: Floats, looks: tuple[int, ...], *, sesoi: float, alpha: float, family: int, decided: int = 0
) -> Look:
    """Judge the open arms at one look.

    WIN or LOSS where the mean is not zero, else TIE where equivalence within +-``sesoi`` holds, else open. With fewer
    than :data:`MIN_SEEDS` seeds every arm stays open: no exact test could confirm what a t test would say.

    Args:
        differences: (k, n) of the open arms, bits per byte; n is one of ``looks``.
        looks: the whole design.
        sesoi: smallest effect of interest, bits per byte.
        alpha: family-wise error over all arms and looks.
        family: arms of the whole comparison, decided and barred ones too.
        decided: of these, how many WINs and LOSSes earlier looks found.
    """
    count, n = differences.shape
    mean, sd = differences.mean(-1), differences.std(-1, ddof=1)
    p, p_tie = paired_p(mean, sd, n), equivalence_p(mean, sd, n, sesoi)
    adjusted = _step_down(overall(p, n, looks), family - decided)
    alike = _step_down(overall(np.minimum(1.0, 2 * p_tie), n, looks) / 2, family)
    words = [""] * count
    for arm in range(count if n >= MIN_SEEDS else 0):
        if adjusted[arm] <= alpha:
            words[arm] = "WIN" if mean[arm] < 0 else "LOSS"
        elif alike[arm] <= alpha:
            words[arm] = "TIE"
    half = stdtrit(n - 1, 1 - cutoffs(looks, alpha / family)[looks.index(n)] / 2) * sd / np.sqrt(n)
    return Look(tuple(words), mean, sd, mean - half, mean + half, p, p_tie, adjusted)


def overall(p: Floats, n: int, looks: tuple[int, ...]) -> Floats:
    """Two-sided p over all looks: the least alpha whose cut-off at the look with n seeds is p; (k,) -> (k,)."""
    if len(looks) == 1:
        return p
    bands = -ndtri(np.maximum(p, TINY) / 2) * np.sqrt(n)
    return np.array([_crossing(looks, band) for band in bands])


def _step_down(p: Floats, left: int) -> Floats:
    """Holm's adjustment: the smallest p times ``left``, the next times ``left - 1``, never falling."""
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * (left - np.arange(len(p))))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, stepped)
    return adjusted
