"""Warm up, stay, decay: the peak for most of the run and a straight line down in its last part."""

from __future__ import annotations

from nanochat.registry import ScheduleRecord
from nanochat.schedule.registry import SCHEDULES, Schedule, progress

SCHEDULES.register(
    ScheduleRecord(
        name="wsd", title="warm-up, stable, linear decay", source="arXiv:2404.06395", cls="WarmupStableDecay"
    ),
    __name__,
)


class WarmupStableDecay(Schedule):
    """f = 1 until the last ``decay_fraction`` of the run, then a line to the final fraction.

    MiniCPM decays exponentially; the line is what arXiv:2405.18392 finds as good and needs no further constant.
    """

    def after_warmup(self, step: int) -> float:
        start = max(self.warmup_steps, (1 - self.optim.decay_fraction) * self.total_steps)
        return 1 - (1 - self.optim.final_lr_fraction) * progress(step, start, self.total_steps)
