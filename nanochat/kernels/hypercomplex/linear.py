r"""Linear maps between quaternions: :math:`y_o = \sum_i x_i w_{oi}`, weights from the right, a quarter of the numbers.

A stream of C channels is cut into heads, and a head holds its quaternions component by component, as everywhere here.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from nanochat.kernels.hypercomplex.table import signs

N = 4
_SIGNS = signs(N)


def matrix(weight: Float[Tensor, "O Q"], heads_out: int, heads_in: int) -> Float[Tensor, "O I"]:
    """The real matrix of a quaternion one, I = 4 Q; entry (c, a) of a product x w is the sign of e_a e_d times w_d.

    Args:
        weight: row (head, component, number) of the outputs, column (head, number) of the inputs.
        heads_out: heads of the outputs.
        heads_in: heads of the inputs.
    """
    cut = weight.view(heads_out, N, weight.shape[0] // (N * heads_out), heads_in, -1)
    plus = cut.unbind(1)
    minus = (None, *(-part for part in plus[1:]))
    rows = []
    for out in range(N):
        chosen = [plus[a ^ out] if _SIGNS[a][a ^ out] > 0 else minus[a ^ out] for a in range(N)]
        rows.append(torch.stack([part for part in chosen if part is not None], 3))
    return torch.stack(rows, 1).reshape(weight.shape[0], -1)


class HamiltonLinear(nn.Linear):
    """A linear map between quaternions without bias. It commutes with every common multiplication from the left.

    Every output is the sum of as many products as that of a full map of these sizes, of weights drawn with the same
    variance (that of 1 / ``in_features``). Source: arXiv:1906.04393.

    Args:
        inputs: channels, a multiple of 4 ``heads_in``.
        outputs: channels, a multiple of 4 ``heads_out``.
        heads_in: heads of the inputs.
        heads_out: heads of the outputs.

    Attributes:
        weight: (outputs, inputs / 4), see :func:`matrix`.
    """

    def __init__(self, inputs: int, outputs: int, heads_in: int, heads_out: int):
        super().__init__(inputs // N, outputs, bias=False)
        self.in_features = inputs
        self.heads = heads_out, heads_in

    def forward(self, input: Float[Tensor, "... I"]) -> Float[Tensor, "... O"]:
        return F.linear(input, matrix(self.weight, *self.heads))
