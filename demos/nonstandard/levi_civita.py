r"""Derivatives by arithmetic with an infinitesimal: :math:`f(x + \varepsilon)` read off power by power.

Functions here act on numbers of the Levi-Civita field, Hahn series in :math:`\varepsilon = X^{-1}` with real
coefficients. Source: arXiv:1502.05767 (section 3.1.1, which computes the same from another side).
"""

from __future__ import annotations

import math
from collections.abc import Callable

from demos.hahn import EPSILON, Number, Series, X, compose, inverse, series, standard_part

Function = Callable[[Series], Series]


def _around(x: Series) -> tuple[float, Series]:
    """Standard part and infinitesimal rest of a finite number."""
    base = standard_part(x)
    return float(base), x - base


def exp(x: Series) -> Series:
    """e^x of a finite number, as far as x is known."""
    base, d = _around(x)
    return compose(lambda n: 1 / math.factorial(n), d) * math.exp(base)


def log(x: Series) -> Series:
    """Natural logarithm of a finite number whose standard part is positive."""
    base, d = _around(x)
    return compose(lambda n: math.log(base) if n == 0 else -((-1 / base) ** n) / n, d)


def sin(x: Series) -> Series:
    """Sine: derivatives repeat after four."""
    base, d = _around(x)
    cycle = math.sin(base), math.cos(base), -math.sin(base), -math.cos(base)
    return compose(lambda n: cycle[n % 4] / math.factorial(n), d)


def cos(x: Series) -> Series:
    """Cosine."""
    base, d = _around(x)
    cycle = math.cos(base), -math.sin(base), -math.cos(base), math.sin(base)
    return compose(lambda n: cycle[n % 4] / math.factorial(n), d)


def tanh(x: Series) -> Series:
    """Hyperbolic tangent, 1 - 2 / (e^{2x} + 1)."""
    return 1 - 2 * divide(series({0: 1}), exp(x * 2) + 1)


def divide(x: Series, y: Series) -> Series:
    """x / y, as far as both are known."""
    return x * (inverse(y) if y.lead is None or y.error is None else inverse(y, y.lead - y.error))


def derivatives(f: Function, x: Number, order: int) -> list[float]:
    r""":math:`f(x), f'(x), \dots, f^{(order)}(x)` from one evaluation at :math:`x + \varepsilon`.

    By Taylor's theorem the coefficient of :math:`\varepsilon^k` is :math:`f^{(k)}(x) / k!`, exactly: no step size, no
    difference quotient.

    Example:
        >>> derivatives(lambda x: x * x, 3.0, 2)
        [9.0, 6.0, 2.0]
    """
    value = f((EPSILON + x).cut(-order - 1))
    return [float(value.coefficient(-k)) * math.factorial(k) for k in range(order + 1)]


def compounded(rate: float, order: int) -> Series:
    r""":math:`(1 - r \varepsilon)^{1/\varepsilon}`: where infinitely many Euler steps of x' = -r x take 1 in a time 1.

    Its standard part is :math:`e^{-r}`; with :math:`1/N` for :math:`\varepsilon`, it is where N steps end.

    Example:
        >>> round(compounded(1.0, 1).coefficient(-1), 3)  # so N steps end about 0.184 / N too low
        -0.184
    """
    return exp(log((1 - EPSILON * rate).cut(-order - 2)) * X)
