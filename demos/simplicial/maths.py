"""2-simplicial attention as a pure function: the executable definition, over all triples under a mask.

Twin of ``nanochat/kernels/simplicial``. Shape letters: N queries, S keys, R second keys, D channels.
"""

from __future__ import annotations

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
