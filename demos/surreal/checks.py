"""What the certificates of the surreal demo claim, recomputed from their witnesses."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np

from demos.hahn_laws import field, inverses
from demos.surreal import conway, scaling, transseries


def _forms(numerators: np.ndarray, day: int) -> list[tuple[Fraction, conway.Form]]:
    values = [Fraction(int(each), 2**day) for each in numerators]
    return [(value, conway.form(conway.signs(value))) for value in values]


def arithmetic(left: np.ndarray, right: np.ndarray, sums: np.ndarray, products: np.ndarray, day: int) -> float:
    """Sums and products of Conway's forms (numerators over 2^day) that are not the claimed ones (over 4^day)."""
    wrong = 0
    for (_, x), (_, y), total, times in zip(_forms(left, day), _forms(right, day), sums, products, strict=True):
        wrong += conway.number(conway.signs_of(x + y)) != Fraction(int(total), 4**day)
        wrong += conway.number(conway.signs_of(x * y)) != Fraction(int(times), 4**day)
    return float(wrong)


def order(left: np.ndarray, right: np.ndarray, signs: np.ndarray, day: int) -> float:
    """Pairs that forms and sign expansions do not put in the claimed order: -1, 0 or 1."""
    wrong = 0
    for (a, x), (b, y), claimed in zip(_forms(left, day), _forms(right, day), signs, strict=True):
        wrong += (x > y) - (x < y) != claimed
        wrong += conway.compare_signs(conway.signs(a), conway.signs(b)) != claimed
    return float(wrong)


def birthdays(numerators: np.ndarray, days: np.ndarray, day: int) -> float:
    """Numbers (numerators over 2^day) that are not born on the day claimed, or have an older one where they lie."""
    wrong = 0
    for (value, form), born in zip(_forms(numerators, day), days, strict=True):
        low = max((conway.number(conway.signs_of(each)) for each in form.left), default=None)
        high = min((conway.number(conway.signs_of(each)) for each in form.right), default=None)
        older = [conway.number(each) for each in conway.born_by(int(born) - 1)]
        wrong += any((low is None or low < each) and (high is None or each < high) for each in older)
        wrong += conway.birthday(form) != born or conway.number(conway.signs_of(form)) != value
    return float(wrong)


def attention(
    x: np.ndarray, values: np.ndarray, q: np.ndarray, key: np.ndarray, sharpness: float
) -> tuple[np.ndarray, ...]:
    """Exponents, mantissas and answers of the trained reader on B sequences."""
    keys = x @ key
    power = 0.5 * np.log((keys**2).mean(-1) + 2.0**-60)
    mantissa = (keys * np.exp(-power)[..., None]) @ q / len(q) ** 0.5
    scores = mantissa + np.exp(sharpness) * power
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return power, mantissa, (weights * values).sum(-1) / weights.sum(-1)


def dominance(x: np.ndarray, values: np.ndarray, q: np.ndarray, key: np.ndarray, sharpness: float) -> float:
    r"""How far the trained reader is beyond :math:`\rho / (1 + \rho)` times the spread of values from its limit.

    The limit is the value of the token of the largest exponent; :math:`\rho = (N - 1) e^{M - \delta s}`.
    """
    power, mantissa, said = attention(x, values, q, key, sharpness)
    ranked = np.sort(power, -1)
    gap = (ranked[:, -1] - ranked[:, -2]) * np.exp(sharpness)
    odds = (x.shape[1] - 1) * np.exp(mantissa.max(-1) - mantissa.min(-1) - gap)
    limit = np.take_along_axis(values, power.argmax(-1)[:, None], -1)[:, 0]
    bound = odds / (1 + odds) * (values.max(-1) - values.min(-1))
    return float((np.abs(said - limit) - bound).max())


def scale(
    x: np.ndarray, values: np.ndarray, q: np.ndarray, key: np.ndarray, sharpness: float, factors: np.ndarray
) -> float:
    """Largest change of the trained reader's answers when all numbers of a sequence are multiplied by one factor."""
    said = attention(x, values, q, key, sharpness)[2]
    moved = [attention(factor * x, values, q, key, sharpness)[2] for factor in factors]
    return float(max(np.abs(each - said).max() for each in moved))


def growth(sizes: np.ndarray, measured: np.ndarray) -> float:
    """Largest relative distance of what was measured from what each probe predicts, and 1 for each wrong rank."""
    worst = 0.0
    for probe, grown, found in zip(scaling.PROBES, sizes, measured, strict=True):
        predicted = np.array([scaling.at(probe.predicted, int(size)) for size in grown])
        rate = np.log(found[-1] / found[0]) / np.log(predicted[-1] / predicted[0])
        worst = max(worst, abs(float(rate) - 1))
    order = scaling.ranked()
    wrong = sum(
        transseries.larger(fast.predicted, slow.predicted) <= 0 for fast, slow in zip(order, order[1:], strict=False)
    )
    return worst + wrong


CHECKS: dict[str, Callable[..., float]] = {
    "arithmetic": arithmetic,
    "order": order,
    "birthdays": birthdays,
    "field": field,
    "inverses": inverses,
    "dominance": dominance,
    "scale": scale,
    "growth": growth,
}
