"""AdamW: adaptive moments with decoupled weight decay, PyTorch's fused kernel over named groups."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nanochat.optim.registry import ADAMW_OPERATIONS, OPTIMIZERS
from nanochat.registry import NoKnobs, Operations, OptimizerRecord

if TYPE_CHECKING:
    from nanochat.gpt import GPT


def operations(matrices: list[tuple[int, int]], others: int, knobs: NoKnobs) -> Operations:
    """14 scalar operations per weight and step, whatever its shape."""
    count = sum(rows * columns for rows, columns in matrices) + others
    return Operations(elementwise=ADAMW_OPERATIONS * count)


OPTIMIZERS.register(
    OptimizerRecord(
        name="adamw",
        title="AdamW, fused",
        source="arXiv:1711.05101",
        cls="AdamW",
        learning_rate=3e-3,
        operations=operations,
    ),
    __name__,
)

import torch

from nanochat.config import OptimConfig
from nanochat.optim._parameters import groups_of
from nanochat.optim.registry import peak_rate


class AdamW(torch.optim.AdamW):
    r"""With g the gradient, :math:`m \leftarrow \beta_1 m + (1-\beta_1) g`, :math:`v \leftarrow \beta_2 v +
    (1-\beta_2) g^2` and hats for bias correction,

    .. math:: w \leftarrow (1 - \eta\lambda)\, w - \eta\, \hat m / (\sqrt{\hat v} + \epsilon).

    Only matrices of the stack decay; embedding, head and all else have :math:`\lambda = 0`.

    Args:
        model: its parameters are grouped as ``matrices``, ``embedding``, ``head``, ``others``; empty groups are left
            out.
        optim: peak rate :math:`\eta` of matrices, the scales of embedding and head, :math:`\lambda`, both betas.
    """

    def __init__(self, model: GPT, optim: OptimConfig):
        rate = peak_rate("adamw", optim)
        super().__init__(groups_of(model, optim, rate), lr=rate, betas=(optim.beta1, optim.beta2), fused=True)
