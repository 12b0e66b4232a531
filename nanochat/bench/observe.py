"""What a suite tells whoever watches it. The default says nothing; ``nanochat.bench.view`` shows it on a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nanochat.bench.jobs import Failure, Job
    from nanochat.bench.store import Outcome
    from nanochat.bench.suite import SuitePlan


class Observer:
    """Hears of a suite's progress. Verdicts are not among it: nobody peeks before the last run."""

    def note(self, line: str) -> None:
        """A sentence for the user."""

    def planned(self, plan: SuitePlan) -> None:
        """The suite is resolved; nothing has been trained."""

    def phase(self, name: str, jobs: Sequence[Job], missing: int) -> None:
        """A batch of runs begins, ``missing`` of which are not in the store."""

    def started(self, job: Job) -> None:
        """A worker took the run."""

    def progress(self, job: Job, step: int, steps: int, loss: float | None = None) -> None:
        """The run took ``step`` of ``steps`` steps; ``loss``, if known, is that of the last one's batch, in nats."""

    def finished(self, job: Job, outcome: Outcome | Failure, cached: bool) -> None:
        """The run is done; ``cached`` if it was in the store already."""

    def stop(self) -> None:
        """The suite ended, however it did."""
