"""P-adic integers and ultrametric attention as pure functions: the executable definitions.

Twins of ``nanochat/kernels/prefix`` and ``nanochat/attention/ultrametric.py``. Shape letters: N queries, S keys, D
channels, K digits over p symbols, levels = K + 1. A p-adic integer modulo p^k is a tuple of k digits, the *least*
significant first, so that a common prefix is a common residue and the valuation counts leading zeros.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

Padic = tuple[int, ...]


def padic(number: int, base: int, depth: int) -> Padic:
    """Digits of an integer modulo base^depth; negative ones have infinitely many digits that are not 0.

    Example:
        >>> padic(-1, 5, 3)
        (4, 4, 4)
    """
    return tuple(number // base**place % base for place in range(depth))


def integer(x: Padic, base: int) -> int:
    """The residue modulo base^k that the digits stand for."""
    return sum(digit * base**place for place, digit in enumerate(x))


def add(x: Padic, y: Padic, base: int) -> Padic:
    """Sum, digit by digit with carries."""
    total, carry = [], 0
    for one, other in zip(x, y, strict=True):
        carry, digit = divmod(one + other + carry, base)
        total.append(digit)
    return tuple(total)


def negate(x: Padic, base: int) -> Padic:
    """Minus x: the complement of every digit, plus one."""
    one = padic(1, base, len(x))
    return add(tuple(base - 1 - digit for digit in x), one, base)


def multiply(x: Padic, y: Padic, base: int) -> Padic:
    """Product: the convolution of the digits with carries, cut at the precision."""
    result, carry = [], 0
    for place in range(len(x)):
        column = carry + sum(x[i] * y[place - i] for i in range(place + 1))
        carry, digit = divmod(column, base)
        result.append(digit)
    return tuple(result)


def valuation(x: Padic) -> int:
    """How often p divides x: leading zeros; all k digits for 0."""
    return next((place for place, digit in enumerate(x) if digit), len(x))


def inverse(x: Padic, prime: int) -> Padic:
    """1 / x by Hensel's lemma: y (2 - x y) has twice as many right digits as y.

    Raises:
        ValueError: p divides x.

    Example:
        >>> multiply((2, 0, 0, 0), inverse((2, 0, 0, 0), 3), 3)
        (1, 0, 0, 0)
    """
    if x[0] == 0:
        raise ValueError(f"inverse: got {x}, need a unit: a first digit that is not 0")
    depth, known = len(x), 1
    two, y = padic(2, prime, depth), padic(pow(x[0], -1, prime), prime, depth)
    while known < depth:
        y = multiply(y, add(two, negate(multiply(x, y, prime), prime), prime), prime)
        known *= 2
    return y


def expansion(numerator: int, denominator: int, prime: int, depth: int) -> tuple[int, Padic]:
    """A fraction that is not 0 in Q_p: the valuation v and the digits of the unit u, where a / b = p^v u.

    Example:
        >>> expansion(1, 2, 3, 4), expansion(-1, 6, 3, 4)
        ((0, (2, 1, 1, 1)), (-1, (1, 1, 1, 1)))
    """
    power = 0
    while numerator % prime == 0:
        numerator, power = numerator // prime, power + 1
    while denominator % prime == 0:
        denominator, power = denominator // prime, power - 1
    return power, multiply(padic(numerator, prime, depth), inverse(padic(denominator, prime, depth), prime), prime)


def written(power: int, unit: Padic) -> str:
    """A p-adic number as one writes it: the digits of high places to the left, a point before the place -1.

    Example:
        >>> written(-1, (1, 1, 1, 1)), written(1, (2, 0, 0, 0))
        ('...111.1', '...00020')
    """
    string = "".join(str(digit) for digit in reversed(unit)) + "0" * max(power, 0)
    return "..." + (f"{string[:power]}.{string[power:]}" if power < 0 else string)


def digit_scores(
    x: Float[Array, "N D"], symbols: Float[Array, "Kp D"], base: int, sharpness: float
) -> Float[Array, "N K p"]:
    """Scores of every symbol of every digit of a head vector."""
    return (sharpness * (x @ symbols.T)).reshape(len(x), -1, base)


def prefix_kernel(
    query: Float[Array, "N K p"], key: Float[Array, "S K p"], levels: Float[Array, " levels"]
) -> Float[Array, "N S"]:
    """K_ij = sum_l w_l prod_{m <= l} <query_im, key_jm>, zero where j > i; the N queries are the last of S tokens."""
    shared = jnp.ones((len(query), len(key)), query.dtype)
    total = levels[0] * shared
    for place in range(query.shape[1]):
        shared = shared * (query[:, place] @ key[:, place].T)
        total = total + levels[place + 1] * shared
    return jnp.tril(total, len(key) - len(query))


def harden(soft: Float[Array, "*shape p"]) -> Float[Array, "*shape p"]:
    """One-hot at the largest entry, with the gradient of the entries themselves."""
    hot = jax.nn.one_hot(jnp.argmax(soft, -1), soft.shape[-1], dtype=soft.dtype)
    return hot + (soft - jax.lax.stop_gradient(soft))


def ultrametric_attention(
    query: Float[Array, "N K p"],
    key: Float[Array, "S K p"],
    v: Float[Array, "S D"],
    levels: Float[Array, " levels"],
    hard: bool = False,
) -> Float[Array, "N D"]:
    """Means of the values under the prefix kernel of digit scores, one head."""
    query, key = jax.nn.softmax(query), jax.nn.softmax(key)
    if hard:
        query, key = harden(query), harden(key)
    kernel = prefix_kernel(query, key, levels)
    return kernel @ v / kernel.sum(-1, keepdims=True)


def likeliest(scores: Float[Array, "N K p"]) -> tuple[Int[Array, "N levels"], Float[Array, "N levels"]]:
    """Numbers of the nested balls of the likeliest string, and 1 with the gradient of its log-probability."""
    tokens, depth, base = scores.shape
    digits = jnp.argmax(scores, -1)
    prefix = jnp.zeros(tokens, digits.dtype)
    balls = [prefix]
    for place in range(depth):
        prefix = prefix * base + digits[:, place]
        balls.append(prefix + sum(base**lower for lower in range(place + 1)))
    chosen = jnp.take_along_axis(jax.nn.log_softmax(scores), digits[..., None], -1)[..., 0]
    sure = jnp.pad(jnp.cumsum(chosen, -1), ((0, 0), (1, 0)))
    return jnp.stack(balls, -1), jnp.exp(sure - jax.lax.stop_gradient(sure))


def trie_attention(
    query: Float[Array, "T K p"], key: Float[Array, "T K p"], v: Float[Array, "T D"], levels: Float[Array, " levels"]
) -> Float[Array, "T D"]:
    """The same mean with hard digits, token by token: the state is one sum of values and a count per ball."""
    (query_balls, query_weights), (key_balls, key_weights) = likeliest(query), likeliest(key)
    depth, base = query.shape[1:]
    counted = jnp.concatenate((v, jnp.ones_like(v[:, :1])), -1)

    def step(sums: Array, token: tuple[Array, ...]) -> tuple[Array, Array]:
        own, added, value, seen, weights = token
        sums = sums.at[own].add(added[:, None] * value)
        return sums, weights @ sums[seen]

    nodes = sum(base**level for level in range(depth + 1))
    start = jnp.zeros((nodes, counted.shape[1]), v.dtype)
    tokens = (key_balls, key_weights, counted, query_balls, query_weights * levels)
    sums = jax.lax.scan(step, start, tokens)[1]
    return sums[:, :-1] / sums[:, -1:]
