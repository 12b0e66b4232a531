"""The exact ledger of what an irreversible step would discard.

Momentum decays by m <- m n / d with n < d. On a grid of integers that forgets log2(d / n) bits per number and step; a
ledger that keeps exactly those bits makes the step reversible, and its length is what was paid. Python integers of any
size, so that no bit can be lost. Source: arXiv:1502.03492, section 3.1.
"""

from __future__ import annotations

import math


def decay(state: list[int], ledger: int, numerator: int, denominator: int) -> tuple[list[int], int]:
    """Each number times numerator / denominator; what the rounding forgets is pushed onto the ledger.

    Args:
        state: integers.
        ledger: non-negative; its digits in mixed base are the forgotten remainders.
        numerator, denominator: 0 < numerator < denominator.

    Example:
        >>> decay([100], 0, 7, 8)
        ([88], 0)
    """
    decayed = []
    for value in state:
        value, remainder = divmod(value, denominator)
        ledger = ledger * denominator + remainder
        ledger, digit = divmod(ledger, numerator)
        decayed.append(value * numerator + digit)
    return decayed, ledger


def undo(state: list[int], ledger: int, numerator: int, denominator: int) -> tuple[list[int], int]:
    """The inverse of :func:`decay`: the same bits back, the ledger shorter by what it gave."""
    restored = []
    for value in reversed(state):
        value, digit = divmod(value, numerator)
        ledger = ledger * numerator + digit
        ledger, remainder = divmod(ledger, denominator)
        restored.append(value * denominator + remainder)
    return restored[::-1], ledger


def audit(state: list[int], numerator: int, denominator: int, steps: int) -> tuple[int, int]:
    """Run a cycle of decays forth and back.

    Returns:
        Bits on the ledger half way, and how many numbers (the ledger among them) came back changed.
    """
    current, ledger = state, 0
    for _ in range(steps):
        current, ledger = decay(current, ledger, numerator, denominator)
    bits = ledger.bit_length()
    for _ in range(steps):
        current, ledger = undo(current, ledger, numerator, denominator)
    return bits, sum(a != b for a, b in zip(current, state, strict=True)) + (ledger != 0)


def forgotten(count: int, numerator: int, denominator: int, steps: int) -> float:
    """Bits that ``steps`` decays of ``count`` numbers must forget: count * steps * log2(denominator / numerator)."""
    return count * steps * math.log2(denominator / numerator)
