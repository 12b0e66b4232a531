"""Numbers as words, for tables and closing sentences."""

from __future__ import annotations

SAME = 1.006  # ratios below are one number in two digits
NEAR = 1.095  # ratios below are told in percent: as a multiple they would all be "1"


def number(value: float) -> str:
    """Three significant digits."""
    return f"{value:.3g}"


def against(value: float, other: float) -> str:
    """How one number compares with another: ``12 times less than``, ``3 % more than``, ``as much as``.

    Example:
        >>> against(0.5, 1.0), against(1.03, 1.0), against(1.0, 1.001)
        ('2 times less than', '3 % more than', 'as much as')
    """
    way = "less" if value < other else "more"
    if min(value, other) <= 0:
        return "as much as" if value == other else f"{way} than"
    ratio = max(value / other, other / value)
    if ratio < SAME:
        return "as much as"
    if ratio < NEAR:
        return f"{100 * abs(value / other - 1):.0f} % {way} than"
    digits = "over 1000" if ratio > 1000 else f"{ratio:.0f}" if ratio >= 10 else f"{ratio:.2g}"
    return f"{digits} times {way} than"
