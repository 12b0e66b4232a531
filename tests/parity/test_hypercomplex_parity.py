"""The JAX definition of quaternion and octonion attention agrees with PyTorch: outputs and vector-Jacobian products."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from demos.octonion import maths
from nanochat.attention import octonion, quaternion
from nanochat.kernels.hypercomplex import fast, naive
from nanochat.kernels.hypercomplex.linear import HamiltonLinear

TOLERANCE = 1e-10
SHAPES = {"train": (17, 17), "decode": (1, 20), "chunk": (7, 15)}
HEADS, KV_HEADS, DIM = 4, 2, 16
every_algebra = pytest.mark.parametrize("n", [4, 8])


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def positions(length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The rotary table in float64."""
    angles = torch.arange(length).double()[:, None] * 10000.0 ** (-torch.arange(0, DIM, 2).double() / DIM)
    return angles.cos(), angles.sin()


def torch_heads(n: int, unit_scores: bool, position: bool):
    """What the mixer does between its projections."""

    def function(q, k, v):
        q, k, v = q[None], k[None], v[None]
        table = positions(k.shape[2]) if position else None
        if n == 8:
            return octonion.octonion_attention(q, k, v, unit_scores, table)[0]
        if table is not None:
            last = table[0][-q.shape[2] :], table[1][-q.shape[2] :]
            q, k = (fast.turn(fast.split(x, 4), at).flatten(-2) for x, at in ((q, last), (k, table)))
        return quaternion.rotor_attention(q, k, v, unit_scores)[0]

    return function


def jax_heads(n: int, unit_scores: bool, position: bool):
    def function(q, k, v):
        k, v = (jnp.repeat(x, HEADS // KV_HEADS, 0) for x in (k, v))
        return jax.vmap(lambda q, k, v: maths.rotor_attention(q, k, v, n, unit_scores, position))(q, k, v)

    return function


@every_algebra
@pytest.mark.parametrize(
    ("phase", "unit_scores", "position"),
    [("train", True, True), ("train", False, True), ("decode", True, False), ("chunk", True, True)],
)
def test_attention(phase, unit_scores, position, n):
    queries, keys = SHAPES[phase]
    random = np.random.default_rng(queries)
    shapes = [(HEADS, queries, DIM), *[(KV_HEADS, keys, DIM)] * 2, (HEADS, queries, DIM)]
    *inputs, cotangent = (random.standard_normal(shape) for shape in shapes)
    tensors = [torch.from_numpy(x).requires_grad_() for x in inputs]
    got = torch_heads(n, unit_scores, position)(*tensors)
    want, pull = jax.vjp(jax.jit(jax_heads(n, unit_scores, position)), *inputs)
    np.testing.assert_allclose(got.detach().numpy(), want, rtol=0, atol=TOLERANCE)
    gradients = torch.autograd.grad(got, tensors, torch.from_numpy(cotangent))
    for name, one, other in zip("qkv", gradients, pull(jnp.asarray(cotangent)), strict=True):
        np.testing.assert_allclose(one.numpy(), other, rtol=0, atol=TOLERANCE, err_msg=name)


@pytest.mark.parametrize("n", [1, 2, 4, 8, 16])
def test_products(n):
    x, y = np.random.default_rng(n).standard_normal((2, 5, n))
    got = naive.multiply(torch.from_numpy(x), torch.from_numpy(y)).numpy()
    np.testing.assert_allclose(got, maths.multiply(x, y), rtol=0, atol=1e-12)


def test_quaternion_projections():
    random = np.random.default_rng(3)
    layer = HamiltonLinear(24, 16, 2, 1).double()
    inputs = {"x": random.standard_normal((5, 24)), "weight": random.standard_normal((16, 6))}
    cotangent = random.standard_normal((5, 16))
    x = torch.from_numpy(inputs["x"]).requires_grad_()
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(inputs["weight"]))
    got = layer(x)
    want, pull = jax.vjp(lambda given: maths.quaternion_linear(**given, heads_in=2, heads_out=1), inputs)
    np.testing.assert_allclose(got.detach().numpy(), want, rtol=0, atol=TOLERANCE)
    gradients = torch.autograd.grad(got, (x, layer.weight), torch.from_numpy(cotangent))
    for name, gradient in zip(inputs, gradients, strict=True):
        np.testing.assert_allclose(gradient.numpy(), pull(jnp.asarray(cotangent))[0][name], rtol=0, atol=TOLERANCE)


def test_another_convention_is_noticed():
    """The mirrored doubling is an algebra of the same kind with other signs."""
    x, y = np.random.default_rng(0).standard_normal((2, 5, 8))
    mirrored = maths.multiply(y, x)
    got = naive.multiply(torch.from_numpy(x), torch.from_numpy(y)).numpy()
    assert np.abs(got - np.asarray(mirrored)).max() > 0.1
