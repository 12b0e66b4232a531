"""The JAX definition of gauge attention agrees with the PyTorch one: outputs and vector-Jacobian products."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from demos.matrix_gauge import maths
from nanochat.attention import build
from nanochat.attention.gauge import GaugeKnobs, frames, gauge_attention
from nanochat.attention.heads import softmax_attention
from nanochat.kernels.scan import operators

TOLERANCE = 1e-10
CUTS = {"decode": 11, "chunk": 5}
"""Tokens before the last one, or before the last seven, of 12."""

NUMBERS = {"so3": 8, "u1": 2, "so4": 16, "so": 20}
BLOCK = 5


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("group", NUMBERS)
def test_twins_agree_in_value_and_gradients(group):
    random = np.random.default_rng(0)
    shapes = {"q": (4, 7, 10), "k": (2, 7, 10), "v": (2, 7, 10), "raw": (2, 7, NUMBERS[group])}
    inputs = {name: random.standard_normal(shape) for name, shape in shapes.items()}
    cotangent = random.standard_normal(shapes["q"])

    @jax.jit
    def value_and_pullback(inputs, cotangent):
        value, pull = jax.vjp(lambda given: maths.gauge_attention(**given, group=group, block=BLOCK), inputs)
        return value, pull(cotangent)[0]

    want, pulled = value_and_pullback(inputs, cotangent)
    tensors = {name: torch.from_numpy(x)[None].requires_grad_() for name, x in inputs.items()}
    raw = tensors["raw"]
    got = gauge_attention(tensors["q"], tensors["k"], tensors["v"], frames(raw, group, None, BLOCK)[0], group)
    np.testing.assert_allclose(got[0].detach().numpy(), want, rtol=0, atol=TOLERANCE)
    gradients = torch.autograd.grad(got, list(tensors.values()), torch.from_numpy(cotangent)[None])
    for name, gradient in zip(tensors, gradients, strict=True):
        np.testing.assert_allclose(gradient[0].numpy(), pulled[name], rtol=0, atol=TOLERANCE, err_msg=name)


@pytest.mark.parametrize(("group", "phase"), [*((group, "chunk") for group in NUMBERS), ("so3", "decode")])
def test_twins_agree_when_the_transport_is_continued(group, phase):
    """Keys of the past were turned when they came; of the past only the last frame is kept, as a constant."""
    cut, length = CUTS[phase], 12
    random = np.random.default_rng(2)
    shapes = {"q": (4, length - cut, 10), "k": (2, length, 10), "v": (2, length, 10)}
    inputs = {name: random.standard_normal(shape) for name, shape in shapes.items()}
    past, inputs["raw"] = (random.standard_normal((2, n, NUMBERS[group])) for n in (cut, length - cut))
    cotangent = random.standard_normal(shapes["q"])

    def whole(q, k, v, raw):
        q, raw = jnp.pad(q, ((0, 0), (cut, 0), (0, 0))), jnp.concatenate((past, raw), 1)
        return maths.gauge_attention(q, k, v, raw, group, BLOCK)[:, cut:]

    @jax.jit
    def value_and_pullback(inputs, cotangent):
        value, pull = jax.vjp(lambda given: whole(**given), inputs)
        return value, pull(cotangent)[0]

    want, pulled = value_and_pullback(inputs, cotangent)
    tensors = {name: torch.from_numpy(x)[None].requires_grad_() for name, x in inputs.items()}
    q, k, v, raw = tensors.values()
    before, last = frames(torch.from_numpy(past)[None], group, None, BLOCK)
    after, _ = frames(raw, group, last, BLOCK)
    k, v = (operators.turn(torch.cat((before, after), 2), x, group) for x in (k, v))
    mixed = softmax_attention(operators.turn(after, q, group), k, v)
    got = operators.turn(after, mixed, group, inverse=True)
    np.testing.assert_allclose(got[0].detach().numpy(), want, rtol=0, atol=TOLERANCE)
    gradients = torch.autograd.grad(got, list(tensors.values()), torch.from_numpy(cotangent)[None])
    for name, gradient in zip(tensors, gradients, strict=True):
        np.testing.assert_allclose(gradient[0].numpy(), pulled[name], rtol=0, atol=TOLERANCE, err_msg=name)


@pytest.mark.parametrize("group", NUMBERS)
def test_the_mixer_decodes_what_the_twin_defines(group):
    """The mixer with its cache, token by token and in chunks, against the definition applied to the whole sequence."""
    knobs = {"gauge": GaugeKnobs(group=group, block=BLOCK)}
    module = build("gauge", n_embd=40, n_head=4, n_kv_head=2, knobs=knobs).double()
    torch.nn.init.normal_(module.transport.weight, std=0.5, generator=torch.Generator().manual_seed(0))
    x = torch.randn(1, 12, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        given = [each[0].numpy() for each in (*module.project(x, None), module.connection(x))]
        want = np.array(jax.jit(partial(maths.gauge_attention, group=group, block=BLOCK))(*given))
        heads = F.rms_norm(torch.from_numpy(want), (10,))
        wanted = module.out(heads.transpose(0, 1).reshape(x.shape))
        for cuts in (range(13), (0, 5, 6, 12)):
            cache = module.init_cache(1, 12, x.device, x.dtype)
            got = torch.cat([module(x[:, start:end], None, cache) for start, end in pairwise(cuts)], 1)
            np.testing.assert_allclose(got.numpy(), wanted.numpy(), rtol=0, atol=TOLERANCE)


def test_a_twin_that_multiplies_from_the_left_is_caught():
    random = np.random.default_rng(1)
    raw = random.standard_normal((1, 5, 4))
    wrong = maths.inverse(maths.frames(maths.inverse(raw.reshape(1, 5, 4, 1)).reshape(1, 5, 4), "so3"))
    right = frames(torch.from_numpy(raw)[None], "so3")[0][0].numpy()
    assert np.abs(wrong - right).max() > 0.1
