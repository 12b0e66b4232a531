r"""A second opinion on a finished run, from its weights alone.

The trainer reports a score; this module does not take its word. It builds the planned model afresh, loads what the run
left, and asks four questions:

- **score**: a few held-out documents, scored here in windows of the planned length, against what the run reported;
- **causality**: :math:`\max |\ell_t(x) - \ell_t(x')|` over positions t before the first token in which x and x' differ;
- **training text**: the losses of the last steps, as they were reported, against those of the final weights on the
  batches that were planned for these steps; they rise and fall together if these batches were read;
- **size**: the parameters that lie in the file.

A longer context, other text to score or to learn from, a mixer that sees the next token or a bigger model would make an
arm win for the wrong reason; each is seen here even if the trainer's own numbers agree with each other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from nanochat import checkpoint
from nanochat.config import ConfigError, RunConfig
from nanochat.evaluate import bits_per_byte
from nanochat.gpt import GPT
from nanochat.options import steps_of
from nanochat.precision import Precision, machine, resolve
from nanochat.record import config_hash

if TYPE_CHECKING:
    from nanochat.data import Dataset
    from nanochat.result import TrainResult

DOCUMENTS = 8
"""Held-out documents that are scored again, chosen by the run's key."""

REPLAYED = 32
"""Last training steps whose losses are compared."""

CUTS = 8
"""Places after which the future is changed."""


@dataclass(frozen=True, slots=True)
class Recheck:
    """What the weights say.

    Args:
        rescored: largest relative difference between the run's scores and ours: of the documents, and of bits per byte
            as they follow from the reported nats and the frozen set's bytes.
        leak: largest change of a logit before the first changed token.
        weights: parameters in the file.
        replayed: correlation of the last reported training losses with ours.
        unchecked: why none of this could be found out; empty if it could.
    """

    rescored: float | None = None
    leak: float | None = None
    weights: int | None = None
    unchecked: str = ""
    replayed: float | None = None


def recheck(key: str, run: RunConfig, result: TrainResult, directory: Path, dataset: Dataset) -> Recheck:
    """Look at the final checkpoint of a run.

    Args:
        key: of the run; decides the documents and the places, so that a trainer cannot know them.
        run: as planned.
        result: as reported.
        directory: where the run wrote.
        dataset: as planned.
    """
    if result.diverged:
        return Recheck(unchecked="it diverged")
    run = replace(run, model=replace(run.model, vocab_size=dataset.tokenizer.vocab_size))
    try:
        state = _weights(directory, run)
    except ConfigError as error:
        return Recheck(unchecked=error.faults[-1].partition(": ")[2] or error.faults[-1])
    weights = _parameters(state)
    precision = resolve(run, steps_of(run))
    with machine(precision, run.train.seed), torch.no_grad():
        model = GPT(run.model, seed=run.train.seed).to(precision.torch_device).eval()
        try:
            model.load_state_dict(state)
        except RuntimeError:
            planned = sum(parameter.numel() for parameter in model.parameters())
            fault = f"its {weights} parameters do not fit the planned model of {planned}"
            return Recheck(weights=weights, unchecked=fault)
        rng = np.random.Generator(np.random.Philox(key=int(key[:32], 16)))
        count = len(dataset.eval_set.passages)
        chosen = sorted(rng.choice(count, size=min(DOCUMENTS, count), replace=False).tolist())
        rescored = _rescored(model, precision, chosen, result, dataset)
        leak = leakage(model, [_tokens(dataset, document) for document in chosen], rng)
        replayed = _replayed(model, precision, run, result.loss_curve, dataset)
    if not (math.isfinite(rescored) and math.isfinite(leak)):
        return Recheck(weights=weights, unchecked="its weights give numbers that are not finite")
    return Recheck(rescored, leak, weights, replayed=replayed)


def _weights(directory: Path, run: RunConfig) -> dict[str, Tensor]:
    found = checkpoint.load(directory, config_hash(run), lambda line: None)
    if found is None:
        raise ConfigError(["it left no weights"])
    return found[1]["model"]


def _parameters(state: dict[str, Tensor]) -> int:
    """Numbers in the file, those that two names share once. No mechanism keeps buffers in its state."""
    return sum({tensor.data_ptr(): tensor.numel() for tensor in state.values()}.values())


def _tokens(dataset: Dataset, document: int) -> np.ndarray:
    encoded = dataset.tokenizer.encode(dataset.eval_set.passages[document])
    return np.concatenate([[dataset.tokenizer.bos], encoded]).astype(np.int64)


def _rescored(model: GPT, precision: Precision, chosen: Sequence[int], result: TrainResult, dataset: Dataset) -> float:
    reported = np.asarray(result.document_nats, dtype=np.float64)
    sizes = np.asarray(dataset.eval_set.document_bytes)
    if reported.shape != sizes.shape:
        return math.inf
    errors = [abs(bits_per_byte(float(reported.sum()), int(sizes.sum())) / result.bpb - 1)]
    for document in chosen:
        nats = score(model, _tokens(dataset, document), precision)
        errors.append(abs(float(reported[document]) / nats - 1))
    return float(np.max(errors))


def score(model: GPT, tokens: np.ndarray, precision: Precision) -> float:
    """Nats of all tokens but the first: whole windows of the planned length together, then the rest as it is."""
    length = model.config.sequence_len
    whole = (len(tokens) - 1) // length * length
    parts = [(tokens[:whole].reshape(-1, length), tokens[1 : whole + 1].reshape(-1, length))] if whole else []
    if len(tokens) > whole + 1:
        parts.append((tokens[None, whole:-1], tokens[None, whole + 1 :]))
    nats = 0.0
    for inputs, targets in parts:
        with precision.autocast():
            logits = model(torch.from_numpy(inputs).to(model.device))
        chosen = torch.from_numpy(targets).to(model.device)
        nats -= float(logits.double().log_softmax(-1).gather(-1, chosen[..., None]).sum())
    return nats


def _replayed(model: GPT, precision: Precision, run: RunConfig, reported: Sequence[float], dataset: Dataset) -> float:
    """Correlation over the last steps; 0 where the losses do not vary, as those of real text do."""
    loader = dataset.loader(run.train.batch_size, run.model.sequence_len, run.train.seed)
    first = max(0, len(reported) - REPLAYED)
    ours = []
    for step in range(first, len(reported)):
        batch = (torch.from_numpy(np.ascontiguousarray(array)).to(model.device) for array in loader.batch(step))
        with precision.autocast():
            ours.append(float(model(*batch)))
    theirs = np.asarray(reported[first:], dtype=np.float64)
    if len(ours) < 2 or not (np.std(ours) > 0 and theirs.std() > 0):
        return 0.0
    return float(np.corrcoef(ours, theirs)[0, 1])


def leakage(model: GPT, documents: Sequence[np.ndarray], rng: np.random.Generator) -> float:
    """Change everything from a place on, and see whether a logit before it moves.

    Row r of a batch is cut at a place of its own: at the ends, in the middle and anywhere. The changed batch has the
    shape of the unchanged one, so that equal inputs take the same way through the arithmetic; full precision.
    """
    length, vocabulary = model.config.sequence_len, model.config.vocab_size
    if length == 1:
        return 0.0
    stream = np.concatenate(documents)
    rows = np.resize(stream, (CUTS, length))
    fixed = [1, length - 1, length // 2]
    cuts = np.array([*fixed, *rng.integers(1, length, size=CUTS - len(fixed))])
    cuts = np.clip(cuts, 1, length - 1)
    future = np.arange(length) >= cuts[:, None]
    others = (rows + rng.integers(1, vocabulary, size=rows.shape)) % vocabulary
    before, after = (_logits(model, batch) for batch in (rows, np.where(future, others, rows)))
    moved = (before - after).abs().amax(-1)
    return float(moved[torch.from_numpy(~future).to(moved.device)].max())


def _logits(model: GPT, batch: Any) -> Tensor:
    return model(torch.from_numpy(batch).to(model.device))
