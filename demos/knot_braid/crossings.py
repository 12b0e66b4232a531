"""Which laws of one crossing give the same to all spellings of a braid: the Yang-Baxter table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from demos.knot_braid import maths
from demos.result import Table

RELATIONS = {"R2": ((1, -1, 0), (2, -2, 0)), "R3": ((1, 2, 1), (2, 1, 2)), "far": ((1, 3, 0), (3, 1, 0))}
"""Two words each that are one braid; 0 is no crossing. R3 is Artin's relation, the Yang-Baxter equation."""

CHOICE = np.array([0, 1, 2, 4, 3])
"""Place of a letter among the choices of a token, -1 and -2 counted from behind."""


@dataclass(frozen=True, slots=True)
class Law:
    """What a crossing does.

    Args:
        does: in words; of pair laws, to (a, b).
        ends: what a word leaves, an array.
        strands: on how many it acts here.
        reads: what the closed braid gives under it.
    """

    does: str
    ends: Callable[[Int[Array, " L"]], Array]
    strands: int
    reads: str


def pair(does: str, reads: str, start: np.ndarray, keep: float | None) -> Law:
    """A law of :func:`demos.knot_braid.maths.passed` on values."""
    return Law(does, lambda word: maths.passed(jnp.asarray(start), word, keep)[-1], len(start), reads)


def tensor(does: str, reads: str, turn: float) -> Law:
    """A 1 + e / A on four factors of dimension 2 each, where e e = -(A^2 + A^-2) e and A = e^(i turn)."""
    a = np.exp(1j * turn)
    bend = np.zeros((4, 4), complex)
    bend[1:3, 1:3] = [[-(a**2), 1], [1, -(a**-2)]]
    found = [np.eye(16, dtype=complex)]
    for letter in (1, 2, 3, -3, -2, -1):
        local = (np.eye(4) * a + bend / a) if letter > 0 else (np.eye(4) / a + bend * a)
        place = abs(letter) - 1
        found.append(np.kron(np.kron(np.eye(2**place), local), np.eye(2 ** (2 - place))))
    matrices = jnp.asarray(np.stack(found))
    return Law(does, lambda word: matrices[word[0]] @ matrices[word[1]] @ matrices[word[2]], 4, reads)


def transport(does: str, reads: str, angle: float, law: str) -> Law:
    """The unitary matrices that attention carries."""

    def ends(word: Int[Array, " L"]) -> Float[Array, "4 2"]:
        choice = jax.nn.one_hot(jnp.asarray(CHOICE)[word], 5, dtype=jnp.float64)[None, :, :, None]
        return maths.frames(choice, maths.generators(jnp.full((1, 1), angle), law))[0, -1]

    return Law(does, ends, 3, reads)


def laws(random: np.random.Generator, keep: float) -> list[Law]:
    """Those that see braids, then those that see drawings."""
    start = random.normal(size=(4, 8))
    angle = float(random.uniform(0.3, 1.2))
    return [
        pair("b, a", "permutation", start, 1.0),
        pair("b, t a + (1 - t) b", "Alexander", start, keep),
        tensor("A + e / A on tensors", "Jones", float(random.uniform(0.2, 0.6))),
        transport("ybe: Burau by quaternions", "the layer's strands", angle, "ybe"),
        pair("b, a + b", "the drawing", start, None),
        transport("restricted: turns, two axes", "the drawing", angle, "restricted"),
    ]


def residuals(law: Law) -> Mapping[str, float]:
    """Largest difference of what the two sides of each relation leave."""
    usable = {name: sides for name, sides in RELATIONS.items() if np.abs(sides).max() < law.strands}
    ends = np.asarray(jax.jit(jax.vmap(law.ends))(np.array([word for sides in usable.values() for word in sides])))
    return {name: float(np.abs(ends[2 * i] - ends[2 * i + 1]).max()) for i, name in enumerate(usable)}


def table(random: np.random.Generator, keep: float) -> Table:
    """Every law by every relation."""
    rows = []
    for law in laws(random, keep):
        found = residuals(law)
        rows.append((law.does, *(f"{found[name]:.0e}" if name in found else "" for name in RELATIONS), law.reads))
    return Table(
        ("a crossing makes of (a, b)", *RELATIONS, "what is read off"),
        tuple(rows),
        title="Errors of the relations under six laws: R3 is the Yang-Baxter equation",
    )
