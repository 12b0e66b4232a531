"""A memory whose cells are the pieces of an attractor, and what stands beside it at equal bytes.

A word over four letters is written as the point f_a1(f_a2(... )) of the square towards whose corners the maps shrink,
and read by a router: which piece is the point in, and where in that piece? The first d letters name one of 4^d cells.
Legend: N facts, d letters of a word, V numbers of a value.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from demos.ifs_fractal import maths
from demos.training import Weights, descend

CORNERS = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
ARITY = len(CORNERS)
VALUE = 4  # numbers of a value
LONGEST, ROWS = 64, 256  # letters of a word, and words that are written or read at once: one compiled program for all
RATE = 0.01  # of the control that is trained


def maps(ratio: float) -> maths.System:
    """The four maps, one towards each corner."""
    return maths.similarities(ratio, jnp.asarray(CORNERS))


def paired(ratio: float) -> np.ndarray:
    """Two levels in one: the 16 maps f_i f_j shrink by s^2 towards these points, (c_i + s c_j) / (1 + s)."""
    return ((CORNERS[:, None] + ratio * CORNERS[None]) / (1 + ratio)).reshape(-1, 2)


def write(ratio: float, words: Int[np.ndarray, "N d"]) -> Float[np.ndarray, "N 2"]:
    """The points of some words of at most ``LONGEST`` letters, from the middle of the square."""
    padded = np.pad(words, ((0, -len(words) % ROWS), (0, LONGEST - words.shape[1])), constant_values=ARITY)
    points = [_written(ratio, block) for block in padded.reshape(-1, ROWS, LONGEST)]
    return np.concatenate(points)[: len(words)]


@jax.jit
def _written(ratio: float, words: Int[Array, "rows longest"]) -> Float[Array, "rows 2"]:
    """Points of words that end with any number of letters ``ARITY``, which stand for no map."""
    matrices, offsets = maps(ratio)
    system = jnp.concatenate([matrices, jnp.eye(2)[None]]), jnp.concatenate([offsets, jnp.zeros((1, 2))])
    return jax.vmap(partial(maths.point, system), (0, None))(words, jnp.full(2, 0.5))


def route(ratio: float, points: Float[np.ndarray, "N 2"], depth: int) -> Int[np.ndarray, "N depth"]:
    """Which piece each point is nearest to, then the same for where it is in that piece, ``depth`` times."""
    padded = np.pad(points, ((0, -len(points) % ROWS), (0, 0)))
    words = [_routed(ratio, block) for block in padded.reshape(-1, ROWS, 2)]
    return np.concatenate(words)[: len(points), :depth]


@jax.jit
def _routed(ratio: float, points: Float[Array, "rows 2"]) -> Int[Array, "rows longest"]:
    """The first letters of the address of each point."""
    matrices, offsets = maps(ratio)
    inverses, middles = jnp.linalg.inv(matrices), matrices @ jnp.full(2, 0.5) + offsets

    def step(x: Array, _: None) -> tuple[Array, Array]:
        symbol = jnp.linalg.norm(x[:, None] - middles, axis=-1).argmin(1)
        return jnp.einsum("nij,nj->ni", inverses[symbol], x - offsets[symbol]), symbol

    return jax.lax.scan(step, points, None, length=LONGEST)[1].T


def cell(words: np.ndarray) -> np.ndarray:
    """Number of the cell that a word names: its first symbol is the most significant digit."""
    return words @ ARITY ** np.arange(words.shape[1])[::-1]


def unnumbered(cells: np.ndarray, depth: int) -> np.ndarray:
    """The words of some cells."""
    return cells[:, None] // ARITY ** np.arange(depth)[::-1] % ARITY


def stored(cells: np.ndarray, places: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The cells after writing values one by one; the last one stays."""
    cells = cells.copy()
    last = {int(place): index for index, place in enumerate(places)}
    cells[list(last)] = values[list(last.values())]
    return cells


def letters(random: np.random.Generator, ratio: float, words: int = 32) -> int:
    """How many letters of every one of some random words the router reads back from one point in float64."""
    drawn = random.integers(0, ARITY, (words, LONGEST))
    right = route(ratio, write(ratio, drawn), LONGEST) == drawn
    return int(np.cumprod(right, 1).sum(1).min())


def expected_letters(ratio: float) -> float:
    """Letters until a rounding error of 2^-53, grown by 1 / s per letter, is half the gap 1 - 2 s; 0 without a gap."""
    return max(1 + np.log(2.0**-52 / (1 - 2 * ratio)) / np.log(ratio), 0.0) if ratio < 0.5 else 0.0


def survivors(cells: int, writes: Any) -> np.ndarray:
    """Expected share of facts that can still be read after writing at random: M / n (1 - (1 - 1 / M)^n)."""
    writes = np.asarray(writes, float)
    return cells / writes * (1 - (1 - 1 / cells) ** writes)


class Perceptron(nn.Module):
    """Control: a hidden layer from the symbols of a word to its value, trained."""

    hidden: int

    @nn.compact
    def __call__(self, hot: Float[Array, "N inputs"]) -> Float[Array, "N V"]:
        inside = nn.tanh(nn.Dense(self.hidden, param_dtype=jnp.float64)(hot))
        return nn.Dense(VALUE, param_dtype=jnp.float64)(inside)


def perceptron(depth: int) -> Perceptron:
    """The largest one that has no more numbers than the cells of that depth."""
    inputs = ARITY * depth
    return Perceptron((ARITY**depth * VALUE - VALUE) // (inputs + 1 + VALUE))


def hot(words: np.ndarray) -> np.ndarray:
    """One input for each symbol at each place."""
    return np.eye(ARITY)[words].reshape(len(words), -1)


def initial(random: np.random.Generator, model: Perceptron, depth: int) -> Weights:
    """Normal weights of variance 1 / fan-in, no biases."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, ARITY * depth), jnp.float64))
    return jax.tree.map(
        lambda leaf: random.normal(size=leaf.shape) * (leaf.shape[0] ** -0.5 if leaf.ndim > 1 else 0.0), shapes
    )


def taught(weights: Weights, words: np.ndarray, values: np.ndarray, *, model: Perceptron, steps: int) -> Weights:
    """The control after some steps on the mean squared error of the given facts alone."""
    depth = words.shape[1]
    wanted, shown = np.zeros((2, ARITY**depth, VALUE))
    wanted[cell(words)], shown[cell(words)] = values, 1.0
    return _taught(weights, hot(unnumbered(np.arange(len(wanted)), depth)), wanted, shown, model=model, steps=steps)


@partial(jax.jit, static_argnames=("model", "steps"))
def _taught(weights: Weights, inputs: Array, wanted: Array, shown: Array, *, model: Perceptron, steps: int) -> Weights:
    """Adam on all words at once, counting those shown: one compiled program for any number of facts."""

    def loss(current: Weights, _: Array) -> Array:
        return jnp.sum(shown * (jnp.asarray(model.apply(current, inputs)) - wanted) ** 2) / shown.sum()

    return descend(loss, weights, (jnp.arange(steps),), RATE)[0]


def guess(weights: Weights, words: np.ndarray) -> np.ndarray:
    """What the control says of some words."""
    first, second = (weights["params"][f"Dense_{layer}"] for layer in (0, 1))
    inside = np.tanh(hot(words) @ first["kernel"] + first["bias"])
    return np.asarray(inside @ second["kernel"] + second["bias"])


def listed(points: np.ndarray, values: np.ndarray, asked: np.ndarray, room: int) -> np.ndarray:
    """Control: softmax over the last ``room`` facts, kept with their keys, at infinite sharpness: the nearest key's."""
    kept, said = points[-room:], values[-room:]
    return said[np.linalg.norm(asked[:, None] - kept, axis=-1).argmin(1)]


def room(depth: int) -> int:
    """Facts that a list of keys (2 numbers) and values can keep in the bytes of the cells."""
    return ARITY**depth * VALUE // (VALUE + CORNERS.shape[1])


def forgetting(
    random: np.random.Generator, ratio: float, depth: int, tasks: Sequence[np.ndarray], steps: int
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Teach several tasks, one after the other, and test the first one after each.

    Args:
        random: draws the values and the control's weights.
        ratio: contraction of the memory's maps.
        depth: levels of the memory.
        tasks: words (N, d) of each.
        steps: of the control's training, per task.

    Returns:
        Root mean squared error on the first task by learner and task; and the points, values and cells of the memory.
    """
    model = perceptron(depth)
    points = write(ratio, np.concatenate(tasks))
    places = cell(route(ratio, points, depth))
    values = random.normal(size=(len(points), VALUE))
    cells, weights = np.zeros((ARITY**depth, VALUE)), initial(random, model, depth)
    first = len(tasks[0])
    off: dict[str, list[float]] = {"address memory": [], "MLP": [], "list of keys": []}
    for task, words in enumerate(tasks):
        own = slice(task * first, task * first + len(words))
        cells = stored(cells, places[own], values[own])
        weights = taught(weights, words, values[own], model=model, steps=steps)
        said = (
            cells[places[:first]],
            guess(weights, tasks[0]),
            listed(points[: own.stop], values[: own.stop], points[:first], room(depth)),
        )
        for errors, answer in zip(off.values(), said, strict=True):
            errors.append(float(np.sqrt(((answer - values[:first]) ** 2).mean())))
    return (
        {name: np.array(errors) for name, errors in off.items()},
        {"points": points, "values": values, "cells": cells},
    )


def unseen(random: np.random.Generator, depth: int, steps: int) -> dict[str, float]:
    """Error on words never shown of a rule that adds one value per symbol; half of all words are shown."""
    words = unnumbered(random.permutation(ARITY**depth), depth)
    values = hot(words) @ random.normal(size=(ARITY * depth, VALUE)) / depth**0.5
    half, model = len(words) // 2, perceptron(depth)
    weights = taught(initial(random, model, depth), words[:half], values[:half], model=model, steps=steps)
    cells = stored(np.zeros((ARITY**depth, VALUE)), cell(words[:half]), values[:half])
    said = {"address memory": cells[cell(words[half:])], "MLP": guess(weights, words[half:])}
    return {name: float(np.sqrt(((answer - values[half:]) ** 2).mean())) for name, answer in said.items()}
