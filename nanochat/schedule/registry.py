"""The registry of learning-rate schedules, and the shape that all of them have. Plain Python, no tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nanochat.config import OptimConfig
from nanochat.registry import Registry, ScheduleRecord

SCHEDULES: Registry[ScheduleRecord] = Registry("schedule")

WARMUP_SHARE = 0.05
"""Share of a run that warms up where ``warmup_steps`` is not given."""


def warmup_of(optim: OptimConfig, total_steps: int) -> int:
    """Steps of warm-up, resolved: as given, or 5 % of the run, rounded."""
    return round(WARMUP_SHARE * total_steps) if optim.warmup_steps is None else optim.warmup_steps


class Schedule:
    r"""Scales every group's learning rate: :math:`\eta_t = \eta\, f(t)`, :math:`0 \le f \le 1`.

    The first W steps warm up linearly, :math:`f(t) = (t + 1) / W`; what follows is :meth:`after_warmup`. Steps count
    from 0; ``total_steps`` is the first step that is not taken, where a decaying schedule has reached
    ``final_lr_fraction`` (so that no step is spent at a learning rate of 0).

    A schedule that listens defines :meth:`observe`; its ``restarted`` says that the loss just observed began a restart
    before which the optimizer is to forget its state.

    Args:
        optim: warm-up, decay share and final fraction.
        total_steps: steps of the run.

    Raises:
        ValueError: a step below 0.
    """

    def __init__(self, optim: OptimConfig, total_steps: int):
        self.optim = optim
        self.total_steps = total_steps
        self.warmup_steps = warmup_of(optim, total_steps)
        self.restarted = False

    def after_warmup(self, step: int) -> float:
        """The factor at a step >= W."""
        raise NotImplementedError(f"{type(self).__name__} defines no after_warmup")

    def factor(self, step: int) -> float:
        """What the peak learning rates are multiplied by at this step."""
        if step < 0:
            raise ValueError(f"schedule: got step {step}, need at least 0")
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        return self.after_warmup(min(step, self.total_steps))

    def observe(self, loss: float) -> None:
        """Hear the loss of the step just taken; schedules that only look at the step number ignore it.

        Called once for each step, in order. In a run of several processes the loss is the mean over all of them, the
        same number everywhere, so that their schedules agree without talking.
        """

    @property
    def finished(self) -> bool:
        """Whether training may end before ``total_steps``."""
        return False

    def log(self) -> dict[str, Any]:
        """What was decided and when, for ``schedule.json``; JSON values, empty where there is nothing to tell."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """What resuming needs beyond the configuration; JSON values only."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a state that :meth:`state_dict` gave."""
        if state:
            raise ValueError(f"schedule state: got {sorted(state)}, need nothing for {type(self).__name__}")


def progress(step: int, start: float, end: float) -> float:
    """How far ``step`` is from ``start`` to ``end``, 0 to 1."""
    return 1.0 if end <= start else min(1.0, max(0.0, (step - start) / (end - start)))
