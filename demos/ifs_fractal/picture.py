"""A picture as the fixed point of contractions: each small block is a larger block of the same picture, shrunk.

Partitioned iterated function system. Source: doi:10.1109/83.128028 (Jacquin, 1992). A picture is an array (n, n) of
greys between 0 and 1; ranges are its blocks of 4 x 4, domains its blocks of 8 x 8 averaged to 4 x 4, turned and
mirrored in 8 ways. Averages, turns and rearrangements do not stretch the largest difference, so the factor on the greys
is the contraction. Legend: R ranges, D domains times 8.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

BLOCK = 4  # pixels on a side of a range
NUMBERS = 4  # that describe a range: which domain, which way round, factor, shift


@dataclass(frozen=True, slots=True)
class Code:
    """What stands for a picture: of each range its domain (times 8, plus the way round), factor and shift of greys."""

    domain: Int[Array, " R"]
    factor: Float[Array, " R"]
    shift: Float[Array, " R"]


def ranges(image: Float[Array, "n n"]) -> Float[Array, "R 4 4"]:
    """Blocks of a picture, row by row."""
    side = image.shape[0] // BLOCK
    return image.reshape(side, BLOCK, side, BLOCK).swapaxes(1, 2).reshape(-1, BLOCK, BLOCK)


def assembled(blocks: Float[Array, "R 4 4"]) -> Float[Array, "n n"]:
    """Inverse of :func:`ranges`."""
    side = round(blocks.shape[0] ** 0.5)
    return blocks.reshape(side, side, BLOCK, BLOCK).swapaxes(1, 2).reshape(side * BLOCK, side * BLOCK)


def halved(image: Float[Array, "n n"]) -> Float[Array, "h h"]:
    """Means of 2 x 2 pixels."""
    half = image.shape[0] // 2
    return image.reshape(half, 2, half, 2).mean((1, 3))


def domains(image: Float[Array, "n n"]) -> Float[Array, "D 4 4"]:
    """Blocks of the halved picture, two pixels apart, each in 8 ways: four turns, and these mirrored."""
    small = halved(image)
    starts = jnp.arange(0, small.shape[0] - BLOCK + 1, 2)
    places = starts[:, None] + jnp.arange(BLOCK)
    blocks = small[places[:, None, :, None], places[None, :, None, :]].reshape(-1, BLOCK, BLOCK)
    ways = [jnp.rot90(side, turn, (1, 2)) for side in (blocks, blocks[:, :, ::-1]) for turn in range(4)]
    return jnp.stack(ways, 1).reshape(-1, BLOCK, BLOCK)


def collage(image: Float[Array, "n n"], code: Code) -> Float[Array, "n n"]:
    """One application of the contractions of a code."""
    chosen = domains(image)[code.domain]
    return assembled(code.factor[:, None, None] * chosen + code.shift[:, None, None])


@jax.jit
def encoded(image: Float[Array, "n n"] | np.ndarray, most: float) -> tuple[Array, Array, Array]:
    """Domain, factor (at most ``most`` in size) and shift of each range by least squares."""
    flat, wanted = (blocks(jnp.asarray(image)).reshape(-1, BLOCK**2) for blocks in (domains, ranges))
    means, levels = flat.mean(1), wanted.mean(1)
    centred, target = flat - means[:, None], wanted - levels[:, None]
    power, product = (centred**2).sum(1), target @ centred.T
    factor = jnp.where(power > 1e-12, product / jnp.maximum(power, 1e-12), 0.0).clip(-most, most)
    domain = (factor**2 * power - 2 * factor * product).argmin(1)
    best = jnp.take_along_axis(factor, domain[:, None], 1)[:, 0]
    return domain, best, levels - best * means[domain]


def encode(image: np.ndarray, most: float) -> Code:
    """The code whose collage is nearest to the picture, block by block."""
    return Code(*encoded(image, most))


def settled(factor: float) -> int:
    """Steps after which nothing is left of the start in float64."""
    return int(np.ceil(-40 / np.log(factor)))


@partial(jax.jit, static_argnames="steps")
def _decoded(start: Array, domain: Array, factor: Array, shift: Array, steps: int) -> Float[Array, "steps n n"]:
    code = Code(domain, factor, shift)

    def step(image: Array, _: None) -> tuple[Array, Array]:
        image = collage(image, code)
        return image, image

    return jax.lax.scan(step, start, None, length=steps)[1]


def decoded(code: Code, start: np.ndarray, steps: int) -> np.ndarray:
    """The pictures after 1, 2, ... ``steps`` applications to any start."""
    return np.asarray(_decoded(jnp.asarray(start), code.domain, code.factor, code.shift, steps))


def landscape(random: np.random.Generator, size: int) -> np.ndarray:
    """Sky, sun and two ridges whose heights are themselves drawn by halving; row 0 is the top."""
    across = (np.arange(size) + 0.5) / size
    x, y = np.meshgrid(across, across[::-1])
    image = 0.45 + 0.25 * y
    image = np.where((x - 0.7) ** 2 + (y - 0.75) ** 2 < 0.13**2, 1.0, image)
    for base, rough, grey in ((0.42, 0.28, 0.35), (0.2, 0.2, 0.05)):
        ridge = base + displaced(random, size, rough)
        image = np.where(y < ridge, grey + 0.35 * np.maximum(ridge - y, 0), image)
    return image


def displaced(random: np.random.Generator, size: int, rough: float) -> np.ndarray:
    """Heights by midpoint displacement, each level half as rough as the one before."""
    heights = random.normal(size=2) * rough / 2
    while len(heights) < size:
        middles = (heights[1:] + heights[:-1]) / 2 + rough / 2 * random.normal(size=len(heights) - 1)
        joined = np.empty(2 * len(heights) - 1)
        joined[::2], joined[1::2] = heights, middles
        heights, rough = joined, rough / 2
    return heights[:size]
