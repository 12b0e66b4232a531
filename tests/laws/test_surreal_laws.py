"""Laws of surreal attention in float64, each with a control that breaks it."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from nanochat.attention.heads import softmax_attention
from nanochat.attention.surreal import (
    Magnitude,
    Surreal,
    SurrealKnobs,
    carry,
    dominance,
    exponents,
    naive,
    one_scale_limit,
    surreal_attention,
)
from nanochat.config import ConfigError, GPTConfig
from nanochat.initialise import Draw

T, D = 19, 8


def drawn(seed: int = 0, heads: int = 4, kv_heads: int = 2, spread: float = 1.0) -> tuple[Tensor, ...]:
    """Queries and directions of keys (both normed), values, exponents."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(2, *shape, generator=generator, dtype=torch.float64)

    q, k, v = normal(heads, T, D), normal(kv_heads, T, D), normal(kv_heads, T, D)
    return F.rms_norm(q, (D,)), F.rms_norm(k, (D,)), v, spread * normal(kv_heads, T, 1)


def largest(one: Tensor, other: Tensor) -> float:
    return (one - other).abs().max().item()


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_fast_form_is_the_definition_with_every_gradient(temperature, kv_heads):
    given_ = drawn(kv_heads=kv_heads)
    weights = torch.randn(2, 4, T, D, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    results = []
    for function in (naive, surreal_attention):
        inputs = [each.clone().requires_grad_() for each in given_]
        y = function(*inputs, temperature)
        results.append((y, *torch.autograd.grad((y * weights).sum(), inputs)))
    for name, one, other in zip(("y", "q", "k", "v", "r"), *results, strict=True):
        assert other.abs().max() > 1e-3, f"{name}: nothing to compare"
        assert largest(one, other) < 1e-10, name


def test_the_width_that_scales_scores_is_that_of_the_mantissa():
    """Control: with 1 / sqrt(D + 2), which stock attention would take, it is another function."""
    q, k, v, r = drawn(kv_heads=4)
    carried = carry(k, r * D**0.5)
    wrong = softmax_attention(F.pad(q, (0, 2), value=1.0), carried, F.pad(v, (0, 2)))[..., :D]
    assert largest(wrong, naive(q, k, v, r)) > 1e-3


@pytest.mark.parametrize("queries", [1, 2, 7])
def test_the_last_queries_alone_get_what_they_get_in_the_whole(queries):
    q, k, v, r = drawn()
    assert largest(surreal_attention(q[:, :, -queries:], k, v, r), naive(q, k, v, r)[:, :, -queries:]) < 1e-12
    assert largest(naive(q[:, :, -queries:], k, v, r), naive(q, k, v, r)[:, :, -queries:]) < 1e-12


def test_keys_of_one_scale_are_softmax_attention_and_of_two_are_not():
    assert one_scale_limit() < 1e-12
    q, k, v, r = drawn(kv_heads=4)
    assert largest(surreal_attention(q, k, v, 0 * r), softmax_attention(q, k, v)) < 1e-12
    assert largest(surreal_attention(q, k, v, r), softmax_attention(q, k, v)) > 1e-2


def odds(attention: object, q: Tensor, keys: Tensor) -> Tensor:
    """Weights of two tokens for the last query, read off values that are unit vectors: their quotient."""
    v = torch.zeros(*keys.shape[:3], D, dtype=torch.float64)
    v[:, :, 3, 0] = v[:, :, 5, 1] = 1
    y = attention(q, keys, v)[:, :, -1]
    return y[..., 0] / y[..., 1]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_scale_survives_the_norm_as_a_power_of_the_odds(temperature):
    """Key 3 times c: its odds times c^(1/temperature). Control: QK norm without exponents does not see c."""
    q, k, _, r = drawn(kv_heads=4)
    keys = k * r.exp()
    louder = keys.clone()
    louder[:, :, 3] *= 7

    def surreal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return surreal_attention(q, F.rms_norm(k, (D,)), v, exponents(k), temperature)

    def normed(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return softmax_attention(q, F.rms_norm(k, (D,)), v)

    ratio = odds(surreal, q, louder) / odds(surreal, q, keys)
    assert largest(ratio, torch.full_like(ratio, 7 ** (1 / temperature))) < 1e-9
    assert largest(odds(normed, q, louder), odds(normed, q, keys)) < 1e-9


def test_a_factor_common_to_all_keys_divides_out():
    """Control: in softmax attention without QK norm it is a temperature."""
    q, k, v, r = drawn(kv_heads=4)
    keys = k * r.exp()
    outputs = [surreal_attention(q, F.rms_norm(c * keys, (D,)), v, exponents(c * keys)) for c in (1.0, 1e2, 1e5)]
    assert max(largest(outputs[0], each) for each in outputs) < 1e-9
    assert largest(softmax_attention(q, 1e-3 * keys, v), softmax_attention(q, keys, v)) > 1e-2


def bound(q: Tensor, k: Tensor, v: Tensor, r: Tensor, temperature: float, gap_factor: float = 1.0) -> Tensor:
    """The dominance theorem's bound for the last query, per head and channel."""
    mantissa = (q[:, :, -1:] @ k.mT)[:, :, 0] * D**-0.5
    power = r[..., 0]
    top = power.amax(-1, keepdim=True)
    leading = power == top
    gap = top[..., 0] - power.masked_fill(leading, -math.inf).amax(-1)
    spread = mantissa.amax(-1) - mantissa.amin(-1)
    rho = (~leading).sum(-1) / leading.sum(-1) * (spread - gap_factor * gap / temperature).exp()
    return (rho / (1 + rho))[..., None] * (v.amax(2) - v.amin(2))


@pytest.mark.parametrize("temperature", [0.2, 0.1, 0.05])
def test_dominance_bound_holds_and_its_constant_matters(temperature):
    """Integer exponents, so that classes have several members. Control: twice the gap is too much to claim."""
    broken = 0
    for seed in range(20):
        q, k, v, r = drawn(seed, kv_heads=4)
        q, r = 0.2 * q, (1.5 * r).round()
        r[:, :, 0] = r.amax(2) - 1  # every head has a second class
        error = (surreal_attention(q, k, v, r, temperature) - dominance(q, k, v, r))[:, :, -1].abs()
        assert error.max() > 1e-9 and (error <= bound(q, k, v, r, temperature) + 1e-12).all()
        broken += int((error > bound(q, k, v, r, temperature, gap_factor=2.0) + 1e-12).any())
    assert broken > 10


def test_orders_of_magnitude_apart_the_limit_is_reached_exactly():
    """Gaps of 800 nats: what lies below has weight 0 in float64. Control: gaps of 8 leave something."""
    for factor, equal in ((800.0, True), (8.0, False)):
        q, k, v, r = drawn()
        r = factor * r.round()
        got, limit = surreal_attention(q, k, v, r), dominance(q, k, v, r)
        assert (largest(got, limit) < 1e-10) == equal


def test_every_finite_exponent_gives_a_finite_result():
    """Control: weights that multiply values, exp(r) v over exp(r), overflow in fp32 at 89."""
    q, k, v, r = (each.float() for each in drawn(kv_heads=4))
    r = 100 * r.round()
    got = surreal_attention(q, k, v, r)
    assert got.isfinite().all() and largest(got.double(), naive(*(each.double() for each in (q, k, v, r)))) < 1e-3
    product = softmax_attention(q, k, r.exp() * v) / softmax_attention(q, k, r.exp().expand_as(v))
    assert not product.isfinite().all()


Monomial = st.tuples(st.integers(-6, 6), st.integers(-6, 6))


@given(Monomial, Monomial, Monomial)
def test_weights_are_ordered_lexicographically_and_products_keep_the_order(one, other, factor):
    """At a base large against mantissas: exponent first, then mantissa; a common factor changes nothing.

    Control: at temperature 30 a large mantissa outweighs a larger exponent.
    """

    def preferred(first: tuple[int, int], second: tuple[int, int], temperature: float) -> float:
        (r1, m1), (r2, m2) = first, second
        q = torch.full((1, 1, 1, 1), 1.0, dtype=torch.float64)
        k = torch.tensor([[[[m1], [m2]]]], dtype=torch.float64)
        v = torch.tensor([[[[1.0], [0.0]]]], dtype=torch.float64)
        r = torch.tensor([[[[r1], [r2]]]], dtype=torch.float64)
        return surreal_attention(q, k, v, r, temperature).item()

    def times(first: tuple[int, int], second: tuple[int, int]) -> tuple[int, int]:
        return first[0] + second[0], first[1] + second[1]

    share = preferred(one, other, 1 / 20)
    assert (share > 0.5, share < 0.5) == (one > other, one < other)
    assert preferred(times(one, factor), times(other, factor), 1 / 20) == pytest.approx(share, abs=1e-9)
    assert preferred((1, 0), (0, 6), 30.0) < 0.5


def test_rows_of_the_key_map_are_scale_times_direction():
    """Gradients of a row are orthogonal to it, and its length is irrelevant. Control: a plain map has neither."""
    generator = torch.Generator().manual_seed(0)
    x, w = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((5, 6), (4, 6)))
    target = torch.randn(5, 4, generator=generator, dtype=torch.float64)
    scale = Magnitude(4).double()
    with torch.no_grad():
        scale.weight.copy_(torch.randn(4, 1, generator=generator, dtype=torch.float64))
    for normalised in (True, False):

        def mapped(w: Tensor, normalised: bool = normalised) -> Tensor:
            return (x @ w.T) * (scale(w) if normalised else 1)

        w = w.detach().requires_grad_()
        (gradient,) = torch.autograd.grad((mapped(w) * target).sum(), w)
        along = (gradient * w).sum(1).abs().max().item()
        stretched = largest(mapped(w), mapped(w * torch.tensor([[2.0], [0.1], [30.0], [1.0]])))
        assert (along < 1e-10, stretched < 1e-10) == (normalised, normalised)
    assert largest((scale(w) * w.norm(dim=1)).log(), scale.weight[:, 0]) < 1e-10


def test_log_scale_of_all_rows_is_the_exponent():
    """s + log c adds log c to every exponent and nothing else; a key of zeros has an exponent too."""
    _, k, _, _ = drawn()
    assert largest(exponents(1000 * k), exponents(k) + math.log(1000)) < 1e-9
    assert exponents(torch.zeros(1, 1, 1, D)).item() == pytest.approx(-20.8, abs=0.1)
    wild = torch.zeros(1, 1, 1, D, requires_grad=True)
    assert torch.autograd.grad(exponents(wild).sum(), wild)[0].isfinite().all()


def test_exponents_keep_sixteen_bits_where_bfloat16_keeps_eight():
    power = torch.linspace(-60, 60, 997)[None, None, :, None]
    parts = carry(torch.zeros(1, 1, 997, D), power).bfloat16()[..., D:].double()
    assert ((parts.sum(-1, keepdim=True) - power) / power.abs().clamp_min(1)).abs().max() < 2**-16
    assert ((power.bfloat16() - power) / power.abs().clamp_min(1)).abs().max() > 2**-10


def test_the_mixer_starts_at_unit_rows_and_reads_scale_before_the_norm():
    config = GPTConfig(n_embd=32, n_head=4, attention_type="surreal")
    mixer = Surreal(config, 0)
    mixer.init_weights(Draw(0, "stack.blocks.0.mixer"))
    x = torch.randn(1, 9, 32, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        before = mixer.heads(x, None)
        mixer.scales.weight += math.log(5)
        after = mixer.heads(x, None)
    assert all(largest(one, other) < 1e-4 for one, other in zip(before[:3], after[:3], strict=True))
    assert largest(after[3], before[3] + math.log(5)) < 1e-5


def test_temperatures_that_are_none_are_refused():
    for wrong in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ConfigError, match="temperature: got"):
            SurrealKnobs(temperature=wrong)
