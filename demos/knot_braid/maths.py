"""Attention between what braids carry, and strands that cross values, as pure functions.

Twins of ``nanochat/attention/braid.py``. Quaternions are structures of arrays, component before lane; a mixture of
choices that is exactly 0, which PyTorch takes for the identity, is not allowed here.

Shape letters: H query heads, K key/value heads, T tokens, N queries, S keys, D channels, n braids of a head.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from demos.matrix_gauge.maths import product
from demos.octonion.maths import products

Table = tuple[Array, Array, Array, Array, Array, Array]


def choose(scores: Float[Array, "K T 4 n"], tau: float = 0.0, mode: str = "soft") -> Float[Array, "K T 5 n"]:
    """Weights of staying, s1, s2 and their inverses; ``discrete``: of the best alone, with the softmax's gradient."""
    stay = jnp.full_like(scores[..., :1, :], tau)
    logits = jnp.concatenate((stay, scores), -2)
    soft = jax.nn.softmax(logits, -2)
    if mode == "soft":
        return soft
    hard = jnp.moveaxis(jax.nn.one_hot(logits.argmax(-2), 5, dtype=soft.dtype), -1, -2)
    return hard + (soft - jax.lax.stop_gradient(soft))


def generators(angle: Float[Array, "K n"], law: str = "ybe") -> Table:
    r"""Real part, phase, and i and j parts of both generators.

    ``ybe``: :math:`e^{i \arccos c}(c + i/2 \pm w j)`, :math:`c + i w = \tfrac{\sqrt 3}{2} e^{i\gamma}`, which satisfy
    Artin's relation for every :math:`\gamma`; ``restricted``: as much about two axes at right angles.
    """
    half = 3**0.5 / 2
    real = half * jnp.cos(angle)
    phase = jnp.arccos(real)
    if law == "ybe":
        along, across = jnp.full_like(real, 0.5), half * jnp.sin(angle)
        return real, phase, along, across, along, -across
    own, none = jnp.sqrt(1 - real**2), jnp.zeros_like(real)
    return real, phase, own, none, none, own


def frames(choice: Float[Array, "K T 5 n"], table: Table) -> Float[Array, "K T 4 m"]:
    r"""Unitary matrices :math:`P_t = g_1 \cdots g_t`: left quaternions in n lanes, phases as complex numbers in n."""
    real, phase, a1, b1, a2, b2 = (each[:, None] for each in table)
    stay, (one, two) = choice[..., 0, :], jnp.moveaxis(choice[..., 1:3, :] - choice[..., 3:, :], -2, 0)
    parts = (stay + (1 - stay) * real, one * a1 + two * a2, one * b1 + two * b2, jnp.zeros_like(one))
    raw = jnp.stack(parts, -2)
    unit = raw / jnp.linalg.norm(raw, axis=-2, keepdims=True)

    def multiplied(last: Array, factor: Array) -> tuple[Array, Array]:
        now = product(last, factor)
        return now, now

    start = jnp.zeros_like(unit[:, 0]).at[:, 0].set(1)
    left = jnp.moveaxis(jax.lax.scan(multiplied, start, jnp.moveaxis(unit, 1, 0))[1], 0, 1)
    turned = jnp.cumsum((one + two) * phase, 1)
    flat = jnp.zeros_like(turned)
    return jnp.concatenate((left, jnp.stack((jnp.cos(turned), -jnp.sin(turned), flat, flat), -2)), -1)


def turning(frame: Float[Array, "K T 4 m"]) -> Float[Array, "K T 4 4 n"]:
    r"""Orthogonal matrices of :math:`x \mapsto l x \bar r` on blocks of four channels, l and r from :func:`frames`."""
    left, right = jnp.split(frame, 2, -1)
    table = products(4).astype(frame.dtype)
    back = right * jnp.array([1.0, -1.0, -1.0, -1.0])[:, None]
    return jnp.einsum("ktan,abc,ktdn,cde->ktebn", left, table, back, table)


def turn(matrices: Float[Array, "K T 4 4 n"], x: Float[Array, "H T D"], undo: bool = False) -> Float[Array, "H T D"]:
    """Each matrix acts on the blocks of its heads, the transposed one to undo it; further channels stay."""
    n = matrices.shape[-1]
    grouped = x[..., : 4 * n].reshape(len(matrices), -1, x.shape[1], 4, n)
    moved = jnp.einsum("ktban,kgtbn->kgtan" if undo else "ktabn,kgtbn->kgtan", matrices, grouped)
    return jnp.concatenate((moved.reshape(*x.shape[:2], 4 * n), x[..., 4 * n :]), -1)


def braid_attention(
    q: Float[Array, "H T D"],
    k: Float[Array, "K T D"],
    v: Float[Array, "K T D"],
    scores: Float[Array, "K T 4 n"],
    angle: Float[Array, "K n"],
    tau: float = 0.0,
    mode: str = "soft",
    law: str = "ybe",
) -> Float[Array, "H T D"]:
    r""":math:`y_i = P_i^{-1} \sum_{j \le i} \mathrm{softmax}_j(\langle P_i q_i, P_j k_j\rangle/\sqrt D)\,P_j v_j`."""
    matrices = turning(frames(choose(scores, tau, mode), generators(angle, law)))
    q, k, v = (turn(matrices, x) for x in (q, k, v))
    k, v = (jnp.repeat(x, q.shape[0] // k.shape[0], 0) for x in (k, v))
    pairs = q @ k.mT * q.shape[-1] ** -0.5
    causal = jnp.tril(jnp.ones(pairs.shape[-2:], bool))
    mixed = jax.nn.softmax(jnp.where(causal, pairs, -jnp.inf), -1) @ v
    return turn(matrices, mixed, undo=True)


def crossing_attention(
    q: Float[Array, "H N D"],
    k: Float[Array, "K S D"],
    v: Float[Array, "K S D"],
    keep: Float[Array, " H"] | None = None,
    tau: float = 0.0,
    mode: str = "soft",
) -> Float[Array, "H N D"]:
    r"""The strand of each query, taken past one token after the other by a scan.

    By the gate :math:`c_j = \sigma(q \cdot k_j/\sqrt D - \tau)` it becomes :math:`t a + (1 - t) v_j`, or without t
    (``restricted``) :math:`a + v_j`, over the number of tokens passed.
    """
    k, v = (jnp.repeat(x, q.shape[0] // k.shape[0], 0) for x in (k, v))
    queries, keys = q.shape[1], k.shape[1]
    above = q @ k.mT * q.shape[-1] ** -0.5 - tau
    gate = jax.nn.sigmoid(above)
    if mode == "discrete":
        gate = (above > 0).astype(gate.dtype) + (gate - jax.lax.stop_gradient(gate))
    gate = jnp.tril(gate, keys - queries)

    def pass_one(strand: Array, token: tuple[Array, Array]) -> tuple[Array, None]:
        c, value = token[0][..., None], token[1][:, None]
        met = strand + value if keep is None else keep[:, None, None] * strand + (1 - keep)[:, None, None] * value
        return strand + c * (met - strand), None

    strand, _ = jax.lax.scan(pass_one, jnp.zeros_like(q), (jnp.moveaxis(gate, -1, 0), jnp.moveaxis(v, 1, 0)))
    return strand if keep is not None else strand / jnp.arange(keys - queries + 1, keys + 1)[:, None]


def passed(
    strands: Float[Array, "n D"], letters: Int[Array, " L"], keep: float | None = None
) -> Float[Array, "L1 n D"]:
    """What each strand holds before the first and after every letter of a braid word.

    The crossing s_i takes (a, b) on strands i, i + 1 to (b, t a + (1 - t) b), or without t (``restricted``) to
    (b, a + b); its inverse goes back, and the letter 0 does nothing.
    """
    kept, added = (1.0, 1.0) if keep is None else (keep, 1 - keep)

    def step(now: Array, letter: Array) -> tuple[Array, Array]:
        place = jnp.abs(letter) - 1
        a, b = now[place], now[place + 1]
        forth, back = jnp.stack((b, kept * a + added * b)), jnp.stack(((b - added * a) / kept, a))
        crossed = jax.lax.dynamic_update_slice_in_dim(now, jnp.where(letter > 0, forth, back), place, 0)
        after = jnp.where(letter == 0, now, crossed)
        return after, after

    return jnp.concatenate((strands[None], jax.lax.scan(step, strands, letters)[1]))
