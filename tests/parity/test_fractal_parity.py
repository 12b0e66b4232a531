"""The JAX definitions of fractal attention agree with the mixer: outputs and vector-Jacobian products."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from demos.ifs_fractal import maths
from nanochat.attention import build
from nanochat.attention import fractal as mixer

TOLERANCE = 1e-10
SHAPES = {"train": (70, 70), "decode": (1, 24), "chunk": (7, 19)}
HEADS, KV_HEADS, DIM, ARITY, DEPTH = 4, 2, 6, 3, 3
RATIO = 0.4


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
    gradients = torch.autograd.grad(got, tensors, torch.from_numpy(cotangent))
    for place, (one, other) in enumerate(zip(gradients, pull(jnp.asarray(cotangent)), strict=True)):
        np.testing.assert_allclose(one.numpy(), other, rtol=0, atol=TOLERANCE, err_msg=f"input {place}")


def made(form: str):
    """A mixer in float64 whose every parameter is random, and its weights."""
    knobs = {"fractal": mixer.FractalKnobs(form=form, arity=ARITY, depth=DEPTH, contraction=RATIO)}
    options = {"n_embd": HEADS * DIM, "n_head": HEADS, "n_kv_head": KV_HEADS, "knobs": knobs}
    module = build("fractal", **options).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) / 3)
    return module, {name: parameter.detach().numpy() for name, parameter in module.named_parameters()}


def soft(scores):
    """Levels of an address from real numbers."""
    return (scores.softmax(-1) if isinstance(scores, torch.Tensor) else jax.nn.softmax(scores)) + 0.01


@pytest.mark.parametrize("phase", SHAPES)
def test_path_attention_with_a_past(phase):
    """The linear form, whose first tokens went into the sums of paths, against all pairs."""
    queries, keys = SHAPES[phase]
    earlier = keys - queries
    levels, (v,) = arrays((HEADS, queries, DEPTH, ARITY), (KV_HEADS, keys, DEPTH, ARITY)), arrays((KV_HEADS, keys, DIM))

    def torch_function(query, key, v):
        query, key = soft(query)[None], soft(key)[None]
        past = torch.zeros(1, KV_HEADS, ARITY**DEPTH, DIM + 1, dtype=torch.float64)
        if earlier:
            mixer.path_attention(key[:, :, :earlier], key[:, :, :earlier], v[None, :, :earlier], past)
        return mixer.path_attention(query, key[:, :, earlier:], v[None, :, earlier:], past)[0]

    assert_twins(torch_function, lambda q, k, v: maths.path_attention(soft(q), soft(k), v), [*levels, v])


@pytest.mark.parametrize("phase", SHAPES)
def test_suffix_attention(phase):
    queries, keys = SHAPES[phase]
    inputs = arrays((KV_HEADS, keys, DIM), (KV_HEADS, keys, DIM), (HEADS,))

    def torch_function(t, v, tau):
        after = mixer.geometric_scan(t[None], RATIO, t.new_zeros(1, KV_HEADS, DIM))
        before = torch.cat((torch.zeros_like(after[:, :, :1]), after[:, :, :-1]), 2)
        return mixer.suffix_attention(after[:, :, keys - queries :], before, v[None], tau)[0]

    def jax_function(t, v, tau):
        after = maths.histories(t, RATIO)
        before = jnp.concatenate((jnp.zeros_like(after[:, :1]), after[:, :-1]), 1)
        return maths.suffix_attention(after[:, keys - queries :], before, v, tau)

    assert_twins(torch_function, jax_function, inputs)


@pytest.mark.parametrize("length", [1, 33, 70])
def test_histories_continue(length):
    inputs = arrays((KV_HEADS, length, DIM), (KV_HEADS, DIM))
    assert_twins(
        lambda t, start: mixer.geometric_scan(t, RATIO, start),
        lambda t, start: maths.histories(t, RATIO, start),
        inputs,
    )


def heads(x):
    return jnp.swapaxes(x.reshape(len(x), -1, DIM), 0, 1)


def test_the_whole_path_mixer():
    module, weights = made("path")

    def jax_mixer(x):
        q, k, v = (heads(x @ weights[f"{name}.weight"].T) for name in ("query", "key", "value"))
        q, k = (x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + np.finfo(np.float64).eps) for x in (q, k))
        q, k = (maths.addresses(x, weights["address.weight"], ARITY, module.sharpness) for x in (q, k))
        y = maths.path_attention(q, k, v)
        return jnp.swapaxes(y, 0, 1).reshape(x.shape) @ weights["out.weight"].T

    assert_twins(lambda x: module(x[None], None)[0], jax_mixer, arrays((11, HEADS * DIM)))


def test_the_whole_suffix_mixer():
    module, weights = made("suffix")

    def jax_mixer(x):
        after = maths.histories(maths.unit_steps(heads(x @ weights["key.weight"].T)), RATIO)
        before = jnp.concatenate((jnp.zeros_like(after[:, :1]), after[:, :-1]), 1)
        tau = module.tau * jnp.exp(weights["power"])
        y = maths.suffix_attention(after, before, heads(x @ weights["value.weight"].T), tau)
        return jnp.swapaxes(y, 0, 1).reshape(x.shape) @ weights["out.weight"].T

    assert_twins(lambda x: module(x[None], None)[0], jax_mixer, arrays((40, HEADS * DIM)))


def test_paths_in_another_order_are_caught():
    """The features of paths agree, and with the levels reversed they do not."""
    (levels,) = arrays((5, DEPTH, ARITY))

    def features(levels):
        return mixer.joint(*mixer.in_halves(levels))

    assert_twins(features, maths.path_features, [levels])
    with pytest.raises(AssertionError):
        assert_twins(features, lambda levels: maths.path_features(levels[:, ::-1]), [levels])


def test_an_unshifted_key_is_caught():
    t, v, tau = arrays((KV_HEADS, 21, DIM), (KV_HEADS, 21, DIM), (HEADS,))

    def torch_function(t, v, tau):
        after = mixer.geometric_scan(t[None], RATIO, t.new_zeros(1, KV_HEADS, DIM))
        return mixer.suffix_attention(after, torch.cat((0 * after[:, :, :1], after[:, :, :-1]), 2), v[None], tau)[0]

    def unshifted(t, v, tau):
        after = maths.histories(t, RATIO)
        return maths.suffix_attention(after, after, v, tau)

    with pytest.raises(AssertionError):
        assert_twins(torch_function, unshifted, [t, v, tau])
