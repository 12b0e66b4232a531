"""Runs that cheat, one way each, and the check that is meant to see it.

Every cheat is trained by the worker's own code from an honest plan; only what it is told to train with, or the step
that it takes, is dishonest. Beside them stands an honest run in which nothing may be found.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nanochat.bench.audit import audit
from nanochat.bench.jobs import Failure, Trainer, execute
from nanochat.bench.selftests.finding import Bench, Measure, Told, yes
from nanochat.bench.selftests.laboratory import BASE, Laboratory
from nanochat.bench.selftests.metric import leaking
from nanochat.config import RunConfig
from nanochat.console import View
from nanochat.curvature import Curvature
from nanochat.data import Dataset, EvalSet, Windows, open_dataset
from nanochat.result import TrainResult
from nanochat.step import Step, StepFunction
from nanochat.train import run as train

BUDGET = 4e8
SEED = 3


@dataclass(frozen=True, slots=True)
class Cheat:
    """One way to cheat.

    Args:
        what: in words.
        trainer: trains dishonestly.
        reason: part of the fault that must be found.
        around: holds while training and rechecking.
    """

    what: str
    trainer: Trainer
    reason: str
    around: Callable[[], AbstractContextManager[None]] = nullcontext


def tampered(tamper: Callable[[Step], StepFunction]) -> Trainer:
    """Trains with another step."""

    def trainer(run: RunConfig, **given: Any) -> TrainResult:
        return train(run, tamper=tamper, **given)

    return trainer


def retold(change: Callable[[RunConfig, Dataset], tuple[RunConfig, Dataset]]) -> Trainer:
    """Trains another configuration, or with another text, than it was told."""

    def trainer(run: RunConfig, *, dataset: Dataset, **given: Any) -> TrainResult:
        changed, text = change(run, dataset)
        return train(changed, dataset=text, **given)

    return trainer


def extra_forward(step: Step) -> StepFunction:
    """One forward pass more per step."""

    def take(inputs: torch.Tensor, targets: torch.Tensor) -> Any:
        with torch.no_grad():
            step.forward(inputs, targets)
        return step(inputs, targets)

    return take


def hessian_product(step: Step) -> StepFunction:
    """One product with the Hessian more per step."""

    def take(inputs: torch.Tensor, targets: torch.Tensor) -> Any:
        look = Curvature(lambda: step.model(inputs, targets), step.parameters)
        look(torch.ones(sum(parameter.numel() for parameter in step.parameters)))
        return step(inputs, targets)

    return take


def longer(step: Step) -> StepFunction:
    """13 steps where 10 were paid for."""
    owed = 0.0

    def take(inputs: torch.Tensor, targets: torch.Tensor) -> Any:
        nonlocal owed
        outcome = step(inputs, targets)
        owed += 0.3
        while owed >= 1:
            owed -= 1
            outcome = step(inputs, targets)
        return outcome

    return take


class LongWindows(EvalSet):
    """Scores with twice the context that was planned."""

    def windows(self, sequence_len: int) -> Windows:
        return super().windows(2 * sequence_len)


def _longer_context(run: RunConfig, text: Dataset) -> tuple[RunConfig, Dataset]:
    return run, replace(text, eval_set=LongWindows(text.eval_set.passages, text.tokenizer))


def _training_text(run: RunConfig, text: Dataset) -> tuple[RunConfig, Dataset]:
    """The same number of passages of the same length, from what the model has seen."""
    sizes = text.eval_set.document_bytes.tolist()
    seen = text.tokenizer.decode(text.train_tokens[: 4 * sum(sizes)])
    starts = [sum(sizes[:place]) for place in range(len(sizes))]
    passages = tuple(seen[start : start + size] for start, size in zip(starts, sizes, strict=True))
    texts = EvalSet(passages, text.tokenizer)
    vars(texts)["hash"] = text.eval_set.hash  # it lies about that, too
    return run, replace(text, eval_set=texts)


def _held_out_text(run: RunConfig, text: Dataset) -> tuple[RunConfig, Dataset]:
    """Learns by heart what it will be asked, and calls it by the name of the right text."""
    passages = [text.tokenizer.encode(passage) for passage in text.eval_set.passages]
    documents = [np.array([text.tokenizer.bos, *passage], dtype=text.train_tokens.dtype) for passage in passages]
    offsets = np.cumsum([0, *map(len, documents)]).astype(text.train_offsets.dtype)
    return run, replace(text, train_tokens=np.concatenate(documents), train_offsets=offsets)


def more_steps(run: RunConfig, text: Dataset) -> tuple[RunConfig, Dataset]:
    """A run of 1.3 times the length, schedule and all: what it buys is real."""
    assert run.train.max_steps is not None
    return replace(run, train=replace(run.train, max_steps=round(1.3 * run.train.max_steps))), text


def _wider(run: RunConfig, text: Dataset) -> tuple[RunConfig, Dataset]:
    return replace(run, model=replace(run.model, mlp_ratio=2 * run.model.mlp_ratio)), text


def _another_seed(run: RunConfig, text: Dataset) -> tuple[RunConfig, Dataset]:
    return replace(run, train=replace(run.train, seed=run.train.seed + 1)), text


def _another_text(run: RunConfig, text: Dataset) -> tuple[RunConfig, Dataset]:
    """Only the training text differs: half of the right one, as a corpus of its own."""
    passages = text.tokenizer.decode(text.train_tokens[:200_000]).decode(errors="replace").split("\n\n")
    with tempfile.TemporaryDirectory() as folder:
        for number, passage in enumerate(passages):
            Path(folder, f"{number}.txt").write_text(passage, encoding="utf-8")
        data = replace(run.data, data=folder, cache_dir=str(Path(folder, "cache")))
        other = open_dataset(data, run.model.vocab_size)
        other = replace(other, train_tokens=other.train_tokens.copy(), eval_set=text.eval_set)
    return run, other


CHEATS = (
    Cheat("an extra forward pass per step", tampered(extra_forward), "of the ledger's operations"),
    Cheat("an uncharged Hessian product per step", tampered(hessian_product), "of the ledger's operations"),
    Cheat("13 steps where 10 were planned", tampered(longer), "of the budget"),
    Cheat("a run that is 1.3 times as long", retold(more_steps), "of the budget"),
    Cheat("a bigger hidden size", retold(_wider), "parameters, planned"),
    Cheat("another seed than planned", retold(_another_seed), "checkpoint of configuration"),
    Cheat("another training text", retold(_another_text), "read another training text"),
    Cheat("trained on held-out text", retold(_held_out_text), "not those of the planned batches"),
    Cheat("scored on training text", retold(_training_text), "score otherwise than reported"),
    Cheat("a longer context at evaluation", retold(_longer_context), "score otherwise than reported"),
    Cheat("a mixer that sees the next token", train, "a later token moves an earlier logit", leaking),
)


def caught(bench: Bench) -> Told:
    """See :data:`nanochat.bench.selftests.SELFTESTS`."""
    honest = faults_of(Cheat("honest", train, ""), bench)
    measures = [Measure("faults found in an honest run", len(honest), high=0)]
    for cheat in CHEATS:
        found = faults_of(cheat, bench)
        measures.append(yes(cheat.what, any(cheat.reason in fault for fault in found), control=True))
    seen = sum(measure.passed for measure in measures[1:])
    return measures, f"{seen} of {len(CHEATS)} cheats caught"


def faults_of(cheat: Cheat, bench: Bench) -> tuple[str, ...]:
    """What the audit finds in one run of this cheat."""
    with tempfile.TemporaryDirectory() as folder, cheat.around():
        laboratory = Laboratory((f"{BASE},label=cheat",), Path(folder), bench, budget=BUDGET)
        job = laboratory.job("cheat", SEED)
        execute(job.key, job.run, job.facts, laboratory.store, cheat.trainer, View())
        outcome = laboratory.store.load(job.key) or Failure("it left no result")
    hashes = laboratory.suite.data_hashes
    return audit(laboratory.plan, "cheat", [(job, outcome)], hashes).faults
