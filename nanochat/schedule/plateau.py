"""Cut the learning rate whenever the smoothed loss has stopped falling for a while."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nanochat.config import ConfigError, OptimConfig, common_faults, option
from nanochat.registry import ScheduleRecord
from nanochat.schedule._watch import Watch, listening_faults
from nanochat.schedule.registry import SCHEDULES, Schedule

PATIENCE_SHARE = 0.05
"""Patience as a share of the steps after warm-up, where it is not given."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlateauKnobs:
    """Options of ``plateau``."""

    decay: float = option(0.5, "learning rate after a cut over that before it")
    patience: int | None = option(
        None, "steps without an improvement before a cut; 5 % of the run if not given", unit="steps"
    )
    epsilon: float = option(0.001, "smallest improvement of the smoothed loss, relative")
    smoothing: float = option(0.98, "decay of the loss's exponential average")

    def __post_init__(self) -> None:
        faults = common_faults(self) + listening_faults(self, "plateau")
        if faults:
            raise ConfigError(faults)


SCHEDULES.register(
    ScheduleRecord(
        name="plateau",
        title="cut when the loss stops falling",
        source="arXiv:1512.03385, section 3.4",
        cls="Plateau",
        knobs=PlateauKnobs,
    ),
    __name__,
)


class Plateau(Schedule):
    r"""With n cuts so far, decay :math:`\gamma` and the final fraction r,

    .. math:: f = \max(r, \gamma^n).

    A cut follows ``patience`` losses in a row after warm-up that did not improve; an improvement starts the count
    again.
    """

    def __init__(self, optim: OptimConfig, total_steps: int):
        super().__init__(optim, total_steps)
        self.knobs: PlateauKnobs = optim.knobs.get("plateau", PlateauKnobs())
        share = max(1, round(PATIENCE_SHARE * (total_steps - self.warmup_steps)))
        self.patience = share if self.knobs.patience is None else self.knobs.patience
        self.watch = Watch(self.knobs.smoothing, self.knobs.epsilon)
        self.seen = self.waited = self.cuts = 0

    def after_warmup(self, step: int) -> float:
        return max(self.optim.final_lr_fraction, self.knobs.decay**self.cuts)

    def observe(self, loss: float) -> None:
        improved = self.watch.improved(loss)
        warm = self.seen >= self.warmup_steps
        self.seen += 1
        self.waited = 0 if improved or not warm else self.waited + 1
        if self.waited >= self.patience:
            self.cuts += 1
            self.waited = 0

    def state_dict(self) -> dict[str, Any]:
        return {"watch": self.watch.state_dict(), "seen": self.seen, "waited": self.waited, "cuts": self.cuts}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if set(state) != set(self.state_dict()):
            raise ValueError(f"schedule state: got {sorted(state)}, need {sorted(self.state_dict())}")
        self.watch.load_state_dict(state["watch"])
        self.seen, self.waited, self.cuts = state["seen"], state["waited"], state["cuts"]
