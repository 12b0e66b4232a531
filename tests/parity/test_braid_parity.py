"""The JAX definition of braid attention agrees with the PyTorch one: outputs and vector-Jacobian products."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from demos.knot_braid import maths
from nanochat.attention.braid import braid_attention, choose, crossing_weights, frames, gates, generators
from nanochat.attention.heads import repeat_heads, softmax_attention
from nanochat.kernels.scan import operators

TOLERANCE = 1e-10
HEADS, KV_HEADS, DIM, LANES = 4, 2, 10, 2
SHAPES = {"train": (9, 9), "decode": (1, 12), "chunk": (5, 11)}


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def arrays(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {name: random.standard_normal(shape) for name, shape in shapes.items()}


def assert_twins(torch_function, jax_function, inputs: dict[str, np.ndarray]) -> None:
    """Values and the pullback of a random cotangent, input by input."""
    tensors = {name: torch.from_numpy(x).requires_grad_() for name, x in inputs.items()}
    got = torch_function(**tensors)
    cotangent = np.random.default_rng(9).standard_normal(got.shape)

    @jax.jit
    def value_and_pullback(inputs, cotangent):
        value, pull = jax.vjp(lambda given: jax_function(**given), inputs)
        return value, pull(cotangent)[0]

    want, pulled = value_and_pullback(inputs, jnp.asarray(cotangent))
    np.testing.assert_allclose(got.detach().numpy(), want, rtol=0, atol=TOLERANCE)
    gradients = torch.autograd.grad(got, list(tensors.values()), torch.from_numpy(cotangent))
    for name, gradient in zip(tensors, gradients, strict=True):
        np.testing.assert_allclose(gradient.numpy(), pulled[name], rtol=0, atol=TOLERANCE, err_msg=name)


def transported(length: int = 9) -> dict[str, np.ndarray]:
    shapes = {"q": (HEADS, length, DIM), "k": (KV_HEADS, length, DIM), "v": (KV_HEADS, length, DIM)}
    return arrays(shapes | {"scores": (KV_HEADS, length, 4, LANES), "angle": (KV_HEADS, LANES)})


def torch_transport(q, k, v, scores, angle, cut: int = 0, mode: str = "soft", law: str = "ybe"):
    """In one piece, or with the strands carried over a cut, as decoding does it."""
    choice, table = choose(scores[None], 0.1, mode), generators(angle, law)
    if not cut:
        return braid_attention(q[None], k[None], v[None], frames(choice, table)[0])[0]
    before, last = frames(choice[:, :, :cut], table)
    frame = torch.cat((before, frames(choice[:, :, cut:], table, last)[0]), 2)
    q, k, v = (operators.turn(frame, x[None], "so4") for x in (q, k, v))
    late = softmax_attention(q[:, :, cut:], k, v)
    return operators.turn(frame[:, :, cut:], late, "so4", inverse=True)[0]


@pytest.mark.parametrize(("mode", "law"), [("soft", "ybe"), ("discrete", "ybe"), ("soft", "restricted")])
def test_transport_in_training(mode, law):
    assert_twins(
        partial(torch_transport, mode=mode, law=law),
        partial(maths.braid_attention, tau=0.1, mode=mode, law=law),
        transported(),
    )


def test_transport_continued():
    """Decoding, and a chunk."""
    inputs = transported()
    tensors = {name: torch.from_numpy(x) for name, x in inputs.items()}
    want = jax.jit(partial(maths.braid_attention, tau=0.1))(**inputs)
    for cut in (len(want[0]) - 1, 4):
        np.testing.assert_allclose(torch_transport(**tensors, cut=cut).numpy(), want[:, cut:], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(("mode", "law"), [("soft", "ybe"), ("discrete", "ybe"), ("soft", "restricted")])
@pytest.mark.parametrize("phase", SHAPES)
def test_crossing(phase, mode, law):
    queries, keys = SHAPES[phase]
    shapes = {"q": (HEADS, queries, DIM), "k": (KV_HEADS, keys, DIM), "v": (KV_HEADS, keys, DIM)}
    inputs = arrays(shapes)
    if law == "ybe":
        inputs["keep"] = np.array([0.9, 0.5, 0.2, 0.7])

    def torch_function(q, k, v, keep=None):
        k, v = (repeat_heads(x[None], HEADS // KV_HEADS) for x in (k, v))
        return (crossing_weights(gates(q[None], k, 0.1, mode), keep) @ v)[0]

    assert_twins(torch_function, partial(maths.crossing_attention, tau=0.1, mode=mode), inputs)


def test_a_twin_with_mirrored_generators_is_caught():
    inputs = transported()
    inputs["angle"] = -inputs["angle"]
    wrong = jax.jit(partial(maths.braid_attention, tau=0.1))(**inputs)
    inputs["angle"] = -inputs["angle"]
    right = torch_transport(**{name: torch.from_numpy(x) for name, x in inputs.items()})
    assert np.abs(wrong - right.numpy()).max() > 0.1
