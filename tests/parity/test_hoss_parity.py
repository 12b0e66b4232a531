"""The JAX definition of a macro step and the PyTorch optimizer take the same steps, in float64, on the same losses."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from demos.nonstandard import maths
from nanochat.curvature import Curvature
from nanochat.optim import _krylov
from nanochat.optim.hoss import MacroStep

TOLERANCE = 1e-10
N = 14


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def drawn(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


INPUTS, TARGETS, START = drawn(9, 4), drawn(9, seed=1), 0.7 * drawn(N, seed=2)


def loss(w, math, inputs, targets):
    """A small network with a saddle nearby; the same words for both frameworks."""
    hidden = math.tanh(inputs @ w[:12].reshape(4, 3))
    return ((hidden @ w[11:14] - targets) ** 2).mean() + 0.1 * math.cos(3 * w).sum()


def torch_trace(steps: int, noise: bool = False, **options) -> list[np.ndarray]:
    w = nn.Parameter(torch.from_numpy(START.copy()))
    data = torch.from_numpy(INPUTS), torch.from_numpy(TARGETS)
    optimizer = MacroStep([w], **options)
    found = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss(w, torch, *data).backward()
        optimizer.step(lambda: Curvature(lambda: loss(w, torch, *data), [w]))
        found.append(w.detach().numpy().copy())
    return found


def noise_of(step: int) -> np.ndarray:
    """What the optimizer draws: numbers of a seed and a step."""
    from nanochat.initialise import generator_for

    return torch.randn(N, generator=generator_for(0, f"noise.{step}", (N,)), dtype=torch.float32).double().numpy()


@partial(jax.jit, static_argnames=("krylov", "temperature", "limit"))
def jax_step(w, old, noise, time, krylov, temperature, limit, fresh):
    own = partial(loss, math=jnp, inputs=jnp.asarray(INPUTS), targets=jnp.asarray(TARGETS))
    gradient = jax.grad(own)(w)
    new = maths.lanczos(maths.hessian_product(own, w), gradient, krylov)
    space = jax.tree.map(lambda one, other: jnp.where(fresh, one, other), new, old)
    return maths.macro_step(w, gradient, space, time, temperature, noise, limit), space


def jax_trace(steps: int, lr: float, krylov: int, refresh: int = 1, temperature: float = 0.0, limit=float("inf")):
    w = jnp.asarray(START)
    space = maths.Space(jnp.zeros((krylov, N)), jnp.zeros((krylov, krylov)))
    found = []
    for step in range(steps):
        noise = jnp.asarray(noise_of(step)) if temperature else None
        w, space = jax_step(w, space, noise, lr, krylov, temperature, limit, step % refresh == 0)
        found.append(np.asarray(w))
    return found


@pytest.mark.parametrize(
    "options",
    [
        {"lr": 0.05, "krylov": 3},
        {"lr": 2.0, "krylov": 6, "refresh": 3},
        {"lr": 0.5, "krylov": 5, "temperature": 1e-3},
        {"lr": 5.0, "krylov": 4, "limit": 0.02},
    ],
    ids=lambda options: "-".join(options),
)
def test_twins_take_the_same_steps(options):
    ours, twins = torch_trace(8, **options), jax_trace(8, **options)
    for step, (one, other) in enumerate(zip(ours, twins, strict=True)):
        np.testing.assert_allclose(one, other, rtol=0, atol=TOLERANCE, err_msg=f"step {step}")
    assert np.abs(ours[-1] - START).max() > 1e-2


def test_a_twin_that_takes_negative_curvature_as_it_is_parts_ways():
    ours = torch_trace(1, lr=1.0, krylov=5)[0]
    own = partial(loss, math=jnp, inputs=jnp.asarray(INPUTS), targets=jnp.asarray(TARGETS))
    w, gradient = jnp.asarray(START), jax.grad(own)(jnp.asarray(START))
    space = maths.lanczos(maths.hessian_product(own, w), gradient, 5)
    values, vectors = jnp.linalg.eigh(space.projected)
    assert values[0] < -0.01
    plain = w - space.basis.T @ (vectors @ (maths.phi(values, 1.0) * (vectors.T @ (space.basis @ gradient))))
    assert np.abs(ours - plain).max() > 1e-3


def test_spaces_and_their_functions_agree_where_the_space_is_exhausted():
    matrix = np.diag([2.0] * 4 + [-1.0] * 3 + [5.0] * 2)
    start = drawn(9, seed=3)
    ours = _krylov.lanczos(lambda v: torch.from_numpy(matrix) @ v, torch.from_numpy(start), 6)
    twin = maths.lanczos(lambda v: jnp.asarray(matrix) @ v, jnp.asarray(start), 6)
    assert len(ours.basis) == 3 and np.abs(np.asarray(twin.basis)[3:]).max() == 0

    def both(function, other, vector: np.ndarray) -> tuple[Tensor, jax.Array]:
        return _krylov.act(ours, function, torch.from_numpy(vector)), maths.act(twin, other, jnp.asarray(vector))

    one, other = both(lambda h: _krylov.phi(h, 0.7), lambda h: maths.phi(h, 0.7), start)
    np.testing.assert_allclose(one.numpy(), other, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("time", [1e-3, 1.0, 50.0])
def test_phi_agrees(time):
    values = np.concatenate([[0.0], np.logspace(-14, 6, 60)])
    np.testing.assert_allclose(_krylov.phi(torch.from_numpy(values), time).numpy(), maths.phi(values, time), rtol=1e-13)
