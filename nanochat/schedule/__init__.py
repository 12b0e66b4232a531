"""Learning-rate schedules, one file each. ``SCHEDULES`` lists them; :func:`build` gives one for a run."""

from __future__ import annotations

from pathlib import Path

from nanochat.config import ConfigError, OptimConfig
from nanochat.registry import unknown
from nanochat.schedule._certificate import FILE as LOG
from nanochat.schedule._certificate import certify, document
from nanochat.schedule.registry import SCHEDULES, Schedule, warmup_of

SCHEDULES.discover(__name__, Path(__file__).parent)

__all__ = ["LOG", "SCHEDULES", "Schedule", "build", "certify", "document", "faults"]


def faults(optim: OptimConfig, total_steps: int | None = None) -> list[str]:
    """What is wrong with the schedule that the options name, one line each; no tensors are involved.

    Args:
        optim: the options.
        total_steps: steps of the run, where they are known already.
    """
    found = []
    if optim.scheduler_type not in SCHEDULES:
        found.append(unknown("--scheduler-type", optim.scheduler_type, SCHEDULES.names()))
    for owner, knobs in optim.knobs.items():
        if owner in SCHEDULES and not isinstance(knobs, SCHEDULES.get(owner).knobs):
            need = SCHEDULES.get(owner).knobs.__name__
            found.append(f"knobs of {owner}: got {type(knobs).__name__}, need {need}")
    if total_steps is not None:
        warmup = warmup_of(optim, total_steps)
        if total_steps < 1:
            found.append(f"schedule: got {total_steps} steps, need at least 1")
        elif warmup >= total_steps and total_steps > 1:
            found.append(f"--warmup-steps: got {warmup}, need fewer than the run's {total_steps} steps")
    return found


def build(optim: OptimConfig, total_steps: int) -> Schedule:
    """The schedule of one run.

    Args:
        optim: its name, warm-up, decay share and final fraction.
        total_steps: optimizer steps of the whole run, those before a resume included.

    Raises:
        ConfigError: unknown name, or a warm-up that leaves no step; all faults together.

    Example:
        >>> schedule = build(OptimConfig(scheduler_type="cosine", warmup_steps=10), 100)
        >>> schedule.factor(0), schedule.factor(10), schedule.factor(55)
        (0.1, 1.0, 0.5)
    """
    found = faults(optim, total_steps)
    if found:
        raise ConfigError(found)
    return SCHEDULES.get(optim.scheduler_type).load()(optim, total_steps)
