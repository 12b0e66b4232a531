"""What a layer is asked about a word in s1, s2 and their inverses, after each letter. Plain numpy.

``state``: where the braid is in a finite group. s1 and s2 become the matrices (1 1; 0 1) and (1 0; -1 1) modulo m,
which satisfy Artin's relation: Burau at t = -1. Modulo 2 there are 6, as many as orders of three strands, modulo 3
there are 24. ``repeated``: how many of the four letters occurred more than once.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np

LETTERS = (1, 2, -1, -2)
TRAINED = 16
"""Letters of a word in training."""

MATRICES = np.array([[[1, 1], [0, 1]], [[1, 0], [-1, 1]], [[1, -1], [0, 1]], [[1, 0], [1, 1]]])
"""Of each letter."""


@cache
def steps(modulus: int) -> np.ndarray:
    """State after state s and letter l, at [s, l]; the trivial braid is state 0."""
    states, table = [np.eye(2, dtype=int)], list[list[int]]()
    place = {states[0].tobytes(): 0}
    for before in states:
        following = [(before @ letter) % modulus for letter in MATRICES]
        for after in following:
            if after.tobytes() not in place:
                place[after.tobytes()] = len(states)
                states.append(after)
        table.append([place[after.tobytes()] for after in following])
    return np.array(table)


def state(letters: np.ndarray, modulus: int) -> np.ndarray:
    """The state after each letter; letters are places in ``LETTERS``."""
    table, now, found = steps(modulus), np.zeros(letters.shape[:-1], int), []
    for place in range(letters.shape[-1]):
        now = table[now, letters[..., place]]
        found.append(now)
    return np.stack(found, -1)


def repeated(letters: np.ndarray, modulus: int) -> np.ndarray:
    """How many of the four letters occurred more than once up to each place."""
    return ((letters[..., None] == np.arange(len(LETTERS))).cumsum(-2) > 1).sum(-1)


TASKS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {"state": state, "repeated": repeated}
