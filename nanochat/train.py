"""Train one model: ``python -m nanochat.train`` or ``torchrun --nproc_per_node=N -m nanochat.train``.

The options are checked before torch is imported; what follows stands in :mod:`nanochat.loop`.

Exit codes: 0 trained; 1 diverged, or a law that was to be verified does not hold; 2 usage or input; 3 this machine
cannot (no such device, full disk, no network); 130 interrupted, with the state saved.

Example:
    >>> from nanochat.config import RunConfig, TrainConfig
    >>> result = run(RunConfig(train=TrainConfig(max_steps=200, run_id="first")))
    >>> result.bpb
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from nanochat import architecture, optim, schedule
from nanochat.config import ConfigError, EnvironmentFault, LawBroken, RunConfig
from nanochat.console import View, view_for
from nanochat.distributed import check_batch, world
from nanochat.record import RunRecord, directory_of, strict_json
from nanochat.result import Interrupted, TrainResult

if TYPE_CHECKING:
    from nanochat.data import Dataset
    from nanochat.options import Request

__all__ = ["TrainResult", "main", "run"]


def run(
    config: RunConfig,
    *,
    directory: Path | None = None,
    dataset: Dataset | None = None,
    view: View | None = None,
    tamper: Callable[..., Any] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> TrainResult:
    """Train and record one run. Prints nothing, installs no signal handler, leaves threads and random state alone.

    Args:
        config: the whole run.
        directory: where it writes; ``artifacts_dir/kind/topic/run_id`` if not given.
        dataset: already opened text; ``config.data`` is opened if not given.
        view: hears of progress.
        tamper: wraps the step function, for tests of the audit.
        stop: asked after every step; when it says yes the state is saved and :class:`Interrupted` raised.

    Raises:
        ConfigError: what was asked for cannot be run; all faults together.
        EnvironmentFault: this machine cannot run it.
        LawBroken: a mixer was told to verify its laws, and one does not hold.
        Interrupted: ``stop`` said yes.
    """
    faults = architecture.faults(config.model)
    faults += optim.faults(config.model.optimizer_type, config.optim) + schedule.faults(config.optim)
    if faults:
        raise ConfigError(faults)
    place = world()
    check_batch(config.train.batch_size, place.size)
    target = directory or directory_of(config)
    with RunRecord(target, config, config.train.resume) if place.writes else nullcontext() as record:
        from nanochat.loop import train

        return train(config, dataset, record, view or View(), place, tamper, stop)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    from nanochat import options

    request = options.parse(sys.argv[1:] if arguments is None else arguments, "nanochat.train")
    view = view_for(request.json, world().writes)
    for line in request.notes:
        view.note(line)
    with hearing() as stopper:
        return _trained(request, view, stopper)


def _trained(request: Request, view: View, stopper: Stopper) -> int:
    """Run, say what came of it, give the exit code."""
    try:
        result = run(request.config, view=view, stop=stopper)
    except ConfigError as error:
        return _fail(error.faults, 2)
    except (EnvironmentFault, LawBroken) as error:
        return _fail([str(error)], 1 if isinstance(error, LawBroken) else 3)
    except Interrupted as error:
        return _fail([str(error)], 130)
    except KeyboardInterrupt:
        return _fail(["interrupted; what was saved before is intact"], 130)
    if request.json and world().writes:
        sys.stdout.write(strict_json({"directory": str(result.directory), **result.summary()}) + "\n")
    if result.diverged:
        return _fail([f"diverged: {result.fault}; see {result.directory}"], 1)
    if world().writes:
        view.note(closing(result))
    return 0


class Stopper:
    """Turns signals into a question that the loop asks after every step.

    A signal before the first step ends the program at once, for nothing would be saved. So does a second one, unless it
    follows at the first one's heels: torchrun passes on what the terminal has sent to everyone already.
    """

    ECHO = 2.0
    """Seconds within which a second signal is the first one's echo."""

    def __init__(self) -> None:
        self.listening = False
        self.heard: float | None = None

    def __call__(self) -> bool:
        self.listening = True
        return self.heard is not None

    def hear(self, number: int, frame: FrameType | None) -> None:
        """The signal handler."""
        now = time.monotonic()
        if not self.listening or (self.heard is not None and now - self.heard > self.ECHO):
            raise KeyboardInterrupt
        self.heard = self.heard or now


@contextmanager
def hearing() -> Iterator[Stopper]:
    """A stopper that hears the signals to end; whoever heard them before does so again afterwards."""
    stopper = Stopper()
    before = {number: signal.signal(number, stopper.hear) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopper
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _fail(lines: Sequence[str], code: int) -> int:
    for line in lines:
        sys.stderr.write(f"nanochat.train: {line}\n")
    return code


def closing(result: TrainResult) -> str:
    """The last line: what came out, at what cost, where it lies."""
    return (
        f"held-out {result.bpb:.4f} bits per byte after {result.steps} steps and {result.flops_used:.3g} operations "
        f"(counted {result.audit:+.2%}) in {result.wall_seconds:.1f} s: {result.directory}"
    )


if __name__ == "__main__":
    sys.exit(main())
