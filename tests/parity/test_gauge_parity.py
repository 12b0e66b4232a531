"""The JAX definition of gauge attention agrees with the PyTorch one: outputs and vector-Jacobian products."""

from __future__ import annotations

import jax
import numpy as np
import pytest
import torch

from demos.matrix_gauge import maths
from nanochat.attention.gauge import frames, gauge_attention

TOLERANCE = 1e-10
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


def test_a_twin_that_multiplies_from_the_left_is_caught():
    random = np.random.default_rng(1)
    raw = random.standard_normal((1, 5, 4))
    wrong = maths.inverse(maths.frames(maths.inverse(raw.reshape(1, 5, 4, 1)).reshape(1, 5, 4), "so3"))
    right = frames(torch.from_numpy(raw)[None], "so3")[0][0].numpy()
    assert np.abs(wrong - right).max() > 0.1
