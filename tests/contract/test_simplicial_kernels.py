"""The blocked 2-simplicial kernel equals the definition: outputs and every gradient by name, in bounded memory."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from nanochat.counter import count
from nanochat.kernels.simplicial import blocked, cost, naive, operators

NAMES = ("q", "k", "v", "second k", "second v")
SHAPES = [
    # batch, heads, key/value heads, queries, keys, second keys, channels, windows
    (1, 2, 2, 1, 1, 1, 7, (4, 3)),
    (2, 4, 2, 33, 33, 33, 8, (32, 8)),
    (2, 2, 1, 5, 9, 7, 6, (4, 3)),
    (1, 4, 4, 40, 100, 60, 9, (5, 8)),
    (1, 2, 1, 7, 38, 14, 12, (32, 8)),
    (1, 2, 2, 1, 32, 8, 12, (32, 8)),
    (2, 2, 2, 50, 50, 50, 5, (1, 1)),
    (1, 1, 1, 17, 20, 30, 5, (3, 12)),
    (1, 3, 3, 70, 70, 70, 3, (100, 100)),
]


def inputs(shape, dtype=torch.float64) -> list[Tensor]:
    batch, heads, kv_heads, queries, keys, second_keys, dim, _ = shape
    generator = torch.Generator().manual_seed(sum(shape[:7]))
    sizes = [(heads, queries), *[(kv_heads, keys)] * 2, *[(kv_heads, second_keys)] * 2]
    tensors = [torch.randn((batch, *size, dim), generator=generator, dtype=dtype) for size in sizes]
    return [x.requires_grad_() for x in tensors]


def slopes_of(shape, sloped: bool) -> list[float]:
    return [0.3 / (head + 1) for head in range(shape[1])] if sloped else []


def assert_equal(shape, form: str, sloped: bool, window: tuple[int, int]) -> None:
    tensors, slopes = inputs(shape), slopes_of(shape, sloped)
    y = operators.attention(*tensors, window, form, slopes)
    expected = naive.attention(*tensors, shape[-1], form, slopes)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-10)
    gradient = torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(1))
    got = torch.autograd.grad(y, tensors, gradient)
    want = torch.autograd.grad(expected, tensors, gradient)
    for name, one, other in zip(NAMES, got, want, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10, msg=lambda text, name=name: f"d {name}: {text}")


@pytest.mark.parametrize("tile", [blocked.TILE, 1], ids=["whole", "tiles"])
@pytest.mark.parametrize("sloped", [False, True])
@pytest.mark.parametrize("form", cost.FORMS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_attention_equals_the_definition(shape, form, sloped, tile, monkeypatch):
    monkeypatch.setattr(blocked, "TILE", tile)
    assert_equal(shape, form, sloped, shape[-1])


@pytest.mark.parametrize("window", [(31, 8), (33, 8), (32, 7), (32, 9), (8, 32)])
def test_another_window_is_another_function(window):
    shape = (1, 2, 2, 40, 40, 40, 6, (32, 8))
    with pytest.raises(AssertionError, match="not close"):
        assert_equal(shape, "trilinear", False, window)


def test_a_window_beyond_the_sequence_sees_all_of_it_at_no_cost():
    shape = (1, 2, 2, 9, 9, 9, 6, (9, 9))
    assert_equal(shape, "trilinear", True, (10**8, 10**8))


@pytest.mark.parametrize("form", cost.FORMS)
def test_gradients_are_those_of_finite_differences(form):
    tensors = inputs((1, 2, 1, 6, 8, 7, 4, (4, 2)))
    assert torch.autograd.gradcheck(lambda *x: operators.attention(*x, (4, 2), form, [0.1, 0.2]), tensors)


def test_the_operator_keeps_the_rules_of_torch_library():
    tensors = inputs((1, 2, 1, 5, 8, 7, 4, (4, 2)))
    arguments = (*tensors, 4, 2, "trilinear", [0.1, 0.2])
    checks = ("test_schema", "test_faketensor", "test_autograd_registration")  # tracing is the contract suite's
    torch.library.opcheck(torch.ops.mgr.simplicial_attention, arguments, test_utils=checks)


@pytest.mark.parametrize("form", cost.FORMS)
def test_bfloat16_is_computed_in_float32(form):
    wide = inputs((2, 2, 2, 40, 40, 40, 12, (16, 4)), torch.float32)
    narrow = [x.detach().bfloat16().requires_grad_() for x in wide]
    expected = operators.attention(*(x.detach().float() for x in narrow), (16, 4), form)
    y = operators.attention(*narrow, (16, 4), form)
    assert y.dtype == torch.bfloat16 and torch.equal(y, expected.bfloat16())
    y.float().sum().backward()
    assert all(x.grad.dtype == torch.bfloat16 and x.grad.isfinite().all() for x in narrow)


class Largest(TorchDispatchMode):
    """Scalars of the largest tensor that any operator returned, views left out."""

    def __init__(self) -> None:
        super().__init__()
        self.scalars = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else (result,):
            if isinstance(value, Tensor) and not function.is_view:
                self.scalars = max(self.scalars, value.numel())
        return result


def largest(function, length: int) -> int:
    tensors = [x.detach() for x in inputs((1, 2, 2, length, length, length, 8, (32, 8)), torch.float32)]
    with Largest() as mode:
        function(tensors)
    return mode.scalars


def both_passes(tensors: list[Tensor]) -> None:
    y, normaliser = blocked.forward(*tensors, (32, 8), "trilinear", [])
    blocked.backward(y, tuple(tensors), y, normaliser, (32, 8), "trilinear", [])


def all_pairs(tensors: list[Tensor]) -> None:
    q, k, _, second_k, _ = tensors
    offsets = torch.stack([second_k.roll(shift, 2) for shift in range(8)], 3)
    torch.einsum("bhid,bhisd,bhjd->bhisj", q, offsets, k)


def test_temporaries_are_bounded_by_the_tile_and_the_inputs(monkeypatch):
    monkeypatch.setattr(blocked, "TILE", 1 << 14)
    for length in (256, 512, 1024):
        assert largest(both_passes, length) <= max(2 * (1 << 14), 2 * 8 * (length + 64))
    assert largest(all_pairs, 512) == 2 * 512 * 512 * 8
    assert largest(lambda tensors: naive.attention(*tensors, (32, 8)), 512) > 32 * 2 * 512 * 8


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_charged_triples_are_those_that_the_definition_weighs(shape):
    q, k, _, second_k, _ = inputs(shape)
    seen = naive.weights(q, k, second_k, shape[-1])[0, 0] > 0
    triples, offsets = cost.triples(shape[3], shape[4], shape[-1][0], shape[5], shape[-1][1])
    assert int(seen.sum()) == triples
    assert int(seen.any(1).sum()) == offsets


@pytest.mark.parametrize("form", cost.FORMS)
def test_the_counter_charges_the_formulas(form):
    tensors = inputs((2, 4, 2, 9, 12, 10, 6, (4, 3)))
    sizes = (8, 9, 6, cost.triples(9, 12, 4, 10, 3), form)
    with torch.no_grad():
        assert count(operators.attention, *tensors, (4, 3), form) == cost.forward(*sizes, False)
    y = operators.attention(*tensors, (4, 3), form, [0.1] * 4)
    assert count(y.backward, torch.ones_like(y)) == cost.backward(*sizes, True)
    assert cost.forward(*sizes, True).matmul == 8 * sizes[3][0] * 4 * 6
