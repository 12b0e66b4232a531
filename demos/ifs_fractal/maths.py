"""Iterated function systems, and attention among their addresses, as pure functions: the executable definitions.

Twins of ``nanochat/attention/fractal.py``. A system of m affine contractions of R^n is a pair: matrices (m, n, n) and
offsets (m, n). Shape letters: H query heads, K key/value heads, N queries (the last N of the S positions), S keys, D
channels, d levels of an address over m symbols, P points of a set.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

MIXTURE = 2.0**-6
"""Share of the uniform distribution in every level of an address: no overlap is 0."""

NEAR = 2.0**-10
"""Distance below which two histories count as one."""

System = tuple[Float[Array, "m n n"], Float[Array, "m n"]]


def similarities(ratio: float, corners: Float[Array, "m n"]) -> System:
    """Maps x -> s x + (1 - s) c, which draw the plane towards each corner; c is the fixed point of its map.

    Example:
        >>> similarities(1 / 3, jnp.array([[0.0], [1.0]]))    # the Cantor set
    """
    count, size = corners.shape
    return ratio * jnp.broadcast_to(jnp.eye(size), (count, size, size)), (1 - ratio) * corners


def contraction(system: System) -> Float[Array, ""]:
    """The largest factor by which a map can stretch a distance: its largest singular value."""
    return jnp.linalg.norm(system[0], 2, axis=(1, 2)).max()


def hutchinson(system: System, points: Float[Array, "P n"]) -> Float[Array, "mP n"]:
    """The union of the images of a set, whose fixed point is the attractor. Source: doi:10.1512/iumj.1981.30.30055."""
    matrices, offsets = system
    return (jnp.einsum("mij,pj->mpi", matrices, points) + offsets[:, None]).reshape(-1, points.shape[1])


def approach(system: System, points: Float[Array, "P n"], steps: int) -> Float[Array, "Q n"]:
    """``steps`` applications of :func:`hutchinson`; m^steps times as many points."""
    for _ in range(steps):
        points = hutchinson(system, points)
    return points


def point(system: System, address: Int[Array, " d"], start: Float[Array, " n"]) -> Float[Array, " n"]:
    """f_a1(f_a2(... f_ad(start))): the first symbol names the largest piece of the attractor."""
    matrices, offsets = system

    def step(x: Array, symbol: Array) -> tuple[Array, None]:
        return matrices[symbol] @ x + offsets[symbol], None

    return jax.lax.scan(step, start, address, reverse=True)[0]


def hausdorff(one: Float[Array, "P n"], other: Float[Array, "Q n"]) -> Float[Array, ""]:
    """The largest distance from a point of either set to the nearest of the other."""
    distances = jnp.linalg.norm(one[:, None] - other[None], axis=-1)
    return jnp.maximum(distances.min(1).max(), distances.min(0).max())


def collage_bound(system: System, target: Float[Array, "P n"]) -> Float[Array, ""]:
    """How far the attractor can be from a set: the distance of the set to its own collage, over 1 - s."""
    return hausdorff(target, hutchinson(system, target)) / (1 - contraction(system))


def similarity_dimension(ratios: Float[Array, " m"], halvings: int = 60) -> Float[Array, ""]:
    """The root D of Moran's equation, the sum of r^D being 1; the box dimension where pieces do not overlap."""

    def halve(bracket: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], None]:
        low, high = bracket
        middle = (low + high) / 2
        more = (ratios**middle).sum() > 1
        return (jnp.where(more, middle, low), jnp.where(more, high, middle)), None

    start = jnp.zeros(()), jnp.log(len(ratios)) / -jnp.log(ratios.max())
    (low, high), _ = jax.lax.scan(halve, start, None, length=halvings)
    return (low + high) / 2


def box_count(points: Float[Array, "P n"], size: float) -> int:
    """Boxes of the grid of that size that hold a point."""
    return len(jnp.unique(jnp.floor(points / size).astype(jnp.int32), axis=0))


def box_dimension(points: Float[Array, "P n"], base: float, levels: int) -> Float[Array, ""]:
    """Slope of log boxes over log 1/size, for sizes base^-1 ... base^-levels."""
    scale = jnp.arange(1, levels + 1) * jnp.log(base)
    counts = jnp.array([box_count(points, base**-level) for level in range(1, levels + 1)])
    return jnp.polyfit(scale, jnp.log(counts.astype(scale.dtype)), 1)[0]


def addresses(
    x: Float[Array, "... D"], symbols: Float[Array, "dm D"], arity: int, sharpness: float
) -> Float[Array, "... d m"]:
    """Distributions of the symbol of every level of a head vector's address."""
    soft = jax.nn.softmax((sharpness * (x @ symbols.T)).reshape(*x.shape[:-1], -1, arity))
    return soft * (1 - MIXTURE) + MIXTURE / arity


def path_features(levels: Float[Array, "... d m"]) -> Float[Array, "... paths"]:
    """Probabilities of all m^d paths, the first level varying slowest."""
    found = levels[..., 0, :]
    for level in range(1, levels.shape[-2]):
        joined = found[..., :, None] * levels[..., level, None, :]
        found = joined.reshape(*joined.shape[:-2], -1)
    return found


def _seen(queries: int, keys: int) -> Array:
    return jnp.tril(jnp.ones((queries, keys), bool), keys - queries)


def _mean(scores: Float[Array, "H N S"], v: Float[Array, "K S D"]) -> Float[Array, "H N D"]:
    """Softmax over what a query sees."""
    masked = jnp.where(_seen(*scores.shape[1:]), scores, -jnp.inf)
    return jax.nn.softmax(masked, -1) @ jnp.repeat(v, len(scores) // len(v), 0)


def path_attention(
    query: Float[Array, "H N d m"], key: Float[Array, "K S d m"], v: Float[Array, "K S D"]
) -> Float[Array, "H N D"]:
    """Softmax of the log of the product of overlaps along the path, by all pairs."""
    overlaps = jnp.einsum("hnlm,hslm->hnsl", query, jnp.repeat(key, len(query) // len(key), 0))
    return _mean(jnp.log(overlaps).sum(-1), v)


def histories(
    t: Float[Array, "K N D"], ratio: float, start: Float[Array, "K D"] | None = None
) -> Float[Array, "K N D"]:
    """h_t = s h_{t-1} + t_t: the address of a point whose first symbol is the latest token."""
    first = jnp.zeros_like(t[:, 0]) if start is None else start

    def step(h: Array, x: Array) -> tuple[Array, Array]:
        h = ratio * h + x
        return h, h

    return jnp.swapaxes(jax.lax.scan(step, first, jnp.swapaxes(t, 0, 1))[1], 0, 1)


def unit_steps(x: Float[Array, "... D"]) -> Float[Array, "... D"]:
    """Directions; zeros stay zeros."""
    return x * jax.lax.rsqrt(jnp.sum(x * x, -1, keepdims=True) + 2.0**-60)


def suffix_attention(
    after: Float[Array, "K N D"], before: Float[Array, "K S D"], v: Float[Array, "K S D"], tau: Float[Array, " H"]
) -> Float[Array, "H N D"]:
    """Softmax of -tau log |h_i - h_{j-1}|: ``before`` holds the history that token j followed."""
    square = jnp.sum((after[:, :, None] - before[:, None]) ** 2, -1)
    logs = 0.5 * jnp.log(jnp.maximum(square, NEAR**2))
    return _mean(-tau[:, None, None] * jnp.repeat(logs, len(tau) // len(after), 0), v)
