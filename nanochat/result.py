"""What a training run gives back. No heavy import, so that the command line can name these types cheaply."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


class Interrupted(Exception):
    """The run was asked to stop and saved its state first; ``step`` says after how many steps."""

    def __init__(self, directory: Path, step: int):
        super().__init__(f"interrupted after step {step}; continue with --run-id {directory.name} --resume")
        self.directory = directory
        self.step = step


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainResult:
    """A finished run, or one that diverged.

    Args:
        bpb: held-out bits per byte after the last step; infinite where the run diverged.
        val_nats: held-out nats, summed.
        document_nats: the same per document of the frozen set (empty where the run diverged).
        document_bytes: bytes of each of those documents.
        val_curve: (steps taken, held-out bits per byte) of each evaluation.
        loss_curve: training loss in nats of every step, before the step.
        steps: optimizer steps really executed, counted inside the step function.
        tokens: training tokens seen.
        flops_used: algorithmic operations of ``steps`` by the ledger, looks at the curvature as they were taken.
        counted_flops: operations that one step was seen to execute, times ``steps``; 0 where they could not be counted.
            Steps with a look at the curvature and without are counted apart.
        target_flops: the budget, if one was given.
        step_seconds: median over steps.
        wall_seconds: of the training loop, those before a resume included.
        cpu_seconds: the same, of this process.
        peak_bytes: largest resident size; on a GPU its largest allocation.
        diverged: loss or gradient stopped being finite.
        fault: which of them and when, or empty.
    """

    directory: Path
    bpb: float
    val_nats: float
    document_nats: np.ndarray
    document_bytes: np.ndarray
    val_curve: list[tuple[int, float]]
    loss_curve: list[float]
    steps: int
    tokens: int
    parameters: int
    flops_used: float
    counted_flops: float
    target_flops: float | None
    step_seconds: float
    wall_seconds: float
    cpu_seconds: float
    peak_bytes: int
    diverged: bool = False
    fault: str = ""

    @property
    def audit(self) -> float:
        """Counted operations over those of the ledger, minus 1."""
        return self.counted_flops / self.flops_used - 1 if self.flops_used else 0.0

    @property
    def budget_error(self) -> float | None:
        """Used operations over the budget, minus 1; None without a budget."""
        return None if self.target_flops is None else self.flops_used / self.target_flops - 1

    def summary(self) -> dict[str, Any]:
        """The scalars and the held-out curve, as strict JSON values."""
        finite = self.bpb < float("inf")
        return {
            "bpb": self.bpb if finite else None,
            "val_nats": self.val_nats if finite else None,
            "val_bytes": int(self.document_bytes.sum()),
            "steps": self.steps,
            "tokens": self.tokens,
            "parameters": self.parameters,
            "flops_used": self.flops_used,
            "counted_flops": self.counted_flops,
            "audit": self.audit,
            "target_flops": self.target_flops,
            "budget_error": self.budget_error,
            "step_seconds": self.step_seconds,
            "wall_seconds": self.wall_seconds,
            "cpu_seconds": self.cpu_seconds,
            "tokens_per_second": self.tokens / self.wall_seconds if self.wall_seconds else None,
            "peak_bytes": self.peak_bytes,
            "diverged": self.diverged,
            "fault": self.fault,
            "val_curve": [list(point) for point in self.val_curve],
        }
