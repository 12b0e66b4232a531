"""Workers as a Slurm job array, submitted through submitit. Slurm holds no state: the store does."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanochat.bench.clusters.slot import Ended, announce, occupy, withdraw
from nanochat.config import ConfigError, EnvironmentFault, common_faults, option

LOCAL = "local"
TIMEOUTS = 1000
"""A job that reaches its time limit queues again this often: a suite may take weeks."""

MAX_FAILURES = 3
POLL_SECONDS = 2.0
STOP_SECONDS = 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class SlurmOptions:
    """What sbatch is told; the cluster's defaults where nothing is given."""

    partition: str | None = option(None, "partition")
    account: str | None = option(None, "account")
    qos: str | None = option(None, "quality of service")
    constraint: str | None = option(None, "features that a node must have")
    memory: float | None = option(None, "memory of a job", unit="GB")
    time: int = option(240, "time limit of a job, which then queues again", unit="minutes")
    idle: int = option(300, "a job without work goes home after this long", unit="seconds")
    setup: str | None = option(None, "shell command before the worker, such as `module load python`")
    cluster: str = option("slurm", "`slurm`, or `local` to try the same without Slurm", choices=("slurm", LOCAL))

    def __post_init__(self) -> None:
        faults = [fault.replace("--", "", 1) for fault in common_faults(self)]
        faults += [f"{name}: got {getattr(self, name)}, need more than 0" for name in _unreal(self)]
        if faults:
            raise ConfigError(faults)


def _unreal(options: SlurmOptions) -> list[str]:
    values = {"memory": options.memory, "time": options.time, "idle": options.idle}
    return [name for name, value in values.items() if value is not None and value <= 0]


@dataclass(frozen=True, slots=True)
class Shift:
    """What a job of the array does.

    Args:
        store, mark, idle: see :func:`nanochat.bench.clusters.slot.occupy`.
    """

    store: str
    mark: str
    idle: float

    def __call__(self) -> Ended:
        return occupy(self.store, self.mark, self.idle)

    def checkpoint(self) -> Any:
        """The same again, when Slurm takes the node back or time is up; the run in hand is another worker's then."""
        return _submitit().helpers.DelayedSubmission(self)


class SlurmCrew:
    """An array of jobs; one that fails is followed by another.

    Args:
        options: what sbatch is told.
        gpu: each worker gets a GPU of its own.
    """

    def __init__(self, options: SlurmOptions, gpu: bool = False):
        self.options = options
        self.gpu = gpu
        self._store = Path()
        self._mark = ""
        self._executor: Any = None
        self._jobs: list[Any] = []
        self._count = 0
        self._failures = 0
        self._next = 0.0

    def start(self, store: Path, count: int) -> None:
        """Submit the array; jobs begin when Slurm has room for them.

        Raises:
            EnvironmentFault: this machine has no Slurm, or sbatch refuses.
        """
        self._store = store.resolve()
        self._executor = _executor(self._store / "slurm", self.options, count, self.gpu)
        self._mark = announce(self._store)
        self._count = count
        self._submit(count)

    def _submit(self, count: int) -> None:
        shift = Shift(str(self._store), self._mark, self.options.idle)
        faults = _submitit().core.utils
        try:
            with self._executor.batch():
                jobs = [self._executor.submit(shift) for _ in range(count)]
        except (faults.FailedJobError, faults.FailedSubmissionError) as error:
            raise EnvironmentFault(f"sbatch refuses: {_last_line(error)}") from error
        self._jobs += jobs

    def poll(self) -> list[str]:
        """What happened since the last call, a line each; submitit asks Slurm ever less often, down to every 10 min.

        Raises:
            EnvironmentFault: a machine cannot do this work, or job after job fails.
        """
        if time.monotonic() < self._next:
            return []
        self._next = time.monotonic() + POLL_SECONDS
        notes = []
        for job in [job for job in self._jobs if job.done()]:
            self._jobs.remove(job)
            ended = _ended(job)
            self._failures = self._failures + 1 if ended.reason else 0
            if ended.hopeless or self._failures > MAX_FAILURES + len(self._jobs):
                raise EnvironmentFault(ended.reason)
            notes += [ended.reason] if ended.reason else []
        missing = min(self._count, _wanted(self._store)) - len(self._jobs)
        if missing > 0:
            self._submit(missing)
        return notes

    def stop(self) -> None:
        """Send all workers home; what is queued still, Slurm forgets."""
        withdraw(self._store, self._mark)
        if self.options.cluster == LOCAL:
            deadline = time.monotonic() + STOP_SECONDS
            while time.monotonic() < deadline and not all(job.done() for job in self._jobs):
                time.sleep(STOP_SECONDS / 100)
        else:
            for job in self._jobs:
                job.cancel(check=False)
        self._jobs = []


def _wanted(store: Path) -> int:
    """Runs that are asked for, those in hand included."""
    return sum(name.endswith(".json") for name in os.listdir(store / "queue"))


def _submitit() -> Any:
    import submitit  # pyright: ignore[reportMissingImports]  # an extra

    return submitit


def _executor(folder: Path, asked: SlurmOptions, count: int, gpu: bool) -> Any:
    try:
        executor = _submitit().AutoExecutor(folder, cluster=asked.cluster, slurm_max_num_timeout=TIMEOUTS)
    except RuntimeError as error:
        raise EnvironmentFault("--crew slurm: no srun here, need a machine that submits to Slurm") from error
    executor.update_parameters(
        name="mgr",
        nodes=1,
        tasks_per_node=1,
        cpus_per_task=1,
        gpus_per_node=1 if gpu else None,
        mem_gb=asked.memory,
        timeout_min=asked.time,
        slurm_partition=asked.partition,
        slurm_account=asked.account,
        slurm_qos=asked.qos,
        slurm_constraint=asked.constraint,
        slurm_setup=[asked.setup] if asked.setup else None,
        slurm_array_parallelism=count,
        slurm_additional_parameters={"requeue": True},
    )
    return executor


def _ended(job: Any) -> Ended:
    """How a job came to its end; where it left no result, in Slurm's word."""
    if not job.paths.result_pickle.exists():
        return Ended(f"job {job.job_id} ended ({job.state}); another follows")
    if job.exception() is not None:
        return Ended(f"job {job.job_id} failed, see {job.paths.stderr}; another follows")
    return job.result()


def _last_line(error: Exception) -> str:
    return [line.strip() for line in str(error).splitlines() if line.strip(" -")][-1]
