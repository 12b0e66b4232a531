r"""Causal product sums in linear time, by matrix products: all pairs inside a block, a matrix of sums between blocks.

With joint features :math:`\phi = l \otimes r` the product of two inner products is one, :math:`\langle \phi_i, \phi'_j
\rangle`, so that the past is the sum of :math:`\phi'_j v_j^T`. Inside a block the two small products are cheaper than
one of joint features. Joint features live for one block and are formed again in the backward pass, which so keeps
nothing but the operands. A block reads only sums of earlier ones: no later token touches the rounding of an earlier.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from nanochat.kernels.kronecker.cost import BLOCK


def joint(left: Float[Tensor, "... a"], right: Float[Tensor, "... b"]) -> Float[Tensor, "... ab"]:
    """Features whose inner products are the products of those of ``left`` and ``right``."""
    return (left.unsqueeze(-1) * right.unsqueeze(-2)).flatten(-2)


def _apart(gradient: Tensor, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of both factors of :func:`joint`."""
    gradient = gradient.unflatten(-1, (left.shape[-1], right.shape[-1]))
    return (gradient * right.unsqueeze(-2)).sum(-1), (gradient * left.unsqueeze(-1)).sum(-2)


@dataclass
class _Block:
    """The operands of one block, one row per key head: R = B K, G queries per key, n tokens."""

    span: slice
    first: bool
    last: bool
    left_query: Tensor  # (R, G n, a)
    right_query: Tensor  # (R, G n, b)
    left_key: Tensor  # (R, n, a)
    right_key: Tensor  # (R, n, b)
    values: Tensor  # (R, n, E)

    def triangle(self, pairs: Tensor) -> Tensor:
        """(R, G n, n) with zeros where the key is later than the query, in place."""
        rows, _, keys = pairs.shape
        pairs.view(rows, -1, keys, keys).tril_()
        return pairs

    def of(self, x: Float[Tensor, "B H T c"]) -> Float[Tensor, "R Gn c"]:
        """What belongs to the block's queries, those of a group folded into one axis."""
        rows = x.reshape(self.values.shape[0], -1, *x.shape[2:])
        return rows[:, :, self.span].flatten(1, 2)


def _blocks(operands: tuple[Tensor, ...]) -> Iterator[_Block]:
    """Blocks in the order of time."""
    left_key, right_key, values = (x.flatten(0, 1) for x in operands[2:])
    rows, length, _ = values.shape
    left, right = (x.reshape(rows, -1, length, x.shape[-1]) for x in operands[:2])
    for start in range(0, length, BLOCK):
        span = slice(start, start + BLOCK)
        queries = (x[:, :, span].flatten(1, 2) for x in (left, right))
        keys = (x[:, span] for x in (left_key, right_key, values))
        yield _Block(span, start == 0, span.stop >= length, *queries, *keys)


def forward(
    left_query: Float[Tensor, "B H T a"],
    right_query: Float[Tensor, "B H T b"],
    left_key: Float[Tensor, "B K T a"],
    right_key: Float[Tensor, "B K T b"],
    values: Float[Tensor, "B K T E"],
) -> Float[Tensor, "B H T E"]:
    """See :func:`nanochat.kernels.kronecker.naive.product_sums`."""
    batch, heads, length, left = left_query.shape
    rows, dim = values.shape[0] * values.shape[1], values.shape[3]
    out = values.new_empty(rows, batch * heads // rows, length, dim)
    past = values.new_zeros(rows, left * right_query.shape[3], dim)
    for block in _blocks((left_query, right_query, left_key, right_key, values)):
        kernel = (block.left_query @ block.left_key.mT).mul_(block.right_query @ block.right_key.mT)
        sums = block.triangle(kernel) @ block.values
        if not block.first:
            sums.baddbmm_(joint(block.left_query, block.right_query), past)
        if not block.last:
            past.baddbmm_(joint(block.left_key, block.right_key).mT, block.values)
        out[:, :, block.span] = sums.unflatten(1, (out.shape[1], -1))
    return out.view(batch, heads, length, dim)


class _Gradients:
    """Five gradients, filled block by block."""

    def __init__(self, operands: tuple[Tensor, ...]):
        self.shapes = [x.shape for x in operands]
        rows, groups = operands[4].shape[0] * operands[4].shape[1], operands[0].shape[1] // operands[2].shape[1]
        self.queries = [x.new_empty(rows, groups, *x.shape[2:]) for x in operands[:2]]
        self.keys = [x.new_empty(rows, *x.shape[2:]) for x in operands[2:]]

    def write(self, span: slice, queries: tuple[Tensor, Tensor], keys: tuple[Tensor, Tensor, Tensor]) -> None:
        for whole, part in zip(self.queries, queries, strict=True):
            whole[:, :, span] = part.unflatten(1, (whole.shape[1], -1))
        for whole, part in zip(self.keys, keys, strict=True):
            whole[:, span] = part

    def add_to_keys(self, span: slice, *parts: Tensor) -> None:
        for whole, part in zip(self.keys, parts, strict=True):
            whole[:, span] += part

    def all(self) -> tuple[Tensor, ...]:
        return tuple(x.view(shape) for x, shape in zip((*self.queries, *self.keys), self.shapes, strict=True))


def _inside(block: _Block, gradient: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]:
    """Gradients of queries (two factors) and of keys (two factors, values) from the pairs of a block."""
    left, right = block.left_query @ block.left_key.mT, block.right_query @ block.right_key.mT
    pulled = block.triangle(gradient @ block.values.mT)
    of_left, of_right = pulled * right, pulled.mul_(left)
    kernel = block.triangle(left.mul_(right))
    queries = of_left @ block.left_key, of_right @ block.right_key
    return queries, (of_left.mT @ block.left_query, of_right.mT @ block.right_query, kernel.mT @ gradient)


def backward(
    gradient: Float[Tensor, "B H T E"],
    left_query: Float[Tensor, "B H T a"],
    right_query: Float[Tensor, "B H T b"],
    left_key: Float[Tensor, "B K T a"],
    right_key: Float[Tensor, "B K T b"],
    values: Float[Tensor, "B K T E"],
) -> tuple[Tensor, ...]:
    """Gradients of the five operands: forwards in time with sums of the past, backwards with those of the future."""
    operands = left_query, right_query, left_key, right_key, values
    found = _Gradients(operands)
    blocks = list(_blocks(operands))
    past = values.new_zeros(found.keys[2].shape[0], left_query.shape[3] * right_query.shape[3], values.shape[3])
    for block in blocks:
        pulled = block.of(gradient)
        queries, keys = _inside(block, pulled)
        if not block.first:
            more = _apart(pulled @ past.mT, block.left_query, block.right_query)
            queries = queries[0] + more[0], queries[1] + more[1]
        if not block.last:
            past.baddbmm_(joint(block.left_key, block.right_key).mT, block.values)
        found.write(block.span, queries, keys)
    future = past.zero_()
    for block in reversed(blocks):
        if not block.last:
            more = _apart(block.values @ future.mT, block.left_key, block.right_key)
            found.add_to_keys(block.span, *more, joint(block.left_key, block.right_key) @ future)
        if not block.first:
            future.baddbmm_(joint(block.left_query, block.right_query).mT, block.of(gradient))
    return found.all()
