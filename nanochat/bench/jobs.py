"""One training run of a suite: what it is, how it is carried to a worker, and what is kept of it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanochat.bench.store import Outcome, Store
from nanochat.config import DataConfig, GPTConfig, OptimConfig, RunConfig, TrainConfig
from nanochat.registry import Record

if TYPE_CHECKING:
    from nanochat.bench.lease import Lease
    from nanochat.bench.recheck import Recheck
    from nanochat.console import View
    from nanochat.data import Dataset
    from nanochat.train import TrainResult

CURVE_POINTS = 200


@dataclass(frozen=True, slots=True)
class Job:
    """One run.

    Args:
        key: address in the store.
        label: arm.
        stage: ``tuning`` or ``verdict``.
        run: what is trained.
        facts: what the key is the hash of.
    """

    key: str
    label: str
    stage: str
    run: RunConfig
    facts: Mapping[str, Any]

    @property
    def seed(self) -> int:
        return self.run.train.seed

    @property
    def rate(self) -> float:
        assert self.run.optim.learning_rate is not None
        return self.run.optim.learning_rate

    @property
    def steps(self) -> int:
        assert self.run.train.max_steps is not None
        return self.run.train.max_steps


@dataclass(frozen=True, slots=True)
class Failure:
    """A run that could not be finished; ``reason`` is one line."""

    reason: str


Trainer = Callable[..., "TrainResult"]
"""``nanochat.train.run`` or, in tests, something that tampers with it."""


def revive(plain: Mapping[str, Any]) -> RunConfig:
    """The configuration whose :func:`nanochat.config.plain` form this is."""
    from nanochat.attention import MIXERS
    from nanochat.block import BLOCKS
    from nanochat.optim import OPTIMIZERS
    from nanochat.schedule import SCHEDULES

    mechanisms = {record.name: record for record in (*MIXERS, *BLOCKS)}
    rules = {record.name: record for record in (*OPTIMIZERS, *SCHEDULES)}
    return RunConfig(
        model=GPTConfig(**_with_knobs(plain["model"], mechanisms)),
        optim=OptimConfig(**_with_knobs(plain["optim"], rules)),
        data=DataConfig(**plain["data"]),
        train=TrainConfig(**plain["train"]),
    )


def _with_knobs(section: Mapping[str, Any], records: Mapping[str, Record]) -> dict[str, Any]:
    knobs = {name: records[name].knobs(**values) for name, values in section["knobs"].items()}
    return {**section, "knobs": knobs}


def execute(key: str, run: RunConfig, facts: Mapping[str, Any], store: Store, train: Trainer, view: View) -> bool:
    """Train, unless another process is at it, and commit to the store.

    Returns:
        False when another process holds the lease; its result will appear.
    """
    with store.lease(key) as lease:
        if lease is None:
            return False
        if store.load(key) is None:
            perform(lease, run, facts, store, train, view)
    return True


def perform(lease: Lease, run: RunConfig, facts: Mapping[str, Any], store: Store, train: Trainer, view: View) -> None:
    """Train and commit the run whose lease is in hand.

    Raises:
        Lost: another process has taken the lease meanwhile and trains the run: nothing is committed.
    """
    from nanochat.bench.recheck import recheck  # torch: not in a driver, which reads this module too

    key = lease.key
    directory = store.clear(key)
    dataset = dataset_of(run.data, run.model.vocab_size)
    result = train(run, directory=directory / "run", dataset=dataset, view=view)
    checked = recheck(key, run, result, directory / "run", dataset)
    lease.check()
    store.commit(key, outcome_of(result, dataset, checked), facts)
    _drop_checkpoints(directory)


def code_of(run: RunConfig) -> str:
    """Hash of the trainer and of the mechanisms, optimizer and schedule that a run names."""
    from nanochat.architecture import plan
    from nanochat.bench.code import code_hash
    from nanochat.optim import OPTIMIZERS
    from nanochat.schedule import SCHEDULES

    built = plan(run.model)
    named = OPTIMIZERS.get(run.model.optimizer_type), SCHEDULES.get(run.optim.scheduler_type)
    records = (built.block, *built.mixers, *named)
    return code_hash(["nanochat.train", *(record.module for record in records)])


@cache
def dataset_of(data: DataConfig, vocab_size: int) -> Dataset:
    """The prepared corpus, opened once per process."""
    from nanochat.data import open_dataset

    return open_dataset(data, vocab_size)


def outcome_of(result: TrainResult, dataset: Dataset, checked: Recheck) -> Outcome:
    """The part of a training result that the engine keeps."""
    kept = {item.name for item in fields(Outcome)}
    same = (
        "diverged",
        "fault",
        "steps",
        "tokens",
        "flops_used",
        "counted_flops",
        "parameters",
        "step_seconds",
        "wall_seconds",
        "cpu_seconds",
        "peak_bytes",
    )
    curve = [[float(step), float(loss)] for step, loss in enumerate(result.loss_curve) if math.isfinite(loss)]
    values: dict[str, Any] = {
        **{name: getattr(result, name) for name in same},
        "bpb": None if result.diverged or not math.isfinite(result.bpb) else float(result.bpb),
        "loss_curve": thinned(curve),
        "document_nats": [] if result.diverged else [float(nats) for nats in result.document_nats],
        "document_bytes": [int(size) for size in result.document_bytes],
        **_texts(result.directory, dataset),
        **asdict(checked),
    }
    assert values.keys() == kept
    return Outcome(**values)


def _texts(directory: Path, dataset: Dataset) -> dict[str, str]:
    """Hashes of what the run says that it read; where it wrote nothing, of what it was given."""
    given = {"corpus": dataset.manifest.hash, "tokenizer": dataset.tokenizer.hash, "eval": dataset.eval_set.hash}
    path = directory / "env.json"
    read = json.loads(path.read_text(encoding="utf-8"))["data"] if path.is_file() else given
    return {"data_hash": read["corpus"], "tokenizer_hash": read["tokenizer"], "eval_hash": read["eval"]}


def thinned(curve: list[list[float]], points: int = CURVE_POINTS) -> list[list[float]]:
    """Means over equal stretches of steps: at most ``points`` [last step, mean loss] pairs."""
    stretch = max(1, -(-len(curve) // points))
    parts = [curve[start : start + stretch] for start in range(0, len(curve), stretch)]
    return [[part[-1][0], sum(loss for _, loss in part) / len(part)] for part in parts]


def _drop_checkpoints(directory: Path) -> None:
    """Weights of finished suite runs are not kept: a suite makes hundreds of them and reads none."""
    from nanochat.checkpoint import LATEST

    for path in (*directory.rglob("*.pt"), *directory.rglob(LATEST)):
        path.unlink()
