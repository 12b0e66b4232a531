"""The JAX definition of ultrametric attention agrees with the PyTorch mixer: outputs and vector-Jacobian products."""

from __future__ import annotations

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from demos.ultrametric import maths
from nanochat.attention import build
from nanochat.attention import ultrametric as mixer

TOLERANCE = 1e-10
HEADS, KV_HEADS, DIM, DEPTH, BASE = 4, 2, 8, 3, 3
SHAPES = {"train": (33, 33), "decode": (1, 40), "chunk": (7, 29)}
NAMES = ("q", "k", "v", "digit", "level")


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def made(**options):
    knobs = {"ultrametric": mixer.UltrametricKnobs(digits=DEPTH, base=BASE, **options)}
    module = build("ultrametric", n_embd=HEADS * DIM, n_head=HEADS, n_kv_head=KV_HEADS, knobs=knobs).double()
    torch.nn.init.normal_(module.level, generator=torch.Generator().manual_seed(0))
    return module


def jax_heads(one_head, sharpness: float, growth: float):
    """All heads from head vectors: digits, level weights, then ``one_head``."""

    def function(q, k, v, digit, level):
        steps = jnp.arange(-DEPTH, 1) * jnp.log(growth)
        levels = jnp.exp(level.reshape(HEADS, DEPTH + 1) + steps)
        groups = HEADS // KV_HEADS
        k, v = jnp.repeat(k, groups, 0), jnp.repeat(v, groups, 0)
        query, key = (jax.vmap(lambda x: maths.digit_scores(x, digit, BASE, sharpness))(x) for x in (q, k))
        return jax.vmap(one_head)(query, key, v, levels)

    return function


def assert_twins(module, torch_function, one_head, phase: str, tolerance: float = TOLERANCE) -> None:
    queries, keys = SHAPES[phase]
    random = np.random.default_rng(queries)
    shapes = [(HEADS, queries, DIM), (KV_HEADS, keys, DIM), (KV_HEADS, keys, DIM)]
    inputs = [torch.from_numpy(random.standard_normal(shape)).requires_grad_() for shape in shapes]
    cotangent = random.standard_normal((HEADS, queries, DIM))
    leaves = [*inputs, module.digit.weight, module.level]
    got = torch_function(*(x[None] for x in inputs))[0]
    function = jax_heads(one_head, module.sharpness, module.growth)
    want, pull = jax.vjp(jax.jit(function), *(jnp.asarray(x.detach().numpy()) for x in leaves))
    np.testing.assert_allclose(got.detach().numpy(), want, rtol=0, atol=tolerance)
    gradients = torch.autograd.grad(got, leaves, torch.from_numpy(cotangent))
    for name, one, other in zip(NAMES, gradients, pull(jnp.asarray(cotangent)), strict=True):
        np.testing.assert_allclose(one.numpy(), other, rtol=0, atol=tolerance, err_msg=name)


@pytest.mark.parametrize(("phase", "hard"), [("train", False), ("decode", False), ("chunk", False), ("chunk", True)])
def test_kernel_mode(phase, hard):
    module = made(hard=hard)
    assert_twins(module, module.attend, lambda *x: maths.ultrametric_attention(*x, hard=hard), phase)


def test_trie_mode():
    module = made(mode="trie")
    assert_twins(module, module.route, maths.trie_attention, "train")


def head_vectors(length: int) -> list[torch.Tensor]:
    random = np.random.default_rng(length)
    shapes = [(HEADS, length, DIM), (KV_HEADS, length, DIM), (KV_HEADS, length, DIM)]
    return [torch.from_numpy(random.standard_normal((1, *shape))) for shape in shapes]


def trie_twin(module):
    return jax_heads(maths.trie_attention, module.sharpness, module.growth)


def test_trie_mode_continued():
    """Token by token and in chunks: each token walks the tree of those before it, which is all that the cache keeps."""
    module = made(mode="trie")
    q, k, v = head_vectors(29)
    leaves = [*(x[0] for x in (q, k, v)), module.digit.weight, module.level]
    want = jax.jit(trie_twin(module))(*(jnp.asarray(x.detach().numpy()) for x in leaves))
    for cuts in (range(30), (0, 22, 23, 29)):
        with torch.no_grad():
            cache = module.init_cache(1, 29, q.device, q.dtype)
            pieces = [module.route(*(x[:, :, a:b] for x in (q, k, v)), cache) for a, b in pairwise(cuts)]
        np.testing.assert_allclose(torch.cat(pieces, 2)[0].numpy(), want, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("phase", ["decode", "chunk"])
def test_gradients_of_trie_mode_continued(phase):
    """Of new keys, new values and levels. A query's digits get theirs from new tokens only: sums of the past are data.

    Nor does the past give the digit map any, which is why it is not compared here.
    """
    new, length = SHAPES[phase]
    cut = length - new
    module = made(mode="trie")
    q, k, v = head_vectors(length)
    with torch.no_grad():
        cache = module.init_cache(1, length, q.device, q.dtype)
        module.route(*(x[:, :, :cut] for x in (q, k, v)), cache)
    late = [x[:, :, cut:].clone().requires_grad_() for x in (q, k, v)]
    got = module.route(*late, cache)[0]
    cotangent = torch.from_numpy(np.random.default_rng(0).standard_normal(got.shape))
    gradients = torch.autograd.grad(got, (*late[1:], module.level), cotangent)

    def twin(k_late, v_late, level):
        early = [x[0, :, :cut].numpy() for x in (k, v)]
        keys, values = (jnp.concatenate(pair, 1) for pair in zip(early, (k_late, v_late), strict=True))
        return trie_twin(module)(q[0].numpy(), keys, values, module.digit.weight.detach().numpy(), level)[:, cut:]

    point = [x.detach()[0].numpy() for x in late[1:]] + [module.level.detach().numpy()]

    @jax.jit
    def value_and_pullback(point, cotangent):
        value, pull = jax.vjp(twin, *point)
        return value, pull(cotangent)

    want, pulled = value_and_pullback(point, cotangent.numpy())
    np.testing.assert_allclose(got.detach().numpy(), want, rtol=0, atol=TOLERANCE)
    for name, one, other in zip(("k", "v", "level"), gradients, pulled, strict=True):
        np.testing.assert_allclose(one.numpy().reshape(other.shape), other, rtol=0, atol=TOLERANCE, err_msg=name)


def test_another_estimator_for_the_digits_is_caught():
    module = made(mode="trie")
    with pytest.raises(AssertionError, match="q"):
        assert_twins(module, module.route, lambda *x: maths.ultrametric_attention(*x, hard=True), "train")
