"""How fast things grow with depth, width and data: predicted as transseries, then measured by growing them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from demos.surreal import transseries
from demos.surreal.transseries import Expression


@dataclass(frozen=True, slots=True)
class Probe:
    """A quantity, its predicted growth, and how to measure it.

    Args:
        name: what is measured.
        short: the same for a legend.
        grows: what is made larger.
        formula: the prediction in words.
        predicted: the same as an expression of a real number or a transseries.
        measure: ``(random, size) -> value``.
        sizes: to which it is grown.
    """

    name: str
    short: str
    grows: str
    formula: str
    predicted: Expression
    measure: Callable[[np.random.Generator, int], float]
    sizes: tuple[int, ...]


WIDTH, DRAWS = 64, 2000


def _rms(x: np.ndarray) -> np.ndarray:
    return np.sqrt((x**2).mean(-1, keepdims=True))


def _residual(random: np.random.Generator, depth: int, networks: int, norm: bool) -> float:
    """Mean square of x after x + W x, ``depth`` times from 1, in networks of their own W of variance 1/n.

    With ``norm``, W reads x after RMS norm.
    """
    x = random.normal(size=(networks, WIDTH))
    x /= _rms(x)
    for _ in range(depth):
        weights = random.normal(size=(networks, WIDTH, WIDTH)) / math.sqrt(WIDTH)
        x = x + np.einsum("mij,mj->mi", weights, x / _rms(x) if norm else x)
    return float((x**2).mean())


def _plain(random: np.random.Generator, depth: int) -> float:
    return _residual(random, depth, networks=96, norm=False)


def _normed(random: np.random.Generator, depth: int) -> float:
    return _residual(random, depth, networks=16, norm=True)


def _score(random: np.random.Generator, width: int) -> float:
    """Root mean square of the dot product of two random vectors."""
    a, b = random.normal(size=(2, DRAWS, width))
    return float(np.sqrt(((a * b).sum(-1) ** 2).mean()))


def _top(random: np.random.Generator, width: int) -> float:
    """Largest of n normal numbers, squared."""
    return float(np.square(random.normal(size=(DRAWS, width)).max(-1)).mean())


def _mean(random: np.random.Generator, samples: int) -> float:
    """Error of the mean of n samples."""
    return float(np.sqrt((random.normal(size=(DRAWS, samples)).mean(-1) ** 2).mean()))


def _extreme(x: transseries.Transseries) -> transseries.Transseries:
    """Square of where the largest of x normal numbers lies: its second term still counts at any size there is."""
    first = transseries.log(x)
    return 2 * first - transseries.log(first) + (2 * np.euler_gamma - math.log(4 * math.pi))


PROBES = (
    Probe(
        "mean square, plain residual",
        "residual",
        "depth",
        "2^L",
        lambda x: transseries.exp(x * math.log(2)),
        _plain,
        (4, 8, 12),
    ),
    Probe("mean square, pre-norm residual", "pre-norm", "depth", "1 + L", lambda x: x + 1, _normed, (8, 32, 128)),
    Probe("dot product of random vectors", "dot product", "width", "n^(1/2)", lambda x: x**0.5, _score, (16, 64, 256)),
    Probe("largest of n, squared", "largest", "width", "2 log n - log log n + c", _extreme, _top, (64, 256, 1024)),
    Probe("error of a mean", "mean", "samples", "n^(-1/2)", lambda x: x**-0.5, _mean, (16, 64, 256)),
)


def at(expression: Expression, size: float) -> float:
    """The expression at a real number: every monomial of its transseries evaluated there."""
    series = expression(transseries.infinity())
    return sum(float(value) * _monomial(monomial, float(size)) for monomial, value in series.terms)


def _monomial(monomial: transseries.Monomial, x: float) -> float:
    total = math.exp(sum(float(value) * _monomial(inner, x) for inner, value in monomial.exponent))
    for level, power in monomial.powers:
        base = x
        for _ in range(level):
            base = math.log(base)
        total *= base ** float(power)
    return total


def ranked() -> list[Probe]:
    """The probes, the fastest growth first, as comparison at infinity has it."""
    return [PROBES[place] for place in transseries.order([probe.predicted for probe in PROBES])]
