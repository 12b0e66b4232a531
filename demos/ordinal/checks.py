"""The ordinal demo's certificates: plain functions of a witness, without jax. Each counts what is wrong.

Ordinals are nested lists of pairs of an exponent and a coefficient; those below omega^k also rows of k coefficients,
the one of omega^0 first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from demos.ordinal.arithmetic import Hydra, Ordinal, chop, evaluate, heads, hydra_rank


def written(ordinal: Ordinal) -> list[list[Any]]:
    """An ordinal as nested lists."""
    return [[written(exponent), count] for exponent, count in ordinal.terms]


def read(pairs: Sequence[Any]) -> Ordinal:
    """The inverse of :func:`written`. Raises ``ValueError`` for what is no Cantor normal form."""
    return Ordinal(tuple((read(exponent), int(count)) for exponent, count in pairs))


def grown(nested: Sequence[Any]) -> Hydra:
    """A tree from nested lists."""
    return tuple(grown(branch) for branch in nested)


def order(left: list[Any], right: list[Any], signs: np.ndarray, base: int) -> float:
    """Pairs whose claimed order is not that of the numbers they become with ``base`` for omega.

    That is the order of the ordinals, once the base exceeds all coefficients.
    """
    wrong = 0
    for one, two, sign in zip(left, right, signs, strict=True):
        x, y = evaluate(read(one), base), evaluate(read(two), base)
        wrong += (x > y) - (x < y) != sign or max(_coefficients(one), _coefficients(two)) >= base
    return float(wrong)


def _coefficients(pairs: list[Any]) -> int:
    """The largest coefficient, exponents included."""
    return max((max(count, _coefficients(exponent)) for exponent, count in pairs), default=0)


def degree(x: np.ndarray) -> int:
    """Of a row of coefficients; -1 of 0."""
    return int(np.flatnonzero(x).max(initial=-1))


def sum_of(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The second one swallows what lies below its leading power."""
    lead = degree(y)
    return np.where(np.arange(len(x)) < lead, y, x + y)


def product_of(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Powers of y lift the degree of x; its finite part repeats the leading coefficient of x."""
    made, lead = np.zeros(2 * len(x) - 1, int), degree(x)
    if lead < 0:
        return made
    made[lead + 1 : lead + len(y)] = y[1:]
    if y[0]:
        made[:lead] = x[:lead]
        made[lead] = x[lead] * y[0]
    return made


def sums(x: np.ndarray, y: np.ndarray, ordinary: np.ndarray, natural: np.ndarray) -> float:
    """Sums that are not the claimed ones: the ordinary, which swallows, and the natural, coefficient by coefficient."""
    wrong = sum(bool((sum_of(a, b) != c).any()) for a, b, c in zip(x, y, ordinary, strict=True))
    return float(wrong + (x + y != natural).any(-1).sum())


def products(x: np.ndarray, y: np.ndarray, ordinary: np.ndarray, natural: np.ndarray) -> float:
    """Products that are not the claimed ones: the ordinary, and the natural, which is that of polynomials."""
    wrong = sum(bool((product_of(a, b) != c).any()) for a, b, c in zip(x, y, ordinary, strict=True))
    wrong += sum(bool((np.convolve(a, b) != c).any()) for a, b, c in zip(x, y, natural, strict=True))
    return float(wrong)


def fundamental(limits: list[Any], members: list[Any], below: list[Any]) -> float:
    """Sequences that do not rise, or reach their limit, or never pass some of the ordinals below it."""
    wrong = 0
    lower = [read(each) for each in below]
    for pairs, sequence in zip(limits, members, strict=True):
        limit, rising = read(pairs), [read(each) for each in sequence]
        wrong += sum(not one < two for one, two in zip(rising, [*rising[1:], limit], strict=True))
        wrong += sum(each < limit and not each < rising[-1] for each in lower)
    return float(wrong)


def goodstein(number: int, ranks: list[Any]) -> float:
    """Members that are not the one before with b + 1 for its base b, less 1, or whose ordinal does not fall."""
    found = [read(each) for each in ranks]
    wrong = int(evaluate(found[0], 2) != number)
    for base, (one, two) in enumerate(zip(found, found[1:], strict=False), start=2):
        wrong += evaluate(one, base + 1) - 1 != evaluate(two, base + 1)
        wrong += not two < one or max(_coefficients(written(two)), 0) > base
    return float(wrong)


def hydra(trees: list[Any], ranks: list[Any]) -> float:
    """Steps of a battle that are no cut of one head with as many copies as steps so far, or do not lower the rank."""
    battle = [grown(tree) for tree in trees]
    wrong = int(bool(battle[-1]))
    for step, (one, two) in enumerate(zip(battle, battle[1:], strict=False), start=1):
        wrong += _sorted(two) not in {_sorted(chop(one, path, step)) for path in heads(one)}
    wrong += sum(hydra_rank(tree) != read(rank) for tree, rank in zip(battle, ranks, strict=True))
    return float(wrong + sum(not read(two) < read(one) for one, two in zip(ranks, ranks[1:], strict=False)))


def _sorted(tree: Hydra) -> Hydra:
    """Branches in one order: a hydra has no left and right."""
    return tuple(sorted(map(_sorted, tree)))


def bound(knobs: Mapping[str, Any]) -> int:
    """(A + 1)(B + 1)(C + 1) - 1."""
    return (knobs["restarts"] + 1) * (knobs["anneals"] + 1) * (knobs["patience"] + 1) - 1


def lowered(a: int, b: int, c: int, knobs: Mapping[str, Any]) -> tuple[int, int, int]:
    """The rank after an event: one less, or a limit's power exchanged for the next smaller one."""
    if c:
        return a, b, c - 1
    if b:
        return a, b - 1, knobs["patience"]
    return (a - 1, knobs["anneals"], knobs["patience"]) if a else (0, 0, 0)


def replay(losses: np.ndarray, knobs: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """The schedule once more, in plain Python: rank after every loss, and factor before it."""
    rank = knobs["restarts"], knobs["anneals"], knobs["patience"]
    average = best = None
    ranks, factors = [], []
    for loss in losses.tolist():
        level = knobs["restart_decay"] ** (knobs["restarts"] - rank[0]) * knobs["decay"] ** (knobs["anneals"] - rank[1])
        factors.append(max(knobs["floor"], level))
        new = loss if average is None else knobs["smoothing"] * average + (1 - knobs["smoothing"]) * loss
        finite = math.isfinite(new)
        average = new if finite else average
        improved = finite and (best is None or best - new > knobs["epsilon"] * abs(best))
        after = rank if improved else lowered(*rank, knobs)
        if improved or after[:2] != rank[:2]:
            best = average
        rank = after
        ranks.append(rank)
    return np.array(ranks), np.array(factors)


def streams(losses: np.ndarray, missing: np.ndarray, knobs: Mapping[str, Any], ranks: np.ndarray) -> float:
    """Ranks on streams that are not the claimed ones, and streams with more events than there can be.

    The first stream never changes: it must have exactly as many events as there can be. ``missing`` marks losses that
    are no number.
    """
    wrong = 0
    for row, gone, claimed in zip(losses, missing, ranks, strict=True):
        wrong += int((replay(np.where(gone, np.nan, row), knobs)[0] != claimed).sum())
    counted = events(ranks, knobs)
    return float(wrong + (counted > bound(knobs)).sum() + (counted[0] != bound(knobs)))


def events(ranks: np.ndarray, knobs: Mapping[str, Any]) -> np.ndarray:
    """Events of each stream, from ranks (..., T, 3)."""
    start = np.broadcast_to([knobs["restarts"], knobs["anneals"], knobs["patience"]], (*ranks.shape[:-2], 1, 3))
    return (np.diff(np.concatenate([start, ranks], -2), axis=-2) != 0).any(-1).sum(-1)


def scale(losses: np.ndarray, powers: np.ndarray, knobs: Mapping[str, Any], ranks: np.ndarray) -> float:
    """Ranks that change when all losses are multiplied by a power of two."""
    return float(sum((replay(losses * 2.0**power, knobs)[0] != ranks).sum() for power in powers))


def log(steps: np.ndarray, ranks: np.ndarray, knobs: Mapping[str, Any]) -> float:
    """Entries of an event log that are no event of this schedule, checked from the lower rank upwards.

    Omega^2 a + omega b + c must be preceded by itself plus 1; at c = C also by omega^2 a + omega (b + 1); at b = B and
    c = C also by omega^2 (a + 1).
    """
    most, full = knobs["anneals"], knobs["patience"]
    wrong = int(tuple(ranks[0]) != (knobs["restarts"], most, full)) + int(len(ranks) - 1 > bound(knobs))
    for before, (a, b, c) in zip(ranks.tolist(), ranks[1:].tolist(), strict=False):
        above = [[a, b, c + 1]] + [[a, b + 1, 0]] * (c == full) + [[a + 1, 0, 0]] * ((b, c) == (most, full))
        wrong += before not in above or not before > [a, b, c]
    return float(wrong + (np.diff(steps) <= 0).sum() + (len(steps) != len(ranks)))


def rates(losses: np.ndarray, factors: np.ndarray, steps: np.ndarray, knobs: Mapping[str, Any]) -> float:
    """Steps whose learning rate is not what the recorded losses say, to the bit, and events that did not happen."""
    ranks, again = replay(losses, knobs)
    start = np.array([[knobs["restarts"], knobs["anneals"], knobs["patience"]]])
    happened = np.flatnonzero((np.diff(np.concatenate([start, ranks]), axis=0) != 0).any(-1))
    same = len(happened) == len(steps) - 1 and bool((happened == steps[1:]).all())
    return float((again != factors).sum() + (not same))


def waves(x: np.ndarray, count: int) -> np.ndarray:
    """sqrt 2 sin k pi x and sqrt 2 cos k pi x."""
    angle = np.pi * x[..., None] * np.arange(1, count + 1)
    return 2**0.5 * np.concatenate([np.sin(angle), np.cos(angle)], -1)


def learned(weights: np.ndarray, curve: np.ndarray, error: float) -> float:
    """Difference of the claimed error from the mean squared distance of two curves, taken at 64 points of a period."""
    x = np.linspace(-1, 1, 64, endpoint=False)
    apart = waves(x, len(curve) // 2) @ (weights - curve)
    return float(abs((apart**2).mean() - error))


CHECKS: dict[str, Callable[..., float]] = {
    "order": order,
    "sums": sums,
    "products": products,
    "fundamental": fundamental,
    "goodstein": goodstein,
    "hydra": hydra,
    "streams": streams,
    "scale": scale,
    "log": log,
    "rates": rates,
    "learned": learned,
}
