"""A straight line from the peak to the final fraction."""

from __future__ import annotations

from nanochat.registry import ScheduleRecord
from nanochat.schedule.registry import SCHEDULES, Schedule, progress

SCHEDULES.register(
    ScheduleRecord(name="linear", title="straight line to the end", source="arXiv:2310.07831", cls="Linear"),
    __name__,
)


class Linear(Schedule):
    """f = 1 - (1 - r) p, with p the share of the steps after warm-up that has passed and r the final fraction."""

    def after_warmup(self, step: int) -> float:
        passed = progress(step, self.warmup_steps, self.total_steps)
        return 1 - (1 - self.optim.final_lr_fraction) * passed
