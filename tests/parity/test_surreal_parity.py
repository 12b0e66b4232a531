"""The JAX definition of surreal attention agrees with the mixer: outputs and vector-Jacobian products."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from demos.surreal import maths
from nanochat.attention import build
from nanochat.attention import surreal as mixer

TOLERANCE = 1e-10
SHAPES = {"train": (21, 21), "decode": (1, 24), "chunk": (7, 19)}
HEADS, KV_HEADS, DIM = 4, 2, 6


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def arrays(*shapes: tuple[int, ...], seed: int = 0) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [random.standard_normal(shape) for shape in shapes]


def assert_twins(torch_function, jax_function, inputs: list[np.ndarray]) -> None:
    """Values and the pullback of a random cotangent, input by input."""
    tensors = [torch.from_numpy(x).requires_grad_() for x in inputs]
    got = torch_function(*tensors)
    (cotangent,) = arrays(tuple(got.shape), seed=9)
    want, pull = jax.vjp(jax.jit(jax_function), *inputs)
    np.testing.assert_allclose(got.detach().numpy(), want, rtol=0, atol=TOLERANCE)
    gradients = torch.autograd.grad(got, tensors, torch.from_numpy(cotangent), materialize_grads=True)
    for place, (one, other) in enumerate(zip(gradients, pull(jnp.asarray(cotangent)), strict=True)):
        np.testing.assert_allclose(one.numpy(), other, rtol=0, atol=TOLERANCE, err_msg=f"input {place}")


@pytest.mark.parametrize("form", ["fast", "naive"])
@pytest.mark.parametrize("temperature", [1.0, 0.25])
@pytest.mark.parametrize("phase", SHAPES)
def test_attention(phase, temperature, form):
    queries, keys = SHAPES[phase]
    kv = (KV_HEADS, keys, DIM)
    function = mixer.surreal_attention if form == "fast" else mixer.naive

    def torch_function(q, k, v, r):
        return function(q[None], k[None], v[None], r[None, ..., None], temperature)[0]

    assert_twins(
        torch_function,
        partial(maths.surreal_attention, temperature=temperature),
        arrays((HEADS, queries, DIM), kv, kv, kv[:2], seed=queries),
    )


@pytest.mark.parametrize("phase", SHAPES)
def test_dominance(phase):
    queries, keys = SHAPES[phase]
    kv = (KV_HEADS, keys, DIM)
    q, k, v, r = arrays((HEADS, queries, DIM), kv, kv, kv[:2])
    r = r.round()

    def torch_function(q, k, v):
        return mixer.dominance(q[None], k[None], v[None], torch.from_numpy(r)[None, ..., None])[0]

    assert_twins(torch_function, lambda q, k, v: maths.dominance(q, k, v, r), [q, k, v])


def test_exponents_and_scaled_directions():
    (k,) = arrays((KV_HEADS, 5, DIM))
    assert_twins(lambda k: mixer.exponents(k[None])[0, ..., 0], maths.exponents, [k])
    w, s = arrays((8, 5), (8,))
    magnitude = mixer.Magnitude(8).double()
    with torch.no_grad():
        magnitude.weight.copy_(torch.from_numpy(s)[:, None])
    assert_twins(lambda w: w * magnitude(w)[:, None], lambda w: maths.scaled_directions(w, jnp.asarray(s)), [w])


def test_the_whole_mixer():
    """The module from its own weights: projections, exponents before the norm, attention, output map."""
    width = HEADS * DIM
    module = build("surreal", n_embd=width, n_head=HEADS, n_kv_head=KV_HEADS, position="none").double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) / 3)
    weights = {name: parameter.detach().numpy() for name, parameter in module.named_parameters()}

    def heads(x):
        return jnp.swapaxes(x.reshape(len(x), -1, DIM), 0, 1)

    def normed(x):
        return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + np.finfo(np.float64).eps)

    def jax_mixer(x):
        key_map = maths.scaled_directions(weights["key.weight"], weights["magnitude.key.weight"][:, 0])
        q, k, v = (heads(x @ w.T) for w in (weights["query.weight"], key_map, weights["value.weight"]))
        y = maths.surreal_attention(normed(q), normed(k), v, maths.exponents(k))
        return jnp.swapaxes(y, 0, 1).reshape(x.shape) @ weights["out.weight"].T

    assert_twins(lambda x: module(x[None], None)[0], jax_mixer, arrays((11, width)))


def test_another_temperature_is_caught():
    kv = (KV_HEADS, 21, DIM)
    inputs = arrays((HEADS, 21, DIM), kv, kv, kv[:2])
    with pytest.raises(AssertionError):
        assert_twins(
            lambda q, k, v, r: mixer.surreal_attention(q[None], k[None], v[None], r[None, ..., None])[0],
            partial(maths.surreal_attention, temperature=0.9),
            inputs,
        )
