"""One optimizer step, and the count of what it really executes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from nanochat.curvature import Curvature
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

    A step whose loss or gradient is not finite leaves the weights as they were. An optimizer that asks for curvature
    gets that of this batch's loss, in the precision of the weights; it limits its own steps, so nothing is clipped.

    Attributes:
        executed: steps taken.
        looks: how often the curvature was asked for.

    Args:
        model: the trunk, for its parameters.
        forward: what is called: the trunk itself, compiled, or wrapped for several processes.
        optimizer: its groups hold ``initial_lr``.
        schedule: scales them.
        grad_clip: largest global gradient norm; 0 is off.
        precision: of the forward pass.
        world: the processes over which loss and gradients are averaged.
        curved: whether the optimizer asks for curvature.
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
        curved: bool = False,
    ):
        self.model = model
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.forward = forward
        self.optimizer = optimizer
        self.schedule = schedule
        self.max_norm = grad_clip or float("inf")
        self.precision = precision
        self.world = world
        self.curved = curved
        self.executed = 0
        self.looks = 0

    def __call__(self, inputs: Tensor, targets: Tensor) -> Outcome:
        factor = self.schedule.factor(self.executed)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        with self.precision.autocast():
            loss = self.forward(inputs, targets)
        loss.backward()
        norm = self._norm() if self.curved else nn.utils.clip_grad_norm_(self.parameters, self.max_norm)
        mean = self.world.mean(loss.detach())
        wait = self.curved or inputs.device.type == "cpu"
        if not wait or bool(torch.isfinite(mean) & torch.isfinite(norm)):
            look: Any = (lambda: self._look(inputs, targets)) if self.curved else None
            self.optimizer.step(look)
        self.optimizer.zero_grad(set_to_none=True)
        self.executed += 1
        return Outcome(mean, norm, factor)

    def _norm(self) -> Tensor:
        return nn.utils.get_total_norm([each.grad for each in self.parameters if each.grad is not None])

    def _look(self, inputs: Tensor, targets: Tensor) -> Curvature:
        """The curvature of this batch's loss at the current weights, averaged over processes."""
        self.looks += 1
        parameters = [each for group in self.optimizer.param_groups for each in group["params"]]
        mean = self.world.mean if self.world.size > 1 else None
        return Curvature(lambda: self.model(inputs, targets), parameters, mean)
