"""The peak learning rate throughout, once warm-up is over."""

from __future__ import annotations

from nanochat.registry import ScheduleRecord
from nanochat.schedule.registry import SCHEDULES, Schedule

SCHEDULES.register(
    ScheduleRecord(
        name="none", title="constant after warm-up", source="arXiv:1206.5533, section 3.1.1", cls="Constant"
    ),
    __name__,
)


class Constant(Schedule):
    """f(t) = 1."""

    def after_warmup(self, step: int) -> float:
        return 1.0
