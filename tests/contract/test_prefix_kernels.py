"""Ball sums: the linear form against the definition, gradients by name, causality to the bit, and the count."""

from __future__ import annotations

import math
import statistics
import time
from functools import partial

import pytest
import torch
from torch import Tensor

from nanochat.counter import Counter
from nanochat.kernels.prefix import blocked, cost, cpu, naive, operators, tree

NAMES = ("query_weights", "key_weights", "values")
SHAPES = {
    "one token": (1, 2, 1, 1, 3, 2, 3),
    "below a block": (2, 4, 2, 7, 5, 2, 4),
    "one block": (1, 2, 2, blocked.BLOCK, 4, 3, 2),
    "ragged, grouped": (2, 6, 2, 2 * blocked.BLOCK + 5, 5, 3, 3),
    "one key head": (1, 4, 1, 3 * blocked.BLOCK + 1, 6, 2, 8),
    "wide tree": (1, 1, 1, blocked.BLOCK + 3, 2, 16, 2),
}
"""B, H, K, T, D, base, depth."""


def drawn(shape: tuple[int, ...], seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[list[Tensor], Tensor]:
    """Codes of queries and keys, weights of queries and keys, values; and a gradient."""
    batch, heads, kv_heads, length, dim, base, depth = shape
    generator = torch.Generator().manual_seed(seed)
    codes = [torch.randint(base**depth, (batch, n, length), generator=generator) for n in (heads, kv_heads)]
    real = [(heads, depth + 1), (kv_heads, depth + 1), (kv_heads, dim), (heads, dim)]
    tensors = [torch.randn(batch, n, length, width, generator=generator, dtype=dtype) for n, width in real]
    return [*codes, *tensors[:3]], tensors[3]


@pytest.fixture(params=["torch", "cpp"])
def backend(request) -> str:
    if request.param == "cpp" and not cpu.available():
        pytest.skip(cpu.reason())
    return request.param


@pytest.mark.parametrize("shape", SHAPES)
def test_the_linear_form_is_the_definition_and_so_is_every_gradient(shape, backend):
    inputs, gradient = drawn(SHAPES[shape])
    results = []
    for function in (naive.ball_sums, partial(operators.ball_sums, backend=backend)):
        leaves = [x.clone().requires_grad_() for x in inputs[2:]]
        y = function(*inputs[:2], *leaves, SHAPES[shape][5])
        results.append((y, torch.autograd.grad(y, leaves, gradient)))
    (want, want_gradients), (got, got_gradients) = results
    assert (got - want).abs().max() < 1e-10
    for name, one, other in zip(NAMES, got_gradients, want_gradients, strict=True):
        assert (one - other).abs().max() < 1e-10, name


def test_a_tree_of_another_base_is_caught():
    inputs, _ = drawn(SHAPES["one key head"])
    assert (operators.ball_sums(*inputs, 2) - naive.ball_sums(*inputs, 3)).abs().max() > 0.1


def test_the_operator_is_sound_for_the_compiler():
    inputs, _ = drawn(SHAPES["ragged, grouped"])
    leaves = [x.requires_grad_() for x in inputs[2:]]
    quick = ("test_schema", "test_faketensor", "test_autograd_registration")
    torch.library.opcheck(torch.ops.mgr.ball_sums.default, (*inputs[:2], *leaves, 3, "auto"), test_utils=quick)


def sorted_sums(codes: Tensor, values: Tensor) -> Tensor:
    """The textbook form for one level: stable sort by ball, one running sum, minus its value where the ball begins."""
    order = codes.argsort(stable=True)
    running = values[order].cumsum(0)
    first = torch.searchsorted(codes[order], codes[order])
    start = torch.where((first > 0)[:, None], running[(first - 1).clamp(min=0)], torch.zeros_like(running))
    return torch.empty_like(values).index_copy(0, order, running - start)


def one_level(codes: Tensor, values: Tensor, backend: str) -> Tensor:
    weights = torch.tensor([0.0, 1.0], dtype=values.dtype).expand(1, 1, len(codes), 2).contiguous()
    return operators.ball_sums(codes[None, None], codes[None, None], weights, weights, values[None, None], 4, backend)[
        0, 0
    ]


def test_no_later_token_touches_the_rounding_of_an_earlier_one_as_it_does_in_the_textbook_form(backend):
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(4, (200,), generator=generator)
    values = torch.randn(200, 8, generator=generator)
    assert torch.allclose(one_level(codes, values, backend), sorted_sums(codes, values), atol=1e-4)
    moved = values.clone()
    moved[150:] *= 1000
    assert torch.equal(one_level(codes, moved, backend)[:150], one_level(codes, values, backend)[:150])
    assert not torch.equal(sorted_sums(codes, moved)[:150], sorted_sums(codes, values)[:150])


def test_balls_are_nested_and_numbered_once():
    rows = tree.balls(torch.arange(27), 3, 3)
    assert [len(set(rows[:, level].tolist())) for level in range(4)] == [1, 3, 9, 27]
    assert sorted(set(rows.flatten().tolist())) == list(range(cost.nodes(3, 3)))
    for level in range(3):  # who shares a ball shares the one around it
        inner, outer = rows[:, level + 1], rows[:, level]
        assert len({(int(i), int(o)) for i, o in zip(inner, outer, strict=True)}) == len(set(inner.tolist()))


def test_shapes_that_do_not_fit_are_refused():
    inputs, _ = drawn(SHAPES["below a block"])
    with pytest.raises(ValueError, match="ball sums: got queries"):
        operators.ball_sums(*inputs[:4], inputs[4][:, :1], 2)


def test_codes_beyond_the_tree_are_refused_before_memory_is_touched():
    if not cpu.available():
        pytest.skip(cpu.reason())
    inputs, _ = drawn(SHAPES["below a block"])
    inputs[0][0, 0, 0] = 2**4
    with pytest.raises(ValueError, match="got code 16, need 0 to 15"):
        operators.ball_sums(*inputs, 2, "cpp")


def test_an_unknown_form_is_refused():
    inputs, _ = drawn(SHAPES["below a block"])
    with pytest.raises(ValueError, match="got backend 'triton'"):
        operators.ball_sums(*inputs, 2, "triton")


def counted(length: int) -> tuple[float, float]:
    shape = (2, 4, 2, length, 5, 2, 4)
    inputs, gradient = drawn(shape)
    leaves = [x.requires_grad_() for x in inputs[2:]]
    with Counter() as ahead:
        y = operators.ball_sums(*inputs[:2], *leaves, 2)
    with Counter() as back:
        y.backward(gradient)
    return ahead.operations.total, back.operations.total


def test_the_count_is_linear_in_length_and_that_of_the_formula():
    for place, formula in enumerate((cost.forward, cost.backward)):
        assert counted(48)[place] == formula(8, 4, 48, 5, 5)
        assert counted(96)[place] == 2 * counted(48)[place]
    inputs, _ = drawn((2, 4, 2, 48, 5, 2, 4))
    with Counter() as short:
        naive.ball_sums(*inputs, 2)
    inputs, _ = drawn((2, 4, 2, 96, 5, 2, 4))
    with Counter() as long:
        naive.ball_sums(*inputs, 2)
    assert long.operations.total > 3.5 * short.operations.total  # the definition is quadratic


@pytest.mark.slow  # times sequences of 64k tokens
def test_time_grows_with_an_exponent_of_at_most_1_15(backend):
    lengths, best = [4096, 16384, 65536], []
    for length in lengths:
        inputs, _ = drawn((1, 1, 1, length, 64, 2, 8), dtype=torch.float32)
        seconds = []
        for _ in range(9):  # the processor's time and the best of several: what else the machine does must not count
            start = time.process_time()
            operators.ball_sums(*inputs, 2, backend)
            seconds.append(time.process_time() - start)
        best.append(min(seconds))
    x, y = ([math.log(value) for value in values] for values in (lengths, best))
    exponent = statistics.linear_regression(x, y).slope
    assert exponent <= 1.15, (exponent, best)
