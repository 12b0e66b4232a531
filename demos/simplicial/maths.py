"""2-simplicial attention, the executable definition over all triples, and its form without triples; diffusion.

Twin of ``nanochat/kernels/simplicial``. Shape letters: N queries, S keys, R second keys, D channels.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array
from jax.nn import softmax
from jaxtyping import Bool, Float


def trilinear(q: Float[Array, "N D"], k: Float[Array, "S D"], second: Float[Array, "R D"]) -> Float[Array, "N S R"]:
    """Sum of products of three channels, for all triples."""
    return jnp.einsum("id,jd,ld->ijl", q, k, second)


def determinant(q: Float[Array, "N D"], k: Float[Array, "S D"], second: Float[Array, "R D"]) -> Float[Array, "N S R"]:
    """Sum of det(q, k, k') = k . (k' x q) over the vectors (c, c + D//3, c + 2 (D//3)), for all triples.

    The D mod 3 channels left over enter by their product.
    """
    third = q.shape[-1] // 3
    vectors = [x[:, : 3 * third].reshape(len(x), 3, third).swapaxes(1, 2) for x in (q, k, second)]
    normals = jnp.cross(vectors[2][None], vectors[0][:, None])
    rest = trilinear(*(x[:, 3 * third :] for x in (q, k, second)))
    return jnp.einsum("ilcx,jcx->ijl", normals, vectors[1]) + rest


FORMS = {"trilinear": trilinear, "determinant": determinant}
"""Forms by the name that ``--simplicial-form`` takes."""


def distances(queries: int, keys: int) -> Float[Array, "N S"]:
    """How far each key lies behind each query; the N queries are the last N of S positions."""
    return (jnp.arange(keys - queries, keys)[:, None] - jnp.arange(keys)).astype(float)


def visible(distance: Float[Array, "N S"], window: int) -> Bool[Array, "N S"]:
    """Whether the key is one of the ``window`` latest."""
    return (distance >= 0) & (distance < window)


def simplicial_attention(
    q: Float[Array, "N D"],
    k: Float[Array, "S D"],
    v: Float[Array, "S D"],
    second_k: Float[Array, "R D"],
    second_v: Float[Array, "R D"],
    window: tuple[int, int],
    form: str = "trilinear",
    slope: float = 0.0,
) -> Float[Array, "N D"]:
    r"""Causal 2-simplicial attention of one head.

    .. math:: y_i = \sum_{j,l} \mathrm{softmax}_{j,l}\bigl(\langle q_i, k_j, k'_l\rangle / \sqrt D
        - m ((i-j) + (i-l))\bigr)\, v_j \circ v'_l

    Args:
        q: queries, the last N of the S positions and of the R.
        k: keys.
        v: values.
        second_k: second keys k'.
        second_v: second values v'.
        window: (w1, w2), how many of the latest keys and second keys a query sees.
        form: ``trilinear`` or ``determinant``.
        slope: distance penalty m.

    Source: arXiv:2507.02754. Differs from it: the distance penalty, and the channels that no vector takes.

    Example:
        >>> x = jnp.ones((3, 4))
        >>> simplicial_attention(x, x, x, x, x, (2, 2)).shape
        (3, 4)
    """
    first, second = (distances(len(q), len(x)) for x in (k, second_k))
    scores = FORMS[form](q, k, second_k) / q.shape[-1] ** 0.5 - slope * (first[:, :, None] + second[:, None])
    seen = visible(first, window[0])[:, :, None] & visible(second, window[1])[:, None]
    flat = jnp.where(seen, scores, -jnp.inf).reshape(len(q), -1)
    return jnp.einsum("ijl,jd,ld->id", softmax(flat, -1).reshape(scores.shape), v, second_v)


def fold_trilinear(q: Float[Array, "N D"], second: Float[Array, "N D"]) -> Float[Array, "N D"]:
    """The vector g with <q, k, k'> = <g, k> for every k."""
    return q * second


def fold_determinant(q: Float[Array, "N D"], second: Float[Array, "N D"]) -> Float[Array, "N D"]:
    """The same for the determinant: k' x q for each vector, products for the channels left over."""
    third = q.shape[-1] // 3
    vectors = [x[:, : 3 * third].reshape(len(x), 3, third) for x in (second, q)]
    normals = jnp.cross(vectors[0], vectors[1], axis=1).reshape(len(q), 3 * third)
    return jnp.concatenate([normals, q[:, 3 * third :] * second[:, 3 * third :]], -1)


FOLDS = {"trilinear": fold_trilinear, "determinant": fold_determinant}
"""How each form folds its second key into the query."""


def folded_attention(
    q: Float[Array, "N D"],
    k: Float[Array, "N D"],
    v: Float[Array, "N D"],
    second_k: Float[Array, "N D"],
    second_v: Float[Array, "N D"],
    window: tuple[int, int],
    form: str = "trilinear",
) -> Float[Array, "N D"]:
    """:func:`simplicial_attention` of a whole sequence without triples: ``window[1]`` ordinary attentions.

    The one of offset o has the queries g that come of folding in the second key o places back; their softmaxes are
    merged by a running maximum.
    """
    here = jnp.arange(len(q))
    seen = visible(distances(len(q), len(k)), window[0])

    def attend(state: tuple[Array, Array, Array], offset: Array) -> tuple[tuple[Array, Array, Array], None]:
        top, total, mixed = state
        scores = FOLDS[form](q, jnp.roll(second_k, offset, 0)) @ k.T / q.shape[-1] ** 0.5
        scores = jnp.where(seen & (here >= offset)[:, None], scores, -jnp.inf)
        highest = jnp.maximum(top, scores.max(-1))
        fade, weights = jnp.exp(top - highest), jnp.exp(scores - highest[:, None])
        new = (weights @ v) * jnp.roll(second_v, offset, 0)
        return (highest, fade * total + weights.sum(-1), fade[:, None] * mixed + new), None

    start = jnp.full(len(q), -jnp.inf), jnp.zeros(len(q)), jnp.zeros(v.shape)
    (_, total, mixed), _ = jax.lax.scan(attend, start, jnp.arange(window[1]))
    return mixed / total[:, None]


def diffuse(
    laplacian: Float[Array, "n n"], start: Float[Array, " n"], times: Float[Array, " times"], terms: int
) -> Float[Array, "times n"]:
    r"""Diffusion :math:`e^{-t L} f` by uniformization, the mean of random walks of Poisson many steps.

    .. math:: e^{-tL} f = \sum_k \frac{(\lambda t)^k}{k!} e^{-\lambda t} (1 - L/\lambda)^k f

    Where columns of L sum to 0, every step keeps the total: nothing is lost however the sum is cut, once the weights
    add up to 1.

    Args:
        laplacian: symmetric, eigenvalues not below 0.
        start: f.
        times: t.
        terms: of the sum; lambda t + 8 sqrt(lambda t) + 40 are enough for double precision, see :func:`rate`.
    """
    mean, powers = rate(laplacian) * times[:, None], jnp.arange(terms)
    chances = jax.scipy.stats.poisson.pmf(powers, mean)
    chances = chances / chances.sum(-1, keepdims=True)

    def step(state: tuple[Array, Array], chance: Array) -> tuple[tuple[Array, Array], None]:
        walked, total = state
        return (walked - laplacian @ walked / rate(laplacian), total + chance[:, None] * walked), None

    (_, total), _ = jax.lax.scan(step, (start, jnp.zeros((len(times), len(start)))), chances.T)
    return total


def rate(laplacian: Float[Array, "n n"]) -> Float[Array, ""]:
    """Half the largest absolute row sum: no step of ``1 - L / rate`` grows, and on a graph none turns negative."""
    return jnp.abs(laplacian).sum(-1).max() / 2
