"""Product sums: the linear form against the definition, gradients by name, causality to the bit, and the count."""

from __future__ import annotations

import math
import statistics
import time

import pytest
import torch
from torch import Tensor

from nanochat.counter import Counter
from nanochat.kernels.kronecker import blocked, cost, naive, operators

NAMES = ("left_query", "right_query", "left_key", "right_key", "values")
SHAPES = {
    "one token": (1, 2, 1, 1, 3, 2, 3),
    "below a block": (2, 4, 2, 7, 4, 4, 5),
    "one block": (1, 2, 2, cost.BLOCK, 4, 3, 2),
    "a token more": (1, 2, 2, cost.BLOCK + 1, 4, 3, 2),
    "ragged, grouped": (2, 6, 2, 2 * cost.BLOCK + 5, 5, 3, 3),
    "one key head": (1, 4, 1, 3 * cost.BLOCK, 6, 2, 8),
    "one factor": (1, 1, 1, cost.BLOCK + 3, 4, 1, 2),
}
"""B, H, K, T, a, b, E."""


def drawn(shape: tuple[int, ...], seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[list[Tensor], Tensor]:
    """Operands and a gradient."""
    batch, heads, kv_heads, length, left, right, dim = shape
    generator = torch.Generator().manual_seed(seed)
    sizes = [(heads, left), (heads, right), (kv_heads, left), (kv_heads, right), (kv_heads, dim), (heads, dim)]
    *inputs, gradient = (torch.randn(batch, n, length, width, generator=generator, dtype=dtype) for n, width in sizes)
    return inputs, gradient


@pytest.mark.parametrize("shape", SHAPES)
def test_the_linear_form_is_the_definition_and_so_is_every_gradient(shape):
    inputs, gradient = drawn(SHAPES[shape])
    results = []
    for function in (naive.product_sums, operators.product_sums):
        leaves = [x.clone().requires_grad_() for x in inputs]
        y = function(*leaves)
        results.append((y, torch.autograd.grad(y, leaves, gradient)))
    (want, want_gradients), (got, got_gradients) = results
    assert (got - want).abs().max() < 1e-10
    for name, one, other in zip(NAMES, got_gradients, want_gradients, strict=True):
        assert (one - other).abs().max() < 1e-10, name


def test_a_sum_of_the_inner_products_is_caught():
    """Control: features side by side instead of joined."""
    inputs, _ = drawn(SHAPES["one key head"])
    left_query, right_query, left_key, right_key, values = inputs
    beside = torch.cat((left_query, right_query), -1), torch.cat((left_key, right_key), -1)
    one = torch.ones_like(left_query[..., :1]), torch.ones_like(left_key[..., :1])
    other = operators.product_sums(beside[0], one[0], beside[1], one[1], values)
    assert (operators.product_sums(*inputs) - other).abs().max() > 0.1


def test_the_operator_is_sound_for_the_compiler():
    inputs, _ = drawn(SHAPES["ragged, grouped"])
    leaves = [x.requires_grad_() for x in inputs]
    quick = ("test_schema", "test_faketensor", "test_autograd_registration")
    torch.library.opcheck(torch.ops.mgr.product_sums.default, tuple(leaves), test_utils=quick)


def by_one_running_sum(*inputs: Tensor) -> Tensor:
    """The textbook form without blocks, scaled by the length of the whole to keep sums small."""
    left_query, right_query, left_key, right_key, values = inputs
    scale = values.abs().amax()
    written = blocked.joint(left_key, right_key).unsqueeze(-1) * (values / scale).unsqueeze(-2)
    return scale * (blocked.joint(left_query, right_query).unsqueeze(-2) @ written.cumsum(2)).squeeze(-2)


def test_no_later_token_touches_the_rounding_of_an_earlier_one():
    """Control: a form that normalises by the whole sequence is right, and not causal to the bit."""
    inputs, _ = drawn((1, 2, 2, 3 * cost.BLOCK, 4, 4, 6), dtype=torch.float32)
    place = cost.BLOCK + 17
    moved = [torch.cat((x[:, :, :place], 1e3 * x[:, :, place:]), 2) for x in inputs]
    kept = [form(*x)[:, :, :place] for form in (operators.product_sums, by_one_running_sum) for x in (inputs, moved)]
    assert torch.equal(kept[0], kept[1])
    assert not torch.equal(kept[2], kept[3]) and torch.allclose(kept[0], kept[2], rtol=1e-3, atol=1e-3)


def test_a_longer_sequence_begins_as_a_shorter_one():
    inputs, _ = drawn((1, 2, 1, 3 * cost.BLOCK, 4, 4, 6))
    for length in (1, cost.BLOCK - 1, cost.BLOCK, cost.BLOCK + 1, 2 * cost.BLOCK + 9):
        short = operators.product_sums(*(x[:, :, :length] for x in inputs))
        assert (short - operators.product_sums(*inputs)[:, :, :length]).abs().max() < 1e-12


def test_shapes_that_do_not_fit_are_refused():
    inputs, _ = drawn(SHAPES["below a block"])
    for place in range(5):
        wrong = [x[..., :-1, :] if each == place else x for each, x in enumerate(inputs)]
        with pytest.raises(ValueError, match="product sums: got"):
            operators.product_sums(*wrong)


def counted(length: int) -> tuple[float, float]:
    inputs, gradient = drawn((2, 4, 2, length, 4, 4, 5))
    leaves = [x.requires_grad_() for x in inputs]
    with Counter() as ahead:
        y = operators.product_sums(*leaves)
    with Counter() as back:
        y.backward(gradient)
    return ahead.operations.total, back.operations.total


def test_the_count_is_that_of_the_formula_and_linear_from_block_to_block():
    step = cost.BLOCK
    for place, formula in enumerate((cost.forward, cost.backward)):
        assert counted(100)[place] == formula(8, 4, 100, (4, 4), 5).total
        counts = [counted(step * blocks)[place] for blocks in (2, 3, 4)]
        assert counts[2] - counts[1] == counts[1] - counts[0]
    growth = []
    for length in (2 * step, 4 * step):
        inputs, _ = drawn((2, 4, 2, length, 4, 4, 5))
        with Counter() as counter:
            naive.product_sums(*inputs)
        growth.append(counter.operations.total)
    assert growth[1] > 3.9 * growth[0]  # the definition is quadratic


def test_pairs_readers_and_writers_by_hand():
    for length in (1, cost.BLOCK, cost.BLOCK + 1, 3 * cost.BLOCK - 1, 3 * cost.BLOCK):
        block = [token // cost.BLOCK for token in range(length)]
        assert cost.pairs(length) == sum(block[i] == block[j] for i in range(length) for j in range(i + 1))
        assert cost.readers(length) == sum(each > 0 for each in block)
        assert cost.writers(length) == sum(each < block[-1] for each in block)


@pytest.mark.slow  # times sequences of 64k tokens: pytest -m slow tests/contract/test_kronecker_kernels.py
def test_time_grows_with_an_exponent_of_at_most_1_15():
    lengths, best = [4096, 16384, 65536], []
    for length in lengths:
        inputs, gradient = drawn((1, 1, 1, length, 16, 16, 65), dtype=torch.float32)
        leaves, seconds = [x.requires_grad_() for x in inputs], []
        for _ in range(5):  # the processor's time and the best of several: what else the machine does must not count
            start = time.process_time()
            torch.autograd.grad(operators.product_sums(*leaves), leaves, gradient)
            seconds.append(time.process_time() - start)
        best.append(min(seconds))
    x, y = ([math.log(value) for value in values] for values in (lengths, best))
    exponent = statistics.linear_regression(x, y).slope
    assert exponent <= 1.15, (exponent, best)
