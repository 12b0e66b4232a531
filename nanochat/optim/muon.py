"""Muon: momentum whose update is the nearest orthogonal matrix; what is not a matrix of the stack is on AdamW."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nanochat.config import ConfigError, common_faults, option
from nanochat.optim.registry import ADAMW_OPERATIONS, OPTIMIZERS
from nanochat.registry import Operations, OptimizerRecord

if TYPE_CHECKING:
    from nanochat.gpt import GPT

COEFFICIENTS = (
    (8.4703, -25.1081, 18.6293),
    (4.1828, -3.1087, 0.5806),
    (3.9619, -2.9541, 0.5630),
    (3.2866, -2.4647, 0.5074),
    (2.2737, -1.6447, 0.4162),
)
"""Polar Express (arXiv:2505.16932): step k is the odd quintic nearest to 1, in the largest error, on the interval that
the steps before it leave of singular values in [1e-3, 1]. Five steps end within 0.12 of 1. Recomputed as linear
programs; the plain Newton-Schulz iteration is the same with one triple throughout."""

SAFETY = 1.01
"""Each step but the last works on X / 1.01: rounding must not push a singular value past its interval."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MuonKnobs:
    """Options of ``muon``."""

    momentum: float = option(0.95, "decay of the momentum")
    aux_ratio: float = option(0.15, "AdamW learning rate of embedding, head and scalars over Muon's")

    def __post_init__(self) -> None:
        faults = common_faults(self)
        if not 0 <= self.momentum < 1:
            faults.append(f"--muon-momentum: got {self.momentum:g}, need 0 up to but not 1")
        if not self.aux_ratio > 0:
            faults.append(f"--muon-aux-ratio: got {self.aux_ratio:g}, need more than 0")
        if faults:
            raise ConfigError(faults)


def operations(matrices: list[tuple[int, int]], others: int, knobs: MuonKnobs) -> Operations:
    r"""Per step, with m <= n the sides of a matrix and K = 5 steps:

    .. math:: K (4 m^2 n + 2 m^3)

    in products, and elementwise 6 mn for both momenta, 3 mn to normalise, 2 mn to decay and add, K (mn + m^2) inside
    the steps; AdamW's 14 for each of the ``others``.
    """
    total = Operations(elementwise=ADAMW_OPERATIONS * others)
    for rows, columns in matrices:
        m, n = min(rows, columns), max(rows, columns)
        steps = len(COEFFICIENTS)
        total += Operations(matmul=steps * (4 * m * m * n + 2 * m**3), elementwise=11 * m * n + steps * (m * n + m * m))
    return total


OPTIMIZERS.register(
    OptimizerRecord(
        name="muon",
        title="orthogonalised momentum on matrices, AdamW on the rest",
        source="https://kellerjordan.github.io/posts/muon/",
        cls="Muon",
        knobs=MuonKnobs,
        learning_rate=0.02,
        operations=operations,
    ),
    __name__,
)

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim.adamw import adamw

from nanochat.config import OptimConfig
from nanochat.optim._parameters import parameters_of
from nanochat.optim.registry import peak_rate

EPSILON = 1e-8

Pair = tuple[Tensor, Tensor]
"""A parameter and its gradient."""


def orthogonalise(updates: Float[Tensor, "N R C"], precision: torch.dtype | None = None) -> Float[Tensor, "N R C"]:
    r"""The polar factor :math:`U V^\top` of each matrix :math:`U S V^\top`, roughly: singular values within 0.15 of 1.

    .. math:: X \leftarrow X / \|X\|_F, \qquad X \leftarrow a X + (b A + c A^2) X,\; A = X X^\top

    with a triple (a, b, c) for each of five steps. Directions whose singular value is below a thousandth of
    :math:`\|X\|_F` stay shorter; a zero matrix stays zero. Products run in ``precision``, by default
    bf16 on CUDA and fp32 elsewhere.
    """
    tall = updates.shape[-2] > updates.shape[-1]
    x = updates.to(precision or (torch.bfloat16 if updates.is_cuda else torch.float32))
    x = x.mT if tall else x
    x = x / (torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True) + EPSILON)
    for step, (a, b, c) in enumerate(COEFFICIENTS):
        shrink = SAFETY if step < len(COEFFICIENTS) - 1 else 1.0
        gram = torch.bmm(x, x.mT)
        mix = torch.baddbmm(gram, gram, gram, beta=b / shrink**3, alpha=c / shrink**5)
        x = torch.baddbmm(x, mix, x, beta=a / shrink)
    return (x.mT if tall else x).to(updates.dtype)


class Muon(torch.optim.Optimizer):
    r"""With g the gradient and mu the momentum's decay, for each R x C matrix of the stack

    .. math:: m \leftarrow \mu m + (1-\mu) g, \qquad
              w \leftarrow (1 - \eta\lambda)\, w - \eta \sqrt{\max(1, R/C)}\; \mathrm{polar}(\mu m + (1-\mu) g).

    Embedding, head and everything that is not a matrix take AdamW steps at ``aux_ratio`` times :math:`\eta`.
    Matrices of one shape are orthogonalised in one batched product.

    Args:
        model: its parameters are grouped as ``matrices``, ``embedding``, ``head``, ``others``; empty groups are left
            out.
        optim: peak rate :math:`\eta`, :math:`\lambda`, the scales of embedding and head, the AdamW part's betas; the
            options of :class:`MuonKnobs` under ``knobs["muon"]``.
    """

    def __init__(self, model: GPT, optim: OptimConfig):
        knobs = optim.knobs.get("muon", MuonKnobs())
        rate = peak_rate("muon", optim)
        aux = rate * knobs.aux_ratio
        parts = parameters_of(model)
        matrices = {"momentum": knobs.momentum, "weight_decay": optim.weight_decay}
        rest = {"betas": (optim.beta1, optim.beta2), "weight_decay": 0.0, "fused": True}
        named = (
            ("matrices", parts.matrices, rate, matrices),
            ("embedding", parts.embedding, aux * optim.embedding_lr_scale, rest),
            ("head", parts.head, aux * optim.head_lr_scale, rest),
            ("others", parts.others, aux, rest),
        )
        groups = [
            {"name": name, "params": params, "lr": peak, "initial_lr": peak, **options}
            for name, params, peak, options in named
            if params
        ]
        super().__init__(groups, {})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            moved = [(parameter, parameter.grad) for parameter in group["params"] if parameter.grad is not None]
            if group["name"] != "matrices":
                self._adamw(group, moved)
                continue
            alike: dict[tuple, list[Pair]] = {}
            for parameter, gradient in moved:
                key = (parameter.shape, parameter.dtype, parameter.device)
                alike.setdefault(key, []).append((parameter, gradient))
            for batch in alike.values():
                self._orthogonal(group, batch)
        return loss

    def _orthogonal(self, group: dict[str, Any], moved: list[Pair]) -> None:
        """One step of matrices that share shape, type and device."""
        updates = []
        for parameter, gradient in moved:
            state = self.state[parameter]
            if not state:
                state["momentum"] = torch.zeros_like(parameter)
            state["momentum"].lerp_(gradient, 1 - group["momentum"])
            updates.append(gradient.lerp(state["momentum"], group["momentum"]))
        rows, columns = moved[0][0].shape
        step = group["lr"] * max(1.0, rows / columns) ** 0.5
        for (parameter, _), update in zip(moved, orthogonalise(torch.stack(updates)), strict=True):
            parameter.mul_(1 - group["lr"] * group["weight_decay"]).sub_(update, alpha=step)

    def _adamw(self, group: dict[str, Any], moved: list[Pair]) -> None:
        """One step of everything else, by PyTorch's own kernel."""
        states = []
        for parameter, _ in moved:
            state = self.state[parameter]
            if not state:
                state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
                state["exp_avg"] = torch.zeros_like(parameter)
                state["exp_avg_sq"] = torch.zeros_like(parameter)
            states.append(state)
        beta1, beta2 = group["betas"]
        adamw(
            [parameter for parameter, _ in moved],
            [gradient for _, gradient in moved],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=True,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=EPSILON,
            maximize=False,
        )
