"""Fast quaternion and octonion attention against the definition that writes out every pair, gradients included."""

from __future__ import annotations

import pytest
import torch

from nanochat.attention import build, octonion, quaternion
from nanochat.attention.heads import rotary_table
from nanochat.config import ConfigError
from nanochat.counter import count
from nanochat.kernels.hypercomplex import cost, fast, naive

ATTENTION = {4: quaternion.rotor_attention, 8: octonion.octonion_attention}
NAMES = {4: "quaternion", 8: "octonion"}
SIDES = [{}, {"first": True}, {"second": True}]
every_algebra = pytest.mark.parametrize("n", [4, 8])


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()


@every_algebra
@pytest.mark.parametrize("unit_scores", [True, False])
@pytest.mark.parametrize(("queries", "keys"), [(9, 9), (1, 1), (1, 9), (4, 9)])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_attention_equals_the_definition(n, unit_scores, queries, keys, kv_heads):
    inputs = {"q": normal(2, 4, queries, 16), "k": normal(2, kv_heads, keys, 16, seed=1)}
    inputs["v"] = normal(2, kv_heads, keys, 16, seed=2)
    got = ATTENTION[n](*inputs.values(), unit_scores)
    want = naive.attention(*inputs.values(), n, unit_scores=unit_scores)
    assert (got - want).abs().max() < 1e-10
    cotangent = normal(2, 4, queries, 16, seed=3).detach()
    for name, one, other in zip(
        inputs,
        torch.autograd.grad(got, list(inputs.values()), cotangent),
        torch.autograd.grad(want, list(inputs.values()), cotangent),
        strict=True,
    ):
        assert (one - other).abs().max() < 1e-10, name


@every_algebra
@pytest.mark.parametrize("sides", SIDES, ids=str)
def test_products_equal_the_recursion(n, sides):
    a, b = normal(3, n, 2), normal(3, n, 2, seed=1)
    first, second = a.transpose(-1, -2), b.transpose(-1, -2)
    want = naive.multiply(
        naive.conjugate(first) if "first" in sides else first, naive.conjugate(second) if "second" in sides else second
    )
    assert (fast.multiply(a, b, **sides).transpose(-1, -2) - want).abs().max() < 1e-12


def functions(n: int) -> list:
    return [
        *((lambda a, b, sides=sides: fast.multiply(a, b, **sides), (2, n, 1), (2, n, 1)) for sides in SIDES),
        (fast.unit, (2, n, 1)),
        (lambda x: fast.unit(x, 0), (n, 2)),
        (fast.coordinates, (n, 2), (n, 2)),
        (fast.apply, (cost.coordinates_width(n), 1), (n, 1)),
    ]


@every_algebra
@pytest.mark.parametrize("place", range(7))
def test_first_and_second_derivatives_are_those_of_differences(n, place):
    function, *shapes = functions(n)[place]
    inputs = tuple(normal(*shape, seed=seed) for seed, shape in enumerate(shapes))
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


@every_algebra
def test_zero_is_a_number_without_direction_and_harms_nothing(n):
    zero = torch.zeros(1, 1, 3, 16, requires_grad=True)
    y = ATTENTION[n](zero, zero, torch.ones(1, 1, 3, 16))
    y.sum().backward()
    assert not y.any() and zero.grad is not None and zero.grad.isfinite().all()


@every_algebra
def test_half_precision_stays_close(n):
    exact = [normal(1, 2, 33, 32, seed=seed) for seed in range(3)]
    want = naive.attention(*exact, n)
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 0.06)):
        got = ATTENTION[n](*(x.to(dtype) for x in exact))
        assert got.dtype == dtype
        assert (got - want).abs().max() < tolerance * want.abs().max()


@every_algebra
def test_memory_of_the_past_is_shared_by_later_queries(n):
    """Decoding: what one call kept of the keys serves the next, whatever was appended since."""
    inputs = [normal(1, 2, 13, 16, seed=seed).detach() for seed in range(3)]
    whole = ATTENTION[n](*inputs)
    for low, high in ((0, 1), (3, 4), (5, 13)):
        q, (k, v) = inputs[0][:, :, low:high], (x[:, :, :high] for x in inputs[1:])
        assert (ATTENTION[n](q, k, v) - whole[:, :, low:high]).abs().max() < 1e-12


@every_algebra
def test_costs_are_those_counted(n):
    a, b = normal(5, n, 3), normal(5, n, 3, seed=1)
    k, v = normal(n, 15), normal(n, 15, seed=1)
    maps = normal(cost.coordinates_width(n), 15)
    for function, inputs, ahead, back in (
        (fast.multiply, (a, b), cost.multiply(n), 2 * cost.multiply(n)),
        (fast.coordinates, (k, v), cost.coordinates(n), cost.coordinates_backward(n)),
        (fast.apply, (maps, k), cost.apply(n), cost.apply_backward(n)),
        (fast.unit, (a,), None, cost.unit_backward(n)),
    ):
        if ahead is not None:
            assert count(function, *inputs) == 15 * ahead
        y = function(*inputs)
        assert count(torch.autograd.grad, y, inputs, torch.ones_like(y)) == 15 * back


@every_algebra
def test_heads_that_hold_no_whole_numbers_are_refused(n):
    with pytest.raises(ConfigError, match=f"{NAMES[n]}: got {n + 2} channels per head, need a multiple of {n}"):
        build(NAMES[n], n_embd=2 * (n + 2), n_head=2)


@every_algebra
def test_norms_of_heads_are_replaced_not_doubled(n):
    """--qk-norm: scores ignore the sizes of queries and keys; without it they do not, and turning still does."""
    for normed in (True, False):
        mixer = build(NAMES[n], n_embd=32, n_head=2, qk_norm=normed).double()
        torch.nn.init.normal_(mixer.out.weight)
        x, rope = normal(1, 9, 32).detach(), rotary_table(9, 16, 1e4)
        before = mixer(x, rope)
        mixer.query.weight.data *= 3
        moved = (mixer(x, rope) - before).abs().max()
        assert moved < 1e-10 if normed else moved > 1e-3
