"""Whether a noisy loss has come down: what the schedules that listen have in common."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


class Watch:
    r"""An exponential average of the loss against the best that it has had.

    .. math:: m_1 = x_1, \qquad m_t = \beta\, m_{t-1} + (1-\beta)\, x_t, \qquad
              \text{improved} \iff m^* - m_t > \varepsilon\, |m^*|, \text{ then } m^* \leftarrow m_t.

    The average starts at the first value, which needs no correction of bias and improves on nothing. A loss that is not
    finite leaves the average as it was and is no improvement.

    Args:
        smoothing: :math:`\beta`, 0 up to but not 1.
        epsilon: relative margin :math:`\varepsilon`.
    """

    def __init__(self, smoothing: float, epsilon: float):
        self.smoothing = smoothing
        self.epsilon = epsilon
        self.average: float | None = None
        self.best: float | None = None

    def improved(self, loss: float) -> bool:
        """Take in a loss; whether the average is now better than ever by more than the margin."""
        average = loss if self.average is None else self.smoothing * self.average + (1 - self.smoothing) * loss
        if not math.isfinite(average):
            return False
        self.average = average
        if self.best is None or self.best - average > self.epsilon * abs(self.best):
            self.best = average
            return True
        return False

    def compare_anew(self) -> None:
        """Measure what follows against where the average stands now."""
        self.best = self.average

    def state_dict(self) -> dict[str, float | None]:
        """Average and best."""
        return {"average": self.average, "best": self.best}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a state that :meth:`state_dict` gave."""
        self.average, self.best = state["average"], state["best"]


def listening_faults(knobs: Any, prefix: str) -> list[str]:
    """What is wrong with the options ``smoothing``, ``epsilon``, ``decay`` and ``patience``, one line each."""
    faults = []
    if not 0 <= knobs.smoothing < 1:
        faults.append(f"--{prefix}-smoothing: got {knobs.smoothing:g}, need 0 up to but not 1")
    if not 0 <= knobs.epsilon < 1:
        faults.append(f"--{prefix}-epsilon: got {knobs.epsilon:g}, need 0 up to but not 1")
    if not 0 < knobs.decay < 1:
        faults.append(f"--{prefix}-decay: got {knobs.decay:g}, need more than 0 and less than 1")
    if knobs.patience is not None and knobs.patience < 1:
        faults.append(f"--{prefix}-patience: got {knobs.patience}, need at least 1")
    return faults
