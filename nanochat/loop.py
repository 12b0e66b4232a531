"""The training loop: steps, held-out evaluations, checkpoints, and the audit of what was executed."""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from nanochat import checkpoint, optim, schedule
from nanochat.config import EnvironmentFault, RunConfig
from nanochat.console import View
from nanochat.counter import Counter
from nanochat.distributed import World, group
from nanochat.evaluate import Score, evaluate
from nanochat.flops import ledger
from nanochat.gpt import GPT
from nanochat.initialise import Mixer
from nanochat.optim import OPTIMIZERS
from nanochat.options import steps_of
from nanochat.precision import Precision, machine, random_state, resolve, set_random_state
from nanochat.record import RunRecord, config_hash, environment, finite, peak_memory
from nanochat.result import Interrupted, TrainResult
from nanochat.schedule import Schedule
from nanochat.step import Outcome, Step, StepFunction

if TYPE_CHECKING:
    from nanochat.data import Dataset

READ_EVERY = 10
"""Steps between reads of the losses from a GPU: reading waits for it."""

PLAIN, LOOKING = "plain", "looking"
"""Kinds of steps by what they cost: with a look at the curvature and without."""

Tamper = Callable[[StepFunction], StepFunction]


class Loop:
    """One run of this process, from its first step (or its checkpoint's) to its result.

    Args:
        config: the run; ``model.vocab_size`` is that of the dataset's tokenizer.
        dataset: text.
        record: the run's folder; None where another process writes.
        view: hears of progress.
        precision: where and in which format to compute.
        world: the processes of the run.
        tamper: wraps the step function; for tests of the audit.
        stop: asked after every step whether to save and stop.
    """

    def __init__(
        self,
        config: RunConfig,
        dataset: Dataset,
        record: RunRecord | None,
        view: View,
        precision: Precision,
        world: World,
        tamper: Tamper | None,
        stop: Callable[[], bool],
    ):
        self.config = config
        self.dataset = dataset
        self.record = record
        self.view = view
        self.precision = precision
        self.world = world
        self.stop = stop
        self.total = steps_of(config)
        self.loader = dataset.loader(config.train.batch_size, config.model.sequence_len, config.train.seed)
        self.model = GPT(config.model, seed=config.train.seed).to(precision.torch_device)
        self.eager = world.wrap(self.model)
        self.optimizer = optim.build(self.model, config.optim)
        self.schedule = schedule.build(config.optim, self.total)
        self.step = Step(
            self.model,
            torch.compile(self.eager, dynamic=False) if precision.compile else self.eager,
            self.optimizer,
            self.schedule,
            grad_clip=config.optim.grad_clip,
            precision=precision,
            world=world,
            curved=OPTIMIZERS.get(config.model.optimizer_type).curvature is not None,
        )
        self.take: StepFunction = tamper(self.step) if tamper else self.step
        listens = type(self.schedule).observe is not Schedule.observe
        self.read_every = 1 if listens or precision.torch_device.type == "cpu" else READ_EVERY
        self.done = 0
        self.costs = ledger(config.model, optim=config.optim)
        self.counted: dict[str, float] = {}
        self.spot_checks = self._spot_checks()
        self.elapsed = 0.0
        self.cpu = 0.0
        self.losses: list[float] = []
        self.val_curve: list[tuple[int, float]] = []
        self.seconds: list[float] = []
        self.fault = ""
        self._unread: list[tuple[int, Outcome]] = []
        self._mark = (0.0, 0.0)

    def _spot_checks(self) -> set[int]:
        """Steps that are counted beside the first one: a random one of each kind, with a look at the curvature or not.

        Step 1 is among them where it is the first plain one: its kind must be seen at all.
        """
        rng, every = random.Random(self.config.train.seed), self.costs.every
        if every <= 1:
            return {rng.randrange(1, max(2, self.total))}
        kinds = (range(every, self.total, every), [step for step in range(1, self.total) if step % every])
        return {1, *(rng.choice(kind) for kind in kinds if kind)}

    def restore(self) -> None:
        """Continue where the newest checkpoint stands; at the beginning where there is none."""
        found = None
        if self.record is not None:
            if self.config.train.resume:
                found = checkpoint.load(self.record.directory, config_hash(self.record.config), self.view.note)
            kept = self.record.start_metrics(found[0] if found else 0)
            self.losses = [line["loss"] for line in kept if "loss" in line]
            self.val_curve = [(line["step"] + 1, line["val_bpb"]) for line in kept if "val_bpb" in line]
        found = self.world.share(found)
        if found is not None:
            self._take_up(*found)
        elif self.config.train.resume:
            self.view.note("no checkpoint was saved yet: starting at step 0")

    def _take_up(self, done: int, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        set_random_state(state["random"], self.precision.torch_device)
        self.done = done
        self.step.executed = state["executed"]
        self.step.looks = state["looks"]
        self.counted = state["counted"]
        self.elapsed = state["elapsed"]
        self.cpu = state["cpu"]
        self.view.note(f"resuming after step {done}")

    def save(self) -> None:
        """Commit the state after the steps taken so far."""
        if self.record is None:
            return
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "random": random_state(self.precision.torch_device),
            "executed": self.step.executed,
            "looks": self.step.looks,
            "counted": self.counted,
            "elapsed": self.elapsed,
            "cpu": self.cpu,
        }
        checkpoint.save(self.record.directory, state, self.done, config_hash(self.record.config))

    def run(self) -> TrainResult:
        """Train to the end, to the first number that is not finite, or until asked to stop."""
        train = self.config.train
        self.restore()
        self.view.start(self.total, self.done, train.batch_size * self.config.model.sequence_len)
        try:
            self._start_clock()
            while self.done < self.total and not self.fault and not self.schedule.finished:
                self._advance()
                at_end = self.done == self.total
                asked = not at_end and self._asked_to_stop()
                validate = not at_end and _due(self.done, train.val_interval)
                keep = asked or at_end or _due(self.done, train.checkpoint_interval)
                if len(self._unread) >= self.read_every or validate or keep:
                    self._read()
                keep = keep or self.schedule.finished
                if not self.fault and (validate or keep):
                    self._pause(validate, keep)
                if asked and not self.fault:
                    raise Interrupted(self.record.directory if self.record else Path("."), self.done)
            return self._result(None if self.fault else self.evaluate())
        finally:
            self.view.stop()

    def _advance(self) -> None:
        """Take one step; the first of a run, and others unannounced, are executed operator by operator and counted."""
        device = self.precision.torch_device
        inputs, targets = (
            torch.from_numpy(np.ascontiguousarray(array)).to(device, non_blocking=True)
            for array in self.loader.batch(self.done, self.world.rank, self.world.size)
        )
        if self.done == 0:
            outcome = self._first_step(inputs, targets)
        elif self.done in self.spot_checks and self.counted:
            outcome = self._counted_step(inputs, targets)
        else:
            outcome = self.take(inputs, targets)
        self._unread.append((self.done, outcome))
        self.done += 1

    def _first_step(self, inputs: Tensor, targets: Tensor) -> Outcome:
        """Count the first step; where an operation cannot be counted, take it uncounted and say so."""
        try:
            return self._counted_step(inputs, targets)
        except NotImplementedError as error:
            if self.optimizer.state:  # part of the update is done: there is no way back
                raise
            reason = str(error).splitlines()[0]
        self.optimizer.zero_grad(set_to_none=True)
        try:
            outcome = self.take(inputs, targets)
        except NotImplementedError as error:
            model = self.config.model
            chosen = f"-pattern {model.attention_pattern}" if model.pattern else f"-type {model.attention_type}"
            name = f"--attention{chosen} on {self.precision.device}"
            raise EnvironmentFault(f"{name}: cannot be trained here: {str(error).splitlines()[0]}") from error
        self.view.note(f"operations are not audited in this run: {reason}")
        return outcome

    def _counted_step(self, inputs: Tensor, targets: Tensor) -> Outcome:
        """A step like any other, outside ``torch.compile``, whose operations are counted as they are executed."""
        before, looks = self.step.executed, self.step.looks
        chosen, self.step.forward = self.step.forward, self.eager
        try:
            with Counter() as counter:
                outcome = self.take(inputs, targets)
        finally:
            self.step.forward = chosen
        # What the processes do twice (the optimizer step) is one step of the algorithm: scale as the ledger does.
        looked = self.step.looks > looks
        kind, steps = (LOOKING if looked else PLAIN), self.step.executed - before
        batch = self.config.train.batch_size
        whole, part = (self.costs.run_flops(size, 1, int(looked)) for size in (batch, batch // self.world.size))
        seen = counter.operations.total * whole / part / steps
        self.counted[kind] = max(self.counted.get(kind, 0.0), seen)
        return outcome

    def _counted_flops(self) -> float:
        """Operations of the run, if every step of a kind was like the dearest that was seen."""
        looking, plain = (self.counted.get(kind, 0.0) for kind in (LOOKING, PLAIN))
        return looking * self.step.looks + plain * (self.step.executed - self.step.looks)

    def _asked_to_stop(self) -> bool:
        asked = self.stop()
        if self.world.size == 1:
            return asked
        return bool(self.world.sum(torch.tensor([float(asked)], device=self.precision.torch_device)) > 0)

    def _read(self) -> None:
        """Take the numbers of the latest steps from the device; record them; find the first that is not finite."""
        if not self._unread:
            return
        numbers = [(step, float(out.loss), float(out.grad_norm), out.lr) for step, out in self._unread]
        self._stop_clock()
        seconds = (self.elapsed - self._last_elapsed) / len(numbers)
        for step, loss, norm, factor in numbers:
            self.seconds.append(seconds)
            self.losses.append(loss)
            self._note_step(step, loss, norm, factor, seconds)
            if not (math.isfinite(loss) and math.isfinite(norm)):
                what = "loss" if not math.isfinite(loss) else "gradient norm"
                self.fault = f"{what} is {loss if what == 'loss' else norm} at step {step}"
                break
            self.schedule.observe(loss)
            if self.schedule.restarted:
                self.optimizer.state.clear()
            self.view.step(step, loss)
        self._unread.clear()
        self._start_clock()

    def _note_step(self, step: int, loss: float, norm: float, factor: float, seconds: float) -> None:
        if self.record is not None:
            self.record.metric(
                step=step, loss=finite_or_none(loss), grad_norm=finite_or_none(norm), lr_factor=factor, seconds=seconds
            )

    def _start_clock(self) -> None:
        self._last_elapsed = self.elapsed
        self._mark = (time.perf_counter(), time.process_time())

    def _stop_clock(self) -> None:
        wall, cpu = self._mark
        self.elapsed += time.perf_counter() - wall
        self.cpu += time.process_time() - cpu

    def _pause(self, validate: bool, keep: bool) -> None:
        """Evaluate and save, off the clock."""
        if validate:
            self.evaluate()
        if keep:
            self.save()
        self._start_clock()

    def evaluate(self) -> Score:
        """Score the held-out text and record it."""
        score = evaluate(self.model, self.dataset.eval_set, self.precision, self.world)
        if not self.val_curve or self.val_curve[-1][0] < self.done:  # a run killed after its last evaluation has it
            self.val_curve.append((self.done, score.bits_per_byte))
            if self.record is not None:
                bpb = finite_or_none(score.bits_per_byte)
                self.record.metric(step=self.done - 1, val_bpb=bpb, **self._diagnoses())
        self.view.evaluated(self.done, score.bits_per_byte)
        return score

    def _diagnoses(self) -> dict[str, float | str | None]:
        """What the mixers have to say about the evaluation just made, by module."""
        said = ((name, mixer.diagnose()) for name, mixer in self.model.named_modules() if isinstance(mixer, Mixer))
        return {
            f"{name}.{what}": value if isinstance(value, str) else finite_or_none(value)
            for name, found in said
            for what, value in found.items()
        }

    def _result(self, score: Score | None) -> TrainResult:
        train = self.config.train
        documents = self.dataset.eval_set.document_bytes
        return TrainResult(
            directory=self.record.directory if self.record else Path("."),
            bpb=math.inf if score is None else score.bits_per_byte,
            val_nats=math.inf if score is None else score.nats,
            document_nats=np.empty(0) if score is None else score.document_nats,
            document_bytes=np.asarray(documents),
            val_curve=self.val_curve,
            loss_curve=self.losses,
            steps=self.step.executed,
            tokens=self.done * train.batch_size * self.config.model.sequence_len,
            parameters=sum(parameter.numel() for parameter in self.model.parameters()),
            flops_used=self.costs.run_flops(train.batch_size, self.step.executed, self.step.looks),
            counted_flops=self._counted_flops(),
            target_flops=train.target_flops,
            step_seconds=statistics.median(self.seconds[1:] or self.seconds or [0.0]),
            wall_seconds=self.elapsed,
            cpu_seconds=self.cpu,
            peak_bytes=_peak(self.precision.torch_device),
            diverged=bool(self.fault),
            fault=self.fault,
        )


def finite_or_none(value: float) -> float | None:
    """JSON has no word for NaN and infinity."""
    return finite(value) if value == value else None


def _due(done: int, interval: int) -> bool:
    return interval > 0 and done % interval == 0


def _peak(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_memory()


def train(
    config: RunConfig,
    dataset: Dataset | None,
    record: RunRecord | None,
    view: View,
    world: World,
    tamper: Tamper | None,
    stop: Callable[[], bool],
) -> TrainResult:
    """Prepare, train, commit the record; see :func:`nanochat.train.run`."""
    if dataset is None:
        from nanochat.data import open_dataset

        dataset = open_dataset(config.data, config.model.vocab_size, report=view.note)
    config = replace(config, model=replace(config.model, vocab_size=dataset.tokenizer.vocab_size))
    precision = resolve(config, steps_of(config), world.local_rank)
    if record is not None:
        corpus = {"corpus": dataset.manifest.hash, "eval": dataset.eval_set.hash, "tokenizer": dataset.tokenizer.hash}
        place = {"precision": precision.record(), "processes": world.size}
        record.write("env.json", {**environment(), **place, "data": corpus})
    with machine(precision, config.train.seed), group(world, precision.torch_device):
        loop = Loop(config, dataset, record, view, precision, world, tamper, stop)
        result = loop.run()
    if record is not None:
        scores = {
            "documents": dataset.eval_set.document_ids,
            "bytes": result.document_bytes.tolist(),
            "nats": result.document_nats.tolist(),
        }
        record.write("eval_documents.json", scores)
        log = schedule.document(config.optim.scheduler_type, loop.schedule)
        if log:
            record.write(schedule.LOG, log, indent=None)
        record.finish({"run_id": record.directory.name, **result.summary(), "precision": precision.record()})
    return result
