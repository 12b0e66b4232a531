"""The ultrametric demo's certificates: plain functions of a witness, without jax. Each returns an error or a count."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np


def value(digits: np.ndarray, base: int) -> int:
    """The residue that a digit string stands for, the least significant digit first."""
    return sum(int(digit) * base**place for place, digit in enumerate(digits))


def arithmetic(
    x: np.ndarray, y: np.ndarray, total: np.ndarray, product: np.ndarray, inverse: np.ndarray, base: int
) -> float:
    """Rows whose digits disagree with integers modulo p^k: sum, product, and the inverse of x."""
    modulus, wrong = base ** x.shape[1], 0
    for a, b, s, m, i in zip(x, y, total, product, inverse, strict=True):
        a, b = value(a, base), value(b, base)
        said = value(s, base), value(m, base), a * value(i, base) % modulus
        wrong += said != ((a + b) % modulus, a * b % modulus, 1)
    return float(wrong)


def order(number: int, prime: int) -> int:
    """How often a prime divides a number that is not 0."""
    if number == 0 or prime < 2:
        raise ValueError(f"valuation: got {number} and {prime}, need a number that is not 0 and a prime")
    times = 0
    while number % prime == 0:
        number //= prime
        times += 1
    return times


def rational(fractions: np.ndarray, valuation: np.ndarray, digits: np.ndarray, base: int) -> float:
    """Fractions a / b (rows) that are not p^valuation times their digits, up to the precision."""
    wrong = 0
    for (a, b), power, string in zip(fractions.tolist(), valuation.tolist(), digits, strict=True):
        unit = Fraction(a, b) / Fraction(base) ** power
        known = value(string, base) * unit.denominator - unit.numerator
        wrong += bool(known % base ** len(string)) or unit.numerator % base == 0 or unit.denominator % base == 0
    return float(wrong)


def product_formula(fractions: np.ndarray, primes: np.ndarray, valuations: np.ndarray) -> float:
    """Fractions whose absolute values, the usual one and those of the primes, do not multiply to 1."""
    wrong = 0
    for (a, b), powers in zip(fractions.tolist(), valuations.tolist(), strict=True):
        product = abs(Fraction(a, b))
        for prime, power in zip(primes.tolist(), powers, strict=True):
            product *= Fraction(prime) ** -power
        wrong += product != 1
    return float(wrong)


def lookup(keys: np.ndarray, queries: np.ndarray, found: np.ndarray, base: int, depth: int) -> float:
    """Queries whose longest prefix among the stored keys, by comparing with all of them, is another one than found."""
    powers = base ** np.arange(1, depth + 1)
    best = np.array([((keys - query)[:, None] % powers == 0).sum(1).max() for query in queries])
    return float((best != found).sum())


def prefix_valuation(x: np.ndarray, shared: np.ndarray, base: int, depth: int) -> float:
    """Pairs that do not share as many digits as the base divides their difference times, at most ``depth``."""
    wrong = 0
    for i, j in zip(*np.triu_indices(len(x), 1), strict=True):
        difference = int(x[i] - x[j])
        wrong += int(shared[i, j]) != (min(order(difference, base), depth) if difference else depth)
    return float(wrong)


def learned_distances(keys: np.ndarray, symbols: np.ndarray, weights: np.ndarray, base: int) -> np.ndarray:
    """d(x, y) = K(x, x) - K(x, y): the weights of the levels that two keys do not share, by their learned digits."""
    digits = (keys @ symbols.T).reshape(len(keys), -1, base).argmax(-1)
    prefix = np.cumprod(digits[:, None] == digits[None], -1).sum(-1)
    beyond = np.append(np.cumsum(weights[::-1])[::-1][1:], 0.0)  # entry l: the weights of levels above l
    return beyond[prefix]


def strong_triangle(keys: np.ndarray, symbols: np.ndarray, weights: np.ndarray, base: int) -> float:
    """Triples with d(x, z) > max(d(x, y), d(y, z)), by the learned kernel; a negative weight counts as one too."""
    d = learned_distances(keys, symbols, weights, base)
    longer = np.maximum(d[:, :, None], d[None])  # x, y, z
    return float((d[:, None, :] > longer).sum() + (weights < 0).sum())


def nested(keys: np.ndarray, symbols: np.ndarray, weights: np.ndarray, base: int) -> float:
    """Pairs of balls of learned keys, of all radii, that overlap without one containing the other."""
    d = learned_distances(keys, symbols, weights, base)
    balls = np.unique(np.concatenate([d <= radius for radius in np.unique(d)]), axis=0).astype(int)
    common, sizes = balls @ balls.T, balls.sum(1)
    return float(((common > 0) & (common < np.minimum(sizes[:, None], sizes))).sum())


def same_digits(
    keys: np.ndarray, symbols: np.ndarray, weights: np.ndarray, values: np.ndarray, said: np.ndarray, base: int
) -> float:
    """Largest difference of the trie's output at each token from the mean over all pairs, with the learned digits."""
    digits = (keys @ symbols.T).reshape(len(keys), -1, base).argmax(-1)
    prefix = np.cumprod(digits[:, None] == digits[None], -1).sum(-1)
    kernel = np.tril(np.cumsum(weights)[prefix])
    return float(np.abs(kernel @ values / kernel.sum(1, keepdims=True) - said).max())


def locality(
    before: np.ndarray, after: np.ndarray, keys: np.ndarray, lesson: int, step: float, base: int, depth: int
) -> float:
    """Largest error of: one lesson moves the prediction at y by ``step`` times the digits that y shares with it."""
    power = base ** np.arange(1, depth + 1)
    places = keys[:, None] % power + (power - 1) // (base - 1)
    change = (after - before)[places].sum(1)
    shared = ((keys - lesson)[:, None] % power == 0).sum(1)
    outside = np.abs(change[shared == 0]).max(initial=0.0)
    return float(np.inf if outside else np.abs(change - step * shared).max())


def signature(points: np.ndarray, partners: np.ndarray, planes: np.ndarray) -> float:
    """Largest distance, over pairs, of the share of equal signs from 1 - angle / pi, in standard deviations."""
    cosine = (points * partners).sum(1) / np.linalg.norm(points, axis=1) / np.linalg.norm(partners, axis=1)
    chance = 1 - np.arccos(np.clip(cosine, -1, 1)) / np.pi
    equal = ((points @ planes.T > 0) == (partners @ planes.T > 0)).mean(1)
    return float((np.abs(equal - chance) / np.sqrt(chance * (1 - chance) / len(planes))).max())


CHECKS: dict[str, Callable[..., float]] = {
    "arithmetic": arithmetic,
    "rational": rational,
    "product_formula": product_formula,
    "lookup": lookup,
    "prefix_valuation": prefix_valuation,
    "strong_triangle": strong_triangle,
    "nested": nested,
    "same_digits": same_digits,
    "locality": locality,
    "signature": signature,
}
