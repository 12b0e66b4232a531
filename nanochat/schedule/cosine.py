"""Half a cosine from the peak to the final fraction."""

from __future__ import annotations

import math

from nanochat.registry import ScheduleRecord
from nanochat.schedule.registry import SCHEDULES, Schedule, progress

SCHEDULES.register(
    ScheduleRecord(name="cosine", title="half a cosine to the end", source="arXiv:1608.03983", cls="Cosine"),
    __name__,
)


class Cosine(Schedule):
    r"""With p the share of the steps after warm-up that has passed and r the final fraction,

    .. math:: f = r + (1 - r)\, (1 + \cos \pi p) / 2.
    """

    def after_warmup(self, step: int) -> float:
        passed = progress(step, self.warmup_steps, self.total_steps)
        final = self.optim.final_lr_fraction
        return final + (1 - final) * (1 + math.cos(math.pi * passed)) / 2
