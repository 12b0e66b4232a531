"""Reversible maps as pure functions: couplings, a stack with O(1) memory, exact fixed point, symplectic steps.

Executable definitions, twins of ``nanochat/block/reversible.py``. Shape letters: B batch, T tokens, C width, L layers,
N dimension of a state. Parameters of a stack are pytrees whose leaves have a leading layer axis L.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

Half = Callable[[Any, Array], Array]
"""``half(parameters, x) -> change of the other stream``, of the same shape."""

FRACTION_BITS = 32
"""Grid of exact streams: 2^-32."""


def couple(
    f: Half, g: Half, parameters: tuple[Any, Any], first: Float[Array, "*shape"], second: Float[Array, "*shape"]
) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
    """Additive coupling of one layer: y1 = x1 + F(x2), y2 = x2 + G(y1).

    Whatever F and G are, it is a bijection of volume one: each half is a shear. Source: arXiv:1410.8516,
    arXiv:1707.04585.
    """
    first = first + f(parameters[0], second)
    return first, second + g(parameters[1], first)


def uncouple(
    f: Half, g: Half, parameters: tuple[Any, Any], first: Float[Array, "*shape"], second: Float[Array, "*shape"]
) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
    """The inverse of :func:`couple`: x2 = y2 - G(y1), x1 = y1 - F(x2)."""
    second = second - g(parameters[1], first)
    return first - f(parameters[0], second), second


def stored_stack(
    f: Half, g: Half, parameters: Any, first: Float[Array, "*shape"], second: Float[Array, "*shape"]
) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
    """L couplings in a row; differentiating it keeps every layer's activations."""
    pair, _ = jax.lax.scan(lambda pair, layer: (couple(f, g, layer, *pair), None), (first, second), parameters)
    return pair


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def stack(
    f: Half, g: Half, parameters: Any, first: Float[Array, "*shape"], second: Float[Array, "*shape"]
) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
    """:func:`stored_stack` with a backward pass that rebuilds activations instead of keeping them.

    Example:
        >>> half = lambda w, x: jnp.tanh(x @ w)
        >>> w = jnp.ones((8, 4, 4)) / 9
        >>> y1, y2 = stack(half, half, (w, w), jnp.ones(4), jnp.ones(4))
    """
    return stored_stack(f, g, parameters, first, second)


def _stack_forward(f: Half, g: Half, parameters: Any, first: Array, second: Array):
    pair = stored_stack(f, g, parameters, first, second)
    return pair, (parameters, pair)


def _stack_backward(f: Half, g: Half, kept: Any, gradients: tuple[Array, Array]):
    parameters, pair = kept

    def rebuild(carry: tuple[Array, Array, Array, Array], layer: Any):
        first, second, first_gradient, second_gradient = carry
        change, pull = jax.vjp(g, layer[1], first)
        g_gradient, pulled = pull(second_gradient)
        second, first_gradient = second - change, first_gradient + pulled
        change, pull = jax.vjp(f, layer[0], second)
        f_gradient, pulled = pull(first_gradient)
        return (first - change, second, first_gradient, second_gradient + pulled), (f_gradient, g_gradient)

    carry, parameter_gradients = jax.lax.scan(rebuild, (*pair, *gradients), parameters, reverse=True)
    return parameter_gradients, carry[2], carry[3]


stack.defvjp(_stack_forward, _stack_backward)


def inverse_stack(
    f: Half, g: Half, parameters: Any, first: Float[Array, "*shape"], second: Float[Array, "*shape"]
) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
    """The inverse of :func:`stack`, up to rounding."""
    pair, _ = jax.lax.scan(
        lambda pair, layer: (uncouple(f, g, layer, *pair), None), (first, second), parameters, reverse=True
    )
    return pair


def momentum_step(
    f: Half,
    g: Half,
    momentum: float,
    parameters: tuple[Any, Any],
    position: Float[Array, "*shape"],
    velocity: Float[Array, "*shape"],
) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
    """One layer of a momentum network: v <- m v + (1 - m) F(x), x <- x + v, then the same with G.

    Its volume shrinks by m per velocity and half, whatever F and G are. Source: arXiv:2102.07870.
    """
    for half, weights in ((f, parameters[0]), (g, parameters[1])):
        velocity = momentum * velocity + (1 - momentum) * half(weights, position)
        position = position + velocity
    return position, velocity


def momentum_inverse(
    f: Half,
    g: Half,
    momentum: float,
    parameters: tuple[Any, Any],
    position: Float[Array, "*shape"],
    velocity: Float[Array, "*shape"],
) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
    """The inverse of :func:`momentum_step`, which multiplies rounding by 1 / m per half."""
    for half, weights in ((g, parameters[1]), (f, parameters[0])):
        position = position - velocity
        velocity = (velocity - (1 - momentum) * half(weights, position)) / momentum
    return position, velocity


def leapfrog_step(
    f: Half,
    g: Half,
    step: float,
    parameters: tuple[Any, Any],
    position: Float[Array, "*shape"],
    velocity: Float[Array, "*shape"],
) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
    """One layer of a leapfrog network: v <- v + F(x), x <- x + h v, then the same with G.

    That is x_{n+1} = 2 x_n - x_{n-1} + h f_n(x_n): of volume one, symplectic where F and G are gradients. Source:
    arXiv:1709.03698.
    """
    for half, weights in ((f, parameters[0]), (g, parameters[1])):
        velocity = velocity + half(weights, position)
        position = position + step * velocity
    return position, velocity


def leapfrog_inverse(
    f: Half,
    g: Half,
    step: float,
    parameters: tuple[Any, Any],
    position: Float[Array, "*shape"],
    velocity: Float[Array, "*shape"],
) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
    """The inverse of :func:`leapfrog_step`."""
    for half, weights in ((g, parameters[1]), (f, parameters[0])):
        position = position - step * velocity
        velocity = velocity - half(weights, position)
    return position, velocity


Layer = Callable[[Any, Array, Array], tuple[Array, Array]]
"""``layer(parameters, first, second) -> pair``: a map of pairs, or its inverse."""


def stored_layers(
    layer: Layer, parameters: Any, first: Float[Array, "*shape"], second: Float[Array, "*shape"]
) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
    """L invertible layers in a row; differentiating it keeps every layer's activations."""
    return jax.lax.scan(lambda pair, weights: (layer(weights, *pair), None), (first, second), parameters)[0]


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def layers(
    layer: Layer, inverse: Layer, parameters: Any, first: Float[Array, "*shape"], second: Float[Array, "*shape"]
) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
    """:func:`stored_layers` of any layer with an inverse, with a backward pass that rebuilds activations.

    Example:
        >>> half = lambda w, x: jnp.tanh(x @ w)
        >>> step, inverse = (partial(each, half, half, 0.9) for each in (momentum_step, momentum_inverse))
        >>> w = jnp.ones((8, 4, 4)) / 9
        >>> x, v = layers(step, inverse, (w, w), jnp.ones(4), jnp.zeros(4))
    """
    return stored_layers(layer, parameters, first, second)


def _layers_forward(layer: Layer, inverse: Layer, parameters: Any, first: Array, second: Array):
    pair = stored_layers(layer, parameters, first, second)
    return pair, (parameters, pair)


def _layers_backward(layer: Layer, inverse: Layer, kept: Any, gradients: tuple[Array, Array]):
    parameters, pair = kept

    def rebuild(carry: tuple[tuple[Array, Array], tuple[Array, Array]], weights: Any):
        pair, gradients = carry
        before = inverse(weights, *pair)
        _, pull = jax.vjp(layer, weights, *before)
        weight_gradients, *pulled = pull(gradients)
        return (before, tuple(pulled)), weight_gradients

    (_, pulled), parameter_gradients = jax.lax.scan(rebuild, (pair, gradients), parameters, reverse=True)
    return parameter_gradients, *pulled


layers.defvjp(_layers_forward, _layers_backward)


def to_grid(x: Float[Array, "*shape"], bits: int = FRACTION_BITS) -> Int[Array, "*shape"]:
    """Nearest point of the grid 2^-bits, as an integer. 64-bit integers need ``jax_enable_x64``; with 32, choose fewer
    bits."""
    return jnp.round(x * 2.0**bits).astype(int)


def from_grid(
    stream: Int[Array, "*shape"], bits: int = FRACTION_BITS, dtype: jnp.dtype | type = float
) -> Float[Array, "*shape"]:
    """The number that a grid point stands for."""
    return stream.astype(dtype) * 2.0**-bits


def exact_couple(
    f: Half,
    g: Half,
    parameters: tuple[Any, Any],
    first: Int[Array, "*shape"],
    second: Int[Array, "*shape"],
    bits: int = FRACTION_BITS,
    dtype: jnp.dtype | type = float,
) -> tuple[Int[Array, "*shape"], Int[Array, "*shape"]]:
    """:func:`couple` on integer streams: changes are rounded to the grid, so that the inverse is exact to the bit."""
    first = first + to_grid(f(parameters[0], from_grid(second, bits, dtype)), bits)
    return first, second + to_grid(g(parameters[1], from_grid(first, bits, dtype)), bits)


def exact_uncouple(
    f: Half,
    g: Half,
    parameters: tuple[Any, Any],
    first: Int[Array, "*shape"],
    second: Int[Array, "*shape"],
    bits: int = FRACTION_BITS,
    dtype: jnp.dtype | type = float,
) -> tuple[Int[Array, "*shape"], Int[Array, "*shape"]]:
    """The inverse of :func:`exact_couple`: the same integers, subtracted."""
    second = second - to_grid(g(parameters[1], from_grid(first, bits, dtype)), bits)
    return first - to_grid(f(parameters[0], from_grid(second, bits, dtype)), bits), second


def log_det(function: Callable[[Array], Array], point: Float[Array, "*shape"]) -> Float[Array, ""]:
    """log |det| of the Jacobian of a map of states to states at ``point``; 0 means that volume is preserved."""
    flat = point.reshape(-1)
    jacobian = jax.jacobian(lambda x: function(x.reshape(point.shape)).reshape(-1))(flat)
    return jnp.linalg.slogdet(jacobian)[1]


def norm(x: Float[Array, "... C"]) -> Float[Array, "... C"]:
    """RMSNorm without parameters. Source: arXiv:1910.07467."""
    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + jnp.finfo(x.dtype).eps)


def attention_half(weights: dict[str, Float[Array, "C C"]], x: Float[Array, "T C"], heads: int) -> Float[Array, "T C"]:
    """F of a language model: causal softmax attention with QK norm on norm(x), without positions.

    Args:
        weights: ``query key value out``, each (out, in) as in PyTorch.
        x: one sequence.
        heads: H; C is divisible by it.
    """
    x = norm(x)
    length, width = x.shape
    q, k, v = (
        (x @ weights[name].T).reshape(length, heads, -1).transpose(1, 0, 2) for name in ("query", "key", "value")
    )
    scores = norm(q) @ norm(k).transpose(0, 2, 1) * (width // heads) ** -0.5
    scores = jnp.where(jnp.tril(jnp.ones((length, length), bool)), scores, -jnp.inf)
    mixed = jax.nn.softmax(scores, -1) @ v
    return mixed.transpose(1, 0, 2).reshape(length, width) @ weights["out"].T


def mlp_half(weights: dict[str, Float[Array, "*shape"]], x: Float[Array, "T C"]) -> Float[Array, "T C"]:
    """G of a language model: squared-ReLU feed-forward part on norm(x); ``weights`` has ``up`` and ``down``."""
    return jnp.square(jax.nn.relu(norm(x) @ weights["up"].T)) @ weights["down"].T


def cayley(skew: Float[Array, "N N"]) -> Float[Array, "N N"]:
    """Cayley transform (I - A)^-1 (I + A) of a skew-symmetric A: an orthogonal matrix of determinant 1."""
    identity = jnp.eye(skew.shape[0], dtype=skew.dtype)
    return jnp.linalg.solve(identity - skew, identity + skew)


def cayley_plane(u: Float[Array, " N"], v: Float[Array, " N"]) -> Float[Array, "N N"]:
    """:func:`cayley` of A = u v^T - v u^T in closed form, without solving: I + 2 (A + A^2) / (1 + D).

    D = |u|^2 |v|^2 - (u.v)^2. Proof: A^3 = -D A on the plane of u and v and 0 outside it, hence
    (I - A)(I + (A + A^2)/(1 + D)) = I, and (I - A)^-1 (I + A) = 2 (I - A)^-1 - I.
    """
    skew = jnp.outer(u, v) - jnp.outer(v, u)
    area = (u @ u) * (v @ v) - (u @ v) ** 2
    return jnp.eye(u.shape[0], dtype=u.dtype) + 2 * (skew + skew @ skew) / (1 + area)


State = tuple[Float[Array, " N"], Float[Array, " N"]]
"""Position q and momentum p, unit mass."""


def symplectic_euler(force: Callable[[Array], Array], state: State, step: float) -> State:
    """p <- p + h f(q), q <- q + h p: an additive coupling with F and G linear in the step."""
    q, p = state
    p = p + step * force(q)
    return q + step * p, p


def leapfrog(force: Callable[[Array], Array], state: State, step: float) -> State:
    """Half kick, drift, half kick: of second order, symplectic, and its own inverse with the step negated."""
    q, p = state
    p = p + step / 2 * force(q)
    q = q + step * p
    return q, p + step / 2 * force(q)


def explicit_euler(force: Callable[[Array], Array], state: State, step: float) -> State:
    """The control that is neither symplectic nor volume preserving."""
    q, p = state
    return q + step * p, p + step * force(q)


def runge_kutta(force: Callable[[Array], Array], state: State, step: float) -> State:
    """The classical method of order four: the nearer one over a short time, and not symplectic either."""

    def slope(q: Array, p: Array) -> State:
        return p, force(q)

    q, p = state
    a = slope(q, p)
    b = slope(q + step / 2 * a[0], p + step / 2 * a[1])
    c = slope(q + step / 2 * b[0], p + step / 2 * b[1])
    d = slope(q + step * c[0], p + step * c[1])
    position, momentum = (
        x + step / 6 * (i + 2 * j + 2 * k + m) for x, i, j, k, m in zip((q, p), a, b, c, d, strict=True)
    )
    return position, momentum


def generated_step(generating: Callable[[Array, Array], Array], state: State, iterations: int = 8) -> State:
    """The canonical map of a type-2 generating function S(q, P): p = dS/dq, Q = dS/dP.

    p = dS/dq(q, P) is solved for P by Newton's method from P = p. S = q.P + h H(q, P) gives symplectic Euler.
    """
    q, p = state

    def newton(_: int, new: Array) -> Array:
        residual = jax.grad(generating)(q, new) - p
        return new - jnp.linalg.solve(jax.jacobian(jax.grad(generating), argnums=1)(q, new), residual)

    new = jax.lax.fori_loop(0, iterations, newton, p)
    return jax.grad(generating, argnums=1)(q, new), new


def rollout(
    method: Callable[[Callable[[Array], Array], State, float], State],
    force: Callable[[Array], Array],
    state: State,
    step: float,
    steps: int,
) -> tuple[Float[Array, "steps N"], Float[Array, "steps N"]]:
    """Positions and momenta after each of ``steps`` steps."""

    def advance(state: State, _: None) -> tuple[State, State]:
        state = method(force, state, step)
        return state, state

    return jax.lax.scan(advance, state, None, length=steps)[1]


def kepler_force(q: Float[Array, " N"]) -> Float[Array, " N"]:
    """-q / |q|^3."""
    return -q / jnp.linalg.norm(q) ** 3


def kepler_energy(q: Float[Array, "... N"], p: Float[Array, "... N"]) -> Float[Array, "*shape"]:
    """|p|^2 / 2 - 1 / |q|."""
    return jnp.sum(p * p, -1) / 2 - 1 / jnp.linalg.norm(q, axis=-1)


def kepler_start(eccentricity: float) -> State:
    """Periapsis of the unit ellipse (semi-major axis 1, period 2 pi)."""
    speed = ((1 + eccentricity) / (1 - eccentricity)) ** 0.5
    return jnp.array([1 - eccentricity, 0.0]), jnp.array([0.0, speed])


def symplectic_error(step: Callable[[State], State], state: State) -> Float[Array, ""]:
    """Largest entry of M^T J M - J for the Jacobian M of a step: 0 for a symplectic map."""
    half = state[0].shape[0]
    jacobian = jax.jacobian(lambda z: jnp.concatenate(step((z[:half], z[half:]))))(jnp.concatenate(state))
    identity, zero = jnp.eye(half), jnp.zeros((half, half))
    form = jnp.block([[zero, identity], [-identity, zero]])
    return jnp.abs(jacobian.T @ form @ jacobian - form).max()


def discarded_bits(outputs: Int[Array, " states"]) -> Float[Array, ""]:
    """Bits that a map of finitely many equally likely states forgets: log2 of preimage sizes, on average.

    ``outputs[s]`` is the image of state s. 0 exactly when the map is injective; by Landauer's principle erasing them
    costs at least k T ln 2 each. Source: doi:10.1147/rd.53.0183.
    """
    _, counts = jnp.unique(outputs, return_counts=True)
    return jnp.sum(counts * jnp.log2(counts)) / outputs.shape[0]
