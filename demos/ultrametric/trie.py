"""The tree of p-adic balls as flat arrays, beside a tree of dictionaries and the search through all keys.

The ball of level l around x is the residue x mod p^l. Its place in an array is (p^l - 1) / (p - 1) + (x mod p^l), so a
prefix is looked up in one step, without pointers and without sorting. Legend: N keys, K levels below the root, p prime.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Int

Branch = dict[int, "Branch"]


def size(base: int, depth: int) -> int:
    """Balls of levels 0 to ``depth``."""
    return (base ** (depth + 1) - 1) // (base - 1)


def balls(x: Int[Array, "*shape"] | np.ndarray, base: int, depth: int) -> Int[Array, "*shape levels"]:
    """Places of the nested balls around each number, the whole of Z_p first."""
    power = np.array([base**level for level in range(depth + 1)])
    return jnp.asarray(x)[..., None] % power + (power - 1) // (base - 1)


@partial(jax.jit, static_argnames=("base", "depth"))
def insert(occupied: Bool[Array, " nodes"], x: Int[Array, " N"], *, base: int, depth: int) -> Bool[Array, " nodes"]:
    """Mark every ball around every key: depth + 1 writes per key."""
    return occupied.at[balls(x, base, depth)].set(True)


@partial(jax.jit, static_argnames=("base", "depth"))
def longest(occupied: Bool[Array, " nodes"], x: Int[Array, " N"], *, base: int, depth: int) -> Int[Array, " N"]:
    """Digits that each number shares with the nearest stored key: depth + 1 reads, however many keys there are."""
    return occupied[balls(x, base, depth)].sum(-1) - 1


@partial(jax.jit, static_argnames=("base", "depth"))
def search(keys: Int[Array, " N"], x: Int[Array, " M"], *, base: int, depth: int) -> Int[Array, " M"]:
    """The same by looking at all keys."""
    power = np.array([base**level for level in range(1, depth + 1)])

    def one(number: Array) -> Array:
        return (((keys - number)[:, None] % power) == 0).sum(-1).max()

    return jax.lax.map(one, x)


def grow(root: Branch, number: int, base: int, depth: int) -> None:
    """Insert one key into a tree of dictionaries, the reference."""
    for _ in range(depth):
        root = root.setdefault(number % base, {})
        number //= base


def descend(root: Branch, number: int, base: int, depth: int) -> int:
    """Digits shared with the nearest key of a tree of dictionaries."""
    for level in range(depth):
        if number % base not in root:
            return level
        root = root[number % base]
        number //= base
    return depth
