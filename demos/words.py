"""Numbers as words, for tables and closing sentences."""

from __future__ import annotations


def number(value: float) -> str:
    """Three significant digits."""
    return f"{value:.3g}"


def against(value: float, other: float) -> str:
    """How one positive number compares with another: ``12 times less than``, ``1.5 times more than``, ``as much as``.

    Example:
        >>> against(0.5, 1.0), against(24.0, 2.0), against(1.0, 1.001)
        ('2 times less than', '12 times more than', 'as much as')
    """
    if min(value, other) <= 0:
        return "as much as" if value == other else "less than" if value < other else "more than"
    ratio = max(value / other, other / value)
    if ratio < 1.05:
        return "as much as"
    digits = "over 1000" if ratio > 1000 else f"{ratio:.0f}" if ratio >= 10 else f"{ratio:.2g}"
    return f"{digits} times {'less' if value < other else 'more'} than"
