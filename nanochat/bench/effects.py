r"""How large a difference is, in units that a reader can use, and endpoints that stand beside the mean.

The seed is the unit of replication throughout; documents are resampled only for the secondary question of what would
happen on new ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import stdtr, stdtrit

from nanochat.bench.statistics import Floats, paired_p, sign_flip_p

RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Gain:
    """Compute-equivalent gain: how many times its operations the baseline needs to reach the arm's loss.

    Args:
        factor: above 1 where the arm is better.
        low, high: 95 % interval over seeds; equal to ``factor`` for one seed.
        extrapolated: the factor lies outside the budgets that the baseline was run at.
    """

    factor: float
    low: float
    high: float
    extrapolated: bool


def equivalent_gain(shares: Sequence[float], baseline: Floats, arm: Floats) -> Gain | None:
    r"""The factor g for which the baseline's fitted loss at g times the budget is the arm's loss.

    Per seed the line :math:`\ln L = a + b \ln c` is fitted to the baseline's bits per byte at the budgets
    :math:`c \in` ``shares`` (in units of the arm's budget), and :math:`\ln g = (\ln L_{arm} - a) / b`.

    Args:
        shares: budgets of the baseline over the arm's, at least two different ones.
        baseline: (budgets, seeds) bits per byte.
        arm: (seeds,) bits per byte at budget 1.

    Returns:
        None where the baseline's loss does not fall with its budget in every seed: there is no line to read.
    """
    x = np.log(np.asarray(shares, dtype=np.float64))
    y = np.log(baseline)
    centred = x - x.mean()
    slope = centred @ y / (centred @ centred)
    if not (slope < 0).all():
        return None
    gains = (np.log(arm) - y.mean(0)) / slope + x.mean()
    middle, n = float(gains.mean()), len(gains)
    half = float(stdtrit(n - 1, 0.975) * gains.std(ddof=1) / np.sqrt(n)) if n > 1 else 0.0
    outside = not x.min() <= middle <= x.max()
    return Gain(float(np.exp(middle)), float(np.exp(middle - half)), float(np.exp(middle + half)), outside)


def standardised(differences: Floats) -> float | None:
    """Paired :math:`d_z`: mean over standard deviation of (n,) differences; None without spread."""
    sd = float(differences.std(ddof=1))
    return float(differences.mean()) / sd if sd > 0 else None


def beats_on_a_fresh_seed(differences: Floats) -> float:
    """Predictive chance that the arm is better than the baseline (difference < 0) on one more seed.

    Student's predictive distribution of (n,) normal differences: t with n - 1 degrees of freedom, scaled by
    sd sqrt(1 + 1/n). Without spread it is 1, 0 or, where nothing differs, 1/2.
    """
    n, mean, sd = len(differences), float(differences.mean()), float(differences.std(ddof=1))
    if sd == 0:
        return 0.5 if mean == 0 else float(mean < 0)
    return float(stdtr(n - 1, -mean / (sd * np.sqrt(1 + 1 / n))))


def over_documents(ours: Floats, theirs: Floats, sizes: Floats, *, level: float = 0.95) -> tuple[float, float]:
    """Interval of the difference for new documents *and* new seeds: the pigeonhole bootstrap.

    Seeds and documents are resampled with replacement, independently of each other, with a fixed generator.

    Args:
        ours, theirs: (seeds, documents) nats.
        sizes: (documents,) bytes.
        level: of the percentile interval.

    Returns:
        low, high in bits per byte.

    Source: Owen 2007, *The pigeonhole bootstrap* (doi:10.1214/07-AOAS122).
    """
    seeds, documents = ours.shape
    generator = np.random.Generator(np.random.Philox(seeds))
    drawn_seeds = generator.multinomial(seeds, np.full(seeds, 1 / seeds), RESAMPLES)
    drawn = generator.multinomial(documents, np.full(documents, 1 / documents), RESAMPLES)
    nats = np.einsum("rs,sd,rd->r", drawn_seeds, ours - theirs, drawn, optimize=True) / seeds
    bits = nats / (np.log(2) * (drawn @ sizes))
    low, high = np.quantile(bits, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def interaction(small: Floats, large: Floats) -> tuple[float, float]:
    """Does the difference change with the budget? Mean change and paired two-sided p.

    Args:
        small, large: (n,) paired differences at the smaller and at the larger budget, same seeds.
    """
    change = large - small
    return float(change.mean()), float(paired_p(np.asarray(change.mean()), np.asarray(change.std(ddof=1)), len(change)))


def divergence_p(ours: int, theirs: int, seeds: int) -> float:
    """Fisher's exact two-sided p that ``ours`` of ``seeds`` runs diverge as often as ``theirs`` of the baseline's."""
    from scipy.stats import fisher_exact

    p: Any = fisher_exact([[ours, seeds - ours], [theirs, seeds - theirs]])[1]  # scipy's result has no stated types
    return float(p)


def rank_p(ours: Sequence[float | None], theirs: Sequence[float | None]) -> float:
    """Wilcoxon's signed-rank test, exact, with runs that diverged (None) as the worst of all.

    A pair in which both diverged says nothing and has rank zero; ties share their mean rank.
    """
    differences = np.array([_signed(a, b) for a, b in zip(ours, theirs, strict=True)])
    from scipy.stats import rankdata

    told = differences != 0
    ranks = np.zeros(len(differences))
    ranks[told] = rankdata(np.abs(differences[told])) * np.sign(differences[told])
    return sign_flip_p(ranks)


def _signed(ours: float | None, theirs: float | None) -> float:
    if ours is None or theirs is None:
        return 0.0 if ours is theirs else np.inf if ours is None else -np.inf
    return ours - theirs


def fragile(scores: Sequence[float], baseline: float) -> bool:
    """Whether an arm is better than the baseline's best at one point of its learning-rate grid only.

    Args:
        scores: the arm's loss at every point of rung 1; infinite where it diverged.
        baseline: the baseline's best loss on the same rung.
    """
    return sum(score < baseline for score in scores) == 1
