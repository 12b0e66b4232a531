r"""Paired comparisons over seeds: tests, simultaneous intervals, equivalence, power.

The seed is the unit of replication. For arm a and seed s, :math:`d_{as}` is the arm's bits per byte minus the
baseline's at the same seed, and :math:`\Delta_a` its expectation over seeds. Everything is vectorised over leading
axes, so that the code that judges one suite also judges ten thousand simulated ones.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray
from scipy.special import nctdtr, stdtr, stdtrit

from nanochat.bench.suite import MIN_SEEDS

Floats = NDArray[np.float64]

EXACT_SEEDS = 18
"""Up to here the sign-flip test enumerates all 2^n signs; beyond it draws 2^18 of them."""

DOUBLINGS = 24
HALVINGS = 60


@dataclass(frozen=True, slots=True)
class Decision:
    """What paired differences of shape (..., k arms, n seeds) say; every field has shape (..., k).

    Args:
        mean: estimate of Delta, bits per byte; negative means that the arm is better than the baseline.
        sd: standard deviation of the paired differences, bits per byte.
        low, high: simultaneous confidence interval (Bonferroni-t over the k arms) at level 1 - alpha.
        p: two-sided paired t test.
        p_holm: the same after Holm's adjustment over the k arms.
        p_tie: two one-sided tests against +-sesoi, after Holm's adjustment over the k arms.
        verdict: ``WIN``, ``LOSS``, ``TIE`` or ``INCONCLUSIVE``.
    """

    mean: Floats
    sd: Floats
    low: Floats
    high: Floats
    p: Floats
    p_holm: Floats
    p_tie: Floats
    verdict: NDArray[np.str_]

    def row(self, arm: int) -> Decision:
        """The same of one arm, as zero-dimensional arrays."""
        return Decision(*(np.asarray(getattr(self, item.name)[..., arm]) for item in fields(self)))


def decide(differences: Floats, *, sesoi: float, alpha: float, arms: int | None = None) -> Decision:
    """Judge paired differences.

    WIN or LOSS where Holm rejects a zero mean at ``alpha``, else TIE where equivalence within +-``sesoi`` holds at
    ``alpha``, else INCONCLUSIVE. With fewer than :data:`MIN_SEEDS` seeds everything is INCONCLUSIVE.

    Args:
        differences: (..., k, n), bits per byte, arm minus baseline at the same seed.
        sesoi: smallest effect of interest, bits per byte.
        alpha: family-wise error rate.
        arms: size of the family if it is larger than k (arms that could not be judged still count).

    Source: Holm 1979; Schuirmann 1987 (two one-sided tests).
    """
    family = max(arms or 0, differences.shape[-2])
    n = differences.shape[-1]
    mean, sd = differences.mean(-1), differences.std(-1, ddof=1)
    p = paired_p(mean, sd, n)
    p_holm = holm(p, family)
    p_tie = holm(equivalence_p(mean, sd, n, sesoi), family)
    half = stdtrit(n - 1, 1 - alpha / family / 2) * sd / np.sqrt(n)
    if n >= MIN_SEEDS:
        verdict = np.where(p_tie <= alpha, "TIE", "INCONCLUSIVE")
        verdict = np.where(p_holm <= alpha, np.where(mean < 0, "WIN", "LOSS"), verdict)
    else:
        verdict = np.full(mean.shape, "INCONCLUSIVE")
    return Decision(mean, sd, mean - half, mean + half, p, p_holm, p_tie, verdict)


def paired_p(mean: Floats, sd: Floats, n: int) -> Floats:
    r"""Two-sided p of :math:`t = \bar d \sqrt n / s` with n - 1 degrees of freedom.

    Without any spread t does not exist; p is then 1 for a zero mean and the sign-flip bound 2^(1-n) for any other.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        t = mean * np.sqrt(n) / sd
    p = 2 * stdtr(n - 1, -np.abs(np.where(sd > 0, t, 0.0)))
    return np.where(sd > 0, p, np.where(mean == 0, 1.0, 2.0 ** (1 - n)))


def equivalence_p(mean: Floats, sd: Floats, n: int, sesoi: float) -> Floats:
    """P of the larger of two one-sided tests: small when the mean lies inside +-``sesoi``."""
    margin = sesoi - np.abs(mean)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = margin * np.sqrt(n) / sd
    p = stdtr(n - 1, -np.where(sd > 0, t, 0.0))
    return np.where(sd > 0, p, np.where(margin > 0, 2.0 ** (1 - n), 1.0))


def holm(p: Floats, family: int | None = None) -> Floats:
    """Holm's adjusted p over the last axis; ``family`` may count more hypotheses than are given.

    Source: Holm 1979, *A simple sequentially rejective multiple test procedure*.
    """
    k = p.shape[-1]
    order = np.argsort(p, axis=-1)
    weights = (family or k) - np.arange(k)
    stepped = np.maximum.accumulate(np.take_along_axis(p, order, -1) * weights, axis=-1)
    adjusted = np.empty_like(p)
    np.put_along_axis(adjusted, order, np.minimum(stepped, 1.0), -1)
    return adjusted


def sign_flip_p(differences: Floats) -> float:
    """Exact two-sided p of the mean when every difference may carry either sign; (n,) -> float.

    Enumerates all 2^n signs up to n = 18 and draws 2^18 of them, from a fixed generator, beyond.
    """
    n = len(differences)
    if n <= EXACT_SEEDS:
        signs = 1 - 2.0 * (np.arange(2**n)[:, None] >> np.arange(n) & 1)
    else:
        signs = np.random.Generator(np.random.Philox(n)).choice([-1.0, 1.0], size=(2**EXACT_SEEDS, n))
        signs[0] = 1.0
    sums = np.abs(signs @ differences)
    observed = abs(float(differences.sum()))
    return float(np.mean(sums >= observed - 1e-12 * max(1.0, observed)))


def interval(values: Floats, level: float = 0.95) -> tuple[float, float]:
    """Student's confidence interval of the mean of (n,) values; a single value has itself as both ends."""
    n = len(values)
    if n < 2:
        return float(values[0]), float(values[0])
    half = float(stdtrit(n - 1, 0.5 + level / 2) * values.std(ddof=1) / np.sqrt(n))
    return float(values.mean()) - half, float(values.mean()) + half


def power(effect: float, n: int, alpha: float) -> float:
    """Chance that a two-sided paired t test at ``alpha`` rejects; ``effect`` is the true mean over the sd."""
    critical = float(stdtrit(n - 1, 1 - alpha / 2))
    shift = effect * np.sqrt(n)
    return float(1 - nctdtr(n - 1, shift, critical) + nctdtr(n - 1, shift, -critical))


def detectable_effect(n: int, alpha: float, at_power: float = 0.8) -> float:
    """The effect, in standard deviations of the paired difference, that n seeds detect with the given power."""
    if n < 2:
        return float("inf")
    high = 1.0
    while power(high, n, alpha) < at_power:
        high *= 2
    low = 0.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if power(middle, n, alpha) >= at_power else (middle, high)
    return high


def seeds_needed(effect: float, alpha: float, at_power: float = 0.8) -> int | None:
    """Fewest seeds (at least :data:`MIN_SEEDS`) that detect ``effect`` sds; None if more than 2^24 would not do."""
    if not effect > 0:
        return None
    high = MIN_SEEDS
    for _ in range(DOUBLINGS):
        if power(effect, high, alpha) >= at_power:
            break
        high *= 2
    else:
        return None
    low = max(MIN_SEEDS, high // 2)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if power(effect, middle, alpha) >= at_power else (middle + 1, high)
    return high
