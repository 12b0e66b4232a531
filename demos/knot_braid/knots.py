"""Braids that close to knots, and braids that an invariant takes for others."""

from __future__ import annotations

from demos.knot_braid.words import Word, inverse

KNOTS: dict[str, Word] = {
    "trefoil": (1, 1, 1),
    "figure-eight": (1, -2, 1, -2),
    "cinquefoil": (1, 1, 1, 1, 1),
    "three-twist": (1, 1, 1, 2, -1, 2),
    "stevedore": (1, 1, 2, -1, -3, 2, -3),
    "conway": (-3, -3, 1, 1, 2, 2, -3, 1, -2, 1, -2),
}
"""By the names in use; ``conway`` is Conway's knot or its mutant, the Kinoshita-Terasaka knot.

The Alexander polynomial of both is 1, and no other knot with at most 11 crossings but the unknot has that.
"""


def _commutator(one: Word, other: Word) -> Word:
    return (*one, *other, *inverse(one), *inverse(other))


_FIRST = (-3, 2, 1, 1, 2, 4, 4, 4, 3, 2)
_SECOND = (-4, 3, 2, -1, -1, 2, 1, 1, 2, 2, 1, 4, 4, 4, 4, 4)

UNSEEN: Word = _commutator((*inverse(_FIRST), 4, *_FIRST), (*inverse(_SECOND), 4, 3, 2, 1, 1, 2, 3, 4, *_SECOND))
"""A braid of 5 strands that is not trivial, and whose Burau matrix is: Bigelow, arXiv:math/9904100."""
