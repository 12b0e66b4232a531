"""The JAX definition of the reversible stack agrees with PyTorch's, and its own laws hold in float64."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from demos.reversible import maths
from nanochat.block.reversible import FixedPoint, ReversibleKnobs
from nanochat.gpt import GPT, GPTConfig

HEADS, WIDTH, LENGTH, LAYERS = 2, 16, 9, 5
MOMENTUM = 0.8
MIXER, MLP = ("query", "key", "value", "out"), ("up", "down")


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def attention(weights, x):
    return jax.vmap(lambda row: maths.attention_half(weights, row, HEADS))(x)


def mlp(weights, x):
    return jax.vmap(lambda row: maths.mlp_half(weights, row))(x)


def torch_stack(exact: bool = False, form: str = "additive"):
    """A torch stack in float64 with random weights, and the same weights for JAX, stacked over layers."""
    knobs = {"reversible": ReversibleKnobs(exact=exact, form=form, momentum=MOMENTUM)}
    config = GPTConfig(
        n_layer=LAYERS, n_head=HEADS, n_embd=WIDTH, attention_type="reversible", position="none", knobs=knobs
    )
    stack = GPT(config).double().stack
    random = np.random.default_rng(1)
    with torch.no_grad():
        for parameter in stack.parameters():
            parameter.copy_(torch.from_numpy(random.standard_normal(parameter.shape) * parameter.shape[-1] ** -0.5))

    def gathered(part: str, names: tuple[str, ...]):
        values = stack.state_dict()
        return {
            name: jnp.stack([values[f"blocks.{i}.{part}.{name}.weight"].numpy() for i in range(LAYERS)])
            for name in names
        }

    return stack, (gathered("mixer", MIXER), gathered("mlp", MLP))


def inputs():
    random = np.random.default_rng(2)
    return random.standard_normal((2, LENGTH, WIDTH)), random.standard_normal((2, LENGTH, WIDTH))


def close(actual, expected, tolerance: float = 1e-10) -> None:
    np.testing.assert_allclose(np.asarray(actual), np.asarray(expected), rtol=0, atol=tolerance)


def test_outputs_and_gradients_agree():
    stack, weights = torch_stack()
    x, cotangent = inputs()
    leaf = torch.from_numpy(x).requires_grad_()
    output = stack(leaf, None)
    output.backward(torch.from_numpy(cotangent))

    def mean(weights, x):
        return sum(maths.stack(attention, mlp, weights, x, x)) / 2

    expected, pull = jax.vjp(mean, weights, jnp.asarray(x))
    weight_gradients, x_gradient = pull(jnp.asarray(cotangent))
    close(output.detach(), expected)
    close(leaf.grad, x_gradient)
    for part, gradients in (("mixer", weight_gradients[0]), ("mlp", weight_gradients[1])):
        for name, gradient in gradients.items():
            for layer in range(LAYERS):
                got = stack.get_parameter(f"blocks.{layer}.{part}.{name}.weight").grad
                close(got, gradient[layer])


TWINS = {
    "momentum": (maths.momentum_step, maths.momentum_inverse, MOMENTUM),
    "leapfrog": (maths.leapfrog_step, maths.leapfrog_inverse, 1 / LAYERS),
}


def twin(form: str):
    """A layer of that form and its inverse, as functions of weights and a pair."""
    *both, constant = TWINS[form]
    return tuple(partial(each, attention, mlp, constant) for each in both)


@pytest.mark.parametrize("form", TWINS)
def test_a_position_and_its_velocity_agree(form):
    """Outputs, gradients of the rebuilding passes, cached decoding."""
    stack, weights = torch_stack(form=form)
    layer, inverse = twin(form)
    x, cotangent = inputs()
    leaf = torch.from_numpy(x).requires_grad_()
    output = stack(leaf, None)
    output.backward(torch.from_numpy(cotangent))
    last = jax.jit(lambda weights, x: maths.layers(layer, inverse, weights, x, jnp.zeros_like(x))[0])
    expected, pull = jax.vjp(last, weights, jnp.asarray(x))
    weight_gradients, x_gradient = pull(jnp.asarray(cotangent))
    close(output.detach(), expected)
    close(leaf.grad, x_gradient)
    for part, gradients in (("mixer", weight_gradients[0]), ("mlp", weight_gradients[1])):
        for name, gradient in gradients.items():
            for index in range(LAYERS):
                close(stack.get_parameter(f"blocks.{index}.{part}.{name}.weight").grad, gradient[index])
    cache = stack.init_cache(2, LENGTH, torch.device("cpu"), torch.float64)
    with torch.no_grad():
        close(torch.cat([stack(each, None, cache) for each in torch.from_numpy(x).split([4, 1, 4], 1)], 1), expected)


def test_rebuilt_gradients_of_a_velocity_equal_stored_ones(form="momentum"):
    _, weights = torch_stack(form=form)
    layer, inverse = twin(form)
    x, cotangent = map(jnp.asarray, inputs())

    def gradients(run):
        return jax.jit(jax.grad(lambda w, a, b: (run(w, a, b)[0] * cotangent).sum(), (0, 1, 2)))(weights, x, 2 * x)

    jax.tree.map(
        close, gradients(partial(maths.layers, layer, inverse)), gradients(partial(maths.stored_layers, layer))
    )
    first = jax.tree.map(lambda leaf: leaf[0], weights)
    jax.tree.map(close, inverse(first, *layer(first, x, 2 * x)), (x, 2 * x))


def test_volumes_of_a_velocity():
    """Leapfrog keeps it, momentum shrinks it by its power, whatever the weights."""

    def half(weight, x):
        return jnp.tanh(x @ weight)

    weights = tuple(jnp.asarray(np.random.default_rng(3).standard_normal((2, 6, 6))))
    point = jnp.asarray(np.random.default_rng(4).standard_normal((2, 6)))
    kept, shrunk = (
        maths.log_det(lambda pair, step=step: jnp.stack(step(half, half, 0.8, weights, *pair)), point)
        for step in (maths.leapfrog_step, maths.momentum_step)
    )
    assert abs(kept) < 1e-10 and abs(shrunk - 2 * 6 * np.log(0.8)) < 1e-10


@pytest.mark.parametrize("chunks", [[1] * LENGTH, [4, 5], [8, 1]])
def test_cached_decoding_agrees(chunks):
    stack, weights = torch_stack()
    x, _ = inputs()
    expected = sum(maths.stack(attention, mlp, weights, jnp.asarray(x), jnp.asarray(x))) / 2
    cache = stack.init_cache(2, LENGTH, torch.device("cpu"), torch.float64)
    with torch.no_grad():
        parts = [stack(part, None, cache) for part in torch.from_numpy(x).split(chunks, dim=1)]
    close(torch.cat(parts, 1), expected)


def test_exact_streams_agree_to_the_grid_and_return_to_the_same_bits():
    stack, weights = torch_stack(exact=True)
    x, _ = inputs()
    with torch.no_grad():
        pair, _ = stack.run(torch.from_numpy(x), None)
    start = maths.to_grid(jnp.asarray(x))
    assert np.array_equal(start, FixedPoint(torch.float64).enter(torch.from_numpy(x)))
    layers = [jax.tree.map(lambda leaf, i=i: leaf[i], weights) for i in range(LAYERS)]
    first = second = start
    for layer in layers:
        first, second = maths.exact_couple(attention, mlp, layer, first, second)
    for got, expected in zip(pair, (first, second), strict=True):
        assert np.abs(got.numpy() - np.asarray(expected)).max() <= 64  # a few grid points of 2^-32
    for layer in reversed(layers):
        first, second = maths.exact_uncouple(attention, mlp, layer, first, second)
    assert np.array_equal(first, start) and np.array_equal(second, start)


def test_rebuilt_gradients_equal_stored_ones():
    _, weights = torch_stack()
    x, cotangent = map(jnp.asarray, inputs())

    def gradients(stack):
        return jax.grad(lambda w, a, b: (stack(attention, mlp, w, a, b)[0] * cotangent).sum(), (0, 1, 2))(
            weights, x, 2 * x
        )

    jax.tree.map(close, gradients(maths.stack), gradients(maths.stored_stack))
    pair = maths.stack(attention, mlp, weights, x, 2 * x)
    jax.tree.map(close, maths.inverse_stack(attention, mlp, weights, *pair), (x, 2 * x))


def test_coupling_preserves_volume_and_a_residual_step_does_not():
    def half(weight, x):
        return jnp.tanh(x @ weight)

    weights = jnp.asarray(np.random.default_rng(3).standard_normal((2, 6, 6)))
    point = jnp.asarray(np.random.default_rng(4).standard_normal((2, 6)))
    coupled = maths.log_det(lambda pair: jnp.stack(maths.couple(half, half, tuple(weights), *pair)), point)
    residual = maths.log_det(lambda x: x + half(weights[0], x), point)
    assert abs(coupled) < 1e-10 < 0.1 < abs(residual)


def test_cayley_is_orthogonal_and_its_closed_form_is_the_solve():
    random = np.random.default_rng(5)
    square = jnp.asarray(random.standard_normal((7, 7)))
    rotation = maths.cayley(square - square.T)
    close(rotation @ rotation.T, jnp.eye(7), 1e-12)
    close(jnp.linalg.det(rotation), 1, 1e-12)
    u, v = jnp.asarray(random.standard_normal((2, 7)))
    close(maths.cayley_plane(u, v), maths.cayley(jnp.outer(u, v) - jnp.outer(v, u)), 1e-12)


@pytest.mark.parametrize(("method", "symplectic"), [("symplectic_euler", 1), ("leapfrog", 1), ("explicit_euler", 0)])
def test_steps_are_symplectic_or_not(method, symplectic):
    state = maths.kepler_start(0.3)
    step = getattr(maths, method)
    error = maths.symplectic_error(lambda state: step(maths.kepler_force, state, 0.1), state)
    assert (error < 1e-12) == bool(symplectic)
    q, p = maths.rollout(step, maths.kepler_force, state, 0.02, 3000)
    energy = maths.kepler_energy(q, p)
    assert (jnp.abs(energy - maths.kepler_energy(*state)).max() < 0.03) == bool(symplectic)


def test_leapfrog_is_of_second_order_and_its_own_inverse():
    state = maths.kepler_start(0.3)
    forward = maths.leapfrog(maths.kepler_force, state, 0.1)
    jax.tree.map(close, maths.leapfrog(maths.kepler_force, forward, -0.1), state)

    def error(steps: int) -> float:
        q, _ = maths.rollout(maths.leapfrog, maths.kepler_force, state, 2 * np.pi / steps, steps)
        return float(jnp.linalg.norm(q[-1] - state[0]))

    assert 3.7 < error(1000) / error(2000) < 4.3


def test_runge_kutta_is_of_fourth_order_and_its_energy_drifts():
    start = maths.kepler_start(0.3)

    def worst(method, steps: int) -> tuple[float, float]:
        """Largest energy error in the first and in the last quarter of 20 orbits."""
        path = maths.rollout(method, maths.kepler_force, start, 40 * np.pi / steps, steps)
        error = jnp.abs(maths.kepler_energy(*path) - maths.kepler_energy(*start)).reshape(4, -1).max(1)
        return float(error[0]), float(error[-1])

    def error(steps: int) -> float:
        q, _ = maths.rollout(maths.runge_kutta, maths.kepler_force, start, 2 * np.pi / steps, steps)
        return float(jnp.linalg.norm(q[-1] - start[0]))

    assert 14 < error(400) / error(800) < 18
    assert maths.symplectic_error(lambda state: maths.runge_kutta(maths.kepler_force, state, 0.1), start) > 1e-9
    (frog, late_frog), (runge, late_runge) = worst(maths.leapfrog, 1200), worst(maths.runge_kutta, 1200)
    assert late_frog < 1.05 * frog and late_runge > 3 * runge


def test_generating_function_gives_symplectic_euler():
    step, (q, p) = 0.1, maths.kepler_start(0.3)

    def separable(q, new):
        return q @ new + step * (new @ new / 2 - 1 / jnp.linalg.norm(q))

    def mixed(q, new):
        return q @ new + step * ((new @ new) * (1 + q @ q) / 2)

    jax.tree.map(
        close, maths.generated_step(separable, (q, p)), maths.symplectic_euler(maths.kepler_force, (q, p), step)
    )
    assert maths.symplectic_error(lambda state: maths.generated_step(mixed, state), (q, p)) < 1e-10


def test_discarded_bits():
    states = jnp.arange(16)
    assert maths.discarded_bits(states ^ 5) == 0
    assert maths.discarded_bits(states // 4) == 2
    assert maths.discarded_bits(states * 0) == 4
