"""The JAX definition of 2-simplicial attention agrees with the PyTorch kernel: outputs and vector-Jacobian products."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from demos.simplicial import maths
from nanochat.kernels.simplicial import operators

TOLERANCE = 1e-10
PHASES = {"train": (33, 33, 33), "chunk": (7, 21, 10)}
HEADS, KV_HEADS, DIM = 4, 2, 10
SLOPES = (0.5, 0.25, 0.0, 0.0625)
NAMES = ("q", "k", "v", "second k", "second v")


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def arrays(phase: str) -> list[np.ndarray]:
    """q, k, v, k', v' and the gradient of the output."""
    random = np.random.default_rng(len(phase))
    queries, keys, second = PHASES[phase]
    sizes = [(HEADS, queries), *[(KV_HEADS, keys)] * 2, *[(KV_HEADS, second)] * 2, (HEADS, queries)]
    return [random.standard_normal((*size, DIM)) for size in sizes]


@pytest.mark.parametrize("form", ["trilinear", "determinant"])
@pytest.mark.parametrize("phase", PHASES)
def test_attention(phase, form):
    *inputs, cotangent = arrays(phase)
    tensors = [torch.from_numpy(x).requires_grad_() for x in inputs]
    got = operators.attention(*(x[None] for x in tensors), (9, 4), form, SLOPES)[0]
    gradients = torch.autograd.grad(got, tensors, torch.from_numpy(cotangent))

    def heads(q, *keys):
        shared = [jnp.repeat(x, HEADS // KV_HEADS, 0) for x in keys]
        penalties = jnp.array(SLOPES)
        one = lambda *x: maths.simplicial_attention(*x[:-1], (9, 4), form, x[-1])  # noqa: E731 - named by what it maps
        return jax.vmap(one)(q, *shared, penalties)

    @jax.jit
    def value_and_pullback(inputs, cotangent):
        value, pull = jax.vjp(heads, *inputs)
        return value, pull(cotangent)

    want, pulled = value_and_pullback(inputs, jnp.asarray(cotangent))
    np.testing.assert_allclose(got.detach().numpy(), want, rtol=0, atol=TOLERANCE)
    for name, one, other in zip(NAMES, gradients, pulled, strict=True):
        np.testing.assert_allclose(one.numpy(), other, rtol=0, atol=TOLERANCE, err_msg=name)


def test_another_window_does_not_agree():
    *inputs, _ = arrays("train")
    q, *keys = (torch.from_numpy(x)[None] for x in inputs)
    got = operators.attention(q, *keys, (9, 3))[0, 0]
    want = maths.simplicial_attention(*(jnp.asarray(x[0]) for x in inputs), (9, 4))
    assert np.abs(got.numpy() - want).max() > 0.01
