"""The JAX definition of tropical attention agrees with the PyTorch kernels: outputs and vector-Jacobian products."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from demos.tropical import maths
from nanochat.attention import build
from nanochat.attention import tropical as mixer
from nanochat.kernels.maxplus import cpu, maslov, operators, recurrent

TOLERANCE = 1e-10
SHAPES = {"train": (33, 33), "decode": (1, 40), "chunk": (7, 29)}
HEADS, KV_HEADS, DIM = 4, 2, 10


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


@pytest.fixture(params=["torch", "cpp"])
def backend(request) -> str:
    if request.param == "cpp" and not cpu.available():
        pytest.skip(cpu.reason())
    return request.param


def arrays(*shapes: tuple[int, ...], seed: int = 0) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [random.standard_normal(shape) for shape in shapes]


def head_arrays(phase: str) -> list[np.ndarray]:
    queries, keys = SHAPES[phase]
    kv = (KV_HEADS, keys, DIM)
    return arrays((HEADS, queries, DIM), kv, kv, (HEADS, queries, DIM), seed=queries)


def assert_twins(torch_function, jax_function, inputs: list[np.ndarray], cotangent: np.ndarray) -> None:
    tensors = [torch.from_numpy(x).requires_grad_() for x in inputs]
    got = torch_function(*tensors)

    @jax.jit
    def value_and_pullback(inputs, cotangent):
        value, pull = jax.vjp(jax_function, *inputs)
        return value, pull(cotangent)

    want, pulled = value_and_pullback(inputs, jnp.asarray(cotangent))
    np.testing.assert_allclose(got.detach().numpy(), want, rtol=0, atol=TOLERANCE)
    gradients = torch.autograd.grad(got, tensors, torch.from_numpy(cotangent))
    for place, (one, other) in enumerate(zip(gradients, pulled, strict=True)):
        np.testing.assert_allclose(one.numpy(), other, rtol=0, atol=TOLERANCE, err_msg=f"input {place}")


@pytest.mark.parametrize("score", ["hilbert", "maxplus"])
@pytest.mark.parametrize("phase", SHAPES)
def test_attention(phase, score, backend):
    *inputs, cotangent = head_arrays(phase)
    groups = HEADS // KV_HEADS

    def torch_function(q, k, v):
        return operators.attention(q[None], k[None], v[None], score, backend)[0]

    def jax_function(q, k, v):
        one = partial(maths.tropical_attention, score=score)
        return jax.vmap(one)(q, jnp.repeat(k, groups, 0), jnp.repeat(v, groups, 0))

    assert_twins(torch_function, jax_function, inputs, cotangent)


@pytest.mark.parametrize("score", ["hilbert", "maxplus"])
@pytest.mark.parametrize("positions", [True, False])
@pytest.mark.parametrize("phase", SHAPES)
def test_what_the_mixer_does_between_its_projections(phase, positions, score):
    *inputs, cotangent = head_arrays(phase)
    knobs = {"tropical": mixer.TropicalKnobs(score=score)}
    module = build("tropical", n_embd=HEADS * DIM, n_head=HEADS, n_kv_head=KV_HEADS, knobs=knobs)

    def torch_function(q, k, v):
        q, k, v = q[None], k[None], v[None]
        if positions:
            q, k = mixer.translate(q, k, score)
        return module.attend(q, k, v)[0]

    def jax_function(q, k, v):
        return maths.mix_heads(q, k, v, score, positions)

    assert_twins(torch_function, jax_function, inputs, cotangent)


@pytest.mark.parametrize("score", ["hilbert", "maxplus"])
@pytest.mark.parametrize("phase", SHAPES)
def test_finite_beta(phase, score, beta=3.0):
    *inputs, cotangent = head_arrays(phase)
    knobs = {"tropical": mixer.TropicalKnobs(score=score, beta=beta)}
    module = build("tropical", n_embd=HEADS * DIM, n_head=HEADS, n_kv_head=KV_HEADS, knobs=knobs)

    def torch_function(q, k, v):
        return module.attend(*mixer.translate(q[None], k[None], score), v[None])[0]

    assert_twins(torch_function, lambda q, k, v: maths.mix_heads(q, k, v, score, True, beta), inputs, cotangent)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("continued", [False, True])
def test_the_linear_form(backend, continued, ties):
    """From the first token on and from a state; with ties, gradients show which of equal paths was taken."""
    heads = (KV_HEADS, 33, DIM)
    *inputs, cotangent, start = arrays(heads, heads, heads, heads, (KV_HEADS, DIM, DIM), seed=5)
    if ties:
        inputs, start = [x.round() for x in inputs], start.round()
    if not continued:
        start = np.full_like(start, -np.inf)

    def torch_function(q, k, v):
        return recurrent.recurrence(q[None], k[None], v[None], torch.from_numpy(start)[None], backend)[0][0]

    assert_twins(
        torch_function, lambda q, k, v: jax.vmap(maths.recurrent_attention)(q, k, v, start)[0], inputs, cotangent
    )
    tensors = [torch.from_numpy(x)[None] for x in (*inputs, start)]
    _, last = recurrent.recurrence(*tensors, backend)
    want = jax.vmap(maths.recurrent_attention)(*inputs, start)[1]
    np.testing.assert_allclose(last[0].numpy(), want, rtol=0, atol=TOLERANCE)


def test_the_linear_form_at_finite_beta_decodes():
    heads = (KV_HEADS, 21, DIM)
    *inputs, start = arrays(heads, heads, heads, (KV_HEADS, DIM, DIM), seed=6)
    got = maslov.recurrence(*(torch.from_numpy(x)[None] for x in (*inputs, start)), beta=3.0)
    want = jax.vmap(partial(maths.recurrent_attention, beta=3.0))(*inputs, start)
    for one, other in zip(got, want, strict=True):
        np.testing.assert_allclose(one[0].numpy(), other, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("beta", [None, 2.0])
def test_the_linear_form_equals_the_definition_in_jax(beta):
    *inputs, cotangent = arrays((17, 6), (17, 6), (17, 6), (17, 6), seed=8)
    forms = (
        lambda q, k, v: maths.recurrent_attention(q, k, v, beta=beta)[0],
        lambda q, k, v: maths.tropical_attention(q, k, v, "maxplus", beta),
    )
    results = []
    for form in forms:

        @jax.jit
        def value_and_pullback(*inputs, form=form):
            value, pull = jax.vjp(form, *inputs)
            return value, *pull(jnp.asarray(cotangent))

        results.append(value_and_pullback(*inputs))
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=TOLERANCE)


def test_matrix_product(backend):
    *inputs, cotangent = arrays((3, 17, 9), (3, 9, 21), (3, 17, 21))
    assert_twins(lambda a, b: operators.matmul(a, b, backend), maths.maxplus_product, inputs, cotangent)


@pytest.mark.parametrize("score", ["hilbert", "maxplus"])
@pytest.mark.parametrize("phase", SHAPES)
def test_margins(phase, score):
    q, k, v, _ = head_arrays(phase)
    q = q[:KV_HEADS]
    found = mixer.margins(*(torch.from_numpy(x)[None] for x in (q, k, v)), score)
    gap, _ = jax.vmap(lambda q, k, v: maths.margins(q, k, v, score))(q, k, v)
    np.testing.assert_allclose(found.gap[0].numpy(), gap, rtol=0, atol=TOLERANCE)
    for moved, radius in found.radius.items():
        np.testing.assert_allclose(radius[0].numpy(), maths.radius(gap, score, moved).min(-1), rtol=0, atol=TOLERANCE)
    assert maths.LIPSCHITZ == mixer.LIPSCHITZ


def test_ties_go_the_same_way(backend):
    inputs = [x.round() for x in arrays((1, 20, 6), (1, 20, 6), (1, 20, 6), seed=3)]
    (cotangent,) = arrays((1, 20, 6), seed=4)
    for score in ("hilbert", "maxplus"):
        assert_twins(
            lambda q, k, v, score=score: operators.attention(q[None], k[None], v[None], score, backend)[0],
            lambda q, k, v, score=score: maths.tropical_attention(q[0], k[0], v[0], score)[None],
            inputs,
            cotangent,
        )
