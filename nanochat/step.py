"""One optimizer step, and the count of what it really executes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from nanochat.distributed import World
from nanochat.precision import Precision
from nanochat.schedule import Schedule

if TYPE_CHECKING:
    from nanochat.gpt import GPT

StepFunction = Callable[[Tensor, Tensor], "Outcome"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a step saw before it moved the weights.

    Args:
        loss: mean training loss in nats, over all processes.
        grad_norm: global gradient norm before clipping.
        lr: factor of the schedule.
    """

    loss: Tensor
    grad_norm: Tensor
    lr: float


class Step:
    """Forward, backward, clip, optimizer; counts its own executions.

    A step whose loss or gradient is not finite leaves the weights as they were.

    Args:
        model: the trunk, for its parameters.
        forward: what is called: the trunk itself, compiled, or wrapped for several processes.
        optimizer: its groups hold ``initial_lr``.
        schedule: scales them.
        grad_clip: largest global gradient norm; 0 is off.
        precision: of the forward pass.
        world: the processes over which loss and gradients are averaged.
    """

    def __init__(
        self,
        model: GPT,
        forward: nn.Module | Callable[..., Tensor],
        optimizer: torch.optim.Optimizer,
        schedule: Schedule,
        *,
        grad_clip: float,
        precision: Precision,
        world: World,
    ):
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.forward = forward
        self.optimizer = optimizer
        self.schedule = schedule
        self.max_norm = grad_clip or float("inf")
        self.precision = precision
        self.world = world
        self.executed = 0

    def __call__(self, inputs: Tensor, targets: Tensor) -> Outcome:
        factor = self.schedule.factor(self.executed)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        with self.precision.autocast():
            loss = self.forward(inputs, targets)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.parameters, self.max_norm)
        mean = self.world.mean(loss.detach())
        if inputs.device.type != "cpu" or bool(torch.isfinite(mean) & torch.isfinite(norm)):
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.executed += 1
        return Outcome(mean, norm, factor)
