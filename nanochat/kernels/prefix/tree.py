"""The balls of a tree of digit strings, numbered, and a table of one running sum per ball."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def balls(codes: Int[Tensor, "*tokens"], base: int, depth: int) -> Int[Tensor, "*tokens levels"]:
    """Numbers of the ``depth`` + 1 nested balls that hold a digit string: the whole space is 0, then level by level.

    Example:
        >>> balls(torch.tensor([6]), base=2, depth=3)    # digits 1, 1, 0
        tensor([[ 0,  2,  6, 13]])
    """
    divisors = torch.tensor([base ** (depth - level) for level in range(depth + 1)], device=codes.device)
    starts = torch.tensor([sum(base**lower for lower in range(level)) for level in range(depth + 1)])
    return codes.unsqueeze(-1).div(divisors, rounding_mode="floor") + starts.to(codes.device)


def _flat(table: Tensor, rows: Tensor) -> Tensor:
    """Rows of a table (R, nodes, D), given per stream (R, M, L), as rows of the table seen as (R nodes, D)."""
    offsets = torch.arange(table.shape[0], device=table.device) * table.shape[1]
    return (rows + offsets[:, None, None]).flatten()


def look_up(table: Float[Tensor, "R nodes D"], rows: Int[Tensor, "R M levels"]) -> Float[Tensor, "R M levels D"]:
    """The sums of the balls of M tokens in each of R streams."""
    return table.flatten(0, 1).index_select(0, _flat(table, rows)).view(*rows.shape, table.shape[2])


def insert(
    table: Float[Tensor, "R nodes D"],
    rows: Int[Tensor, "R M levels"],
    weights: Float[Tensor, "R M levels"],
    values: Float[Tensor, "R M D"],
) -> None:
    """Add every value, times its weight per level, to the sums of its balls, in place."""
    added = weights.unsqueeze(-1) * values.unsqueeze(2)
    table.view(-1, table.shape[2]).index_add_(0, _flat(table, rows), added.flatten(0, 2))
