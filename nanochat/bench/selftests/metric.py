"""Whether bits per byte are what they say, and whether any mechanism sees the future."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from nanochat.architecture import attention_types
from nanochat.bench.audit import LEAK_TOLERANCE
from nanochat.bench.recheck import leakage
from nanochat.bench.selftests.finding import Bench, Measure, Told
from nanochat.config import DataConfig, GPTConfig, RunConfig, TrainConfig
from nanochat.data import EvalSet, open_dataset
from nanochat.evaluate import Score, evaluate
from nanochat.gpt import GPT
from nanochat.precision import Precision, resolve

VOCABULARY = 512
LENGTH = 48
PASSAGES = 24
NOISE = 0.2
"""Added to every weight where a model must not be the uniform one that it begins as."""

LEAK = 0.05
"""Share of the next token's embedding that a leaking model adds to what its head reads."""


class Uniform:
    """Gives every byte the same chance, whatever the tokens: p(token) = 256^-(its bytes).

    Args:
        sizes: bytes of each token.
        length: T.
    """

    def __init__(self, sizes: np.ndarray, length: int):
        self.config = GPTConfig(sequence_len=length)
        self.nats = torch.from_numpy(sizes).double() * math.log(256)

    def eval(self) -> None:
        """As a module has it."""

    train = eval

    def __call__(self, inputs: Tensor, targets: Tensor, reduction: str) -> Tensor:
        return torch.where(targets < 0, 0.0, self.nats[targets.clamp(min=0)])


def small(**given: Any) -> GPTConfig:
    """A model that takes no time."""
    return GPTConfig(
        **{"n_layer": 2, "n_head": 2, "n_embd": 32, "sequence_len": LENGTH, "vocab_size": VOCABULARY, **given}
    )


def bits(bench: Bench) -> Told:
    """See :data:`nanochat.bench.selftests.SELFTESTS`."""
    precision = resolve(RunConfig(train=TrainConfig(device="cpu", dtype="float32", compile=False, threads=1)), 1)
    measures = []
    for kind in ("byte", "bpe"):
        dataset = open_dataset(DataConfig(tokenizer=kind, eval_documents=PASSAGES, eval_bytes=512), VOCABULARY)
        tokens = dataset.tokenizer
        sizes = np.array([len(tokens.decode([token])) for token in range(tokens.vocab_size)])
        uniform = evaluate(Uniform(sizes, LENGTH), dataset.eval_set, precision).bits_per_byte  # type: ignore[arg-type]  # all that it asks of a model
        measures.append(
            Measure(f"{kind} tokens: bits per byte of a uniform model, less 8", abs(uniform - 8), high=1e-9)
        )
        model = GPT(small(vocab_size=tokens.vocab_size)).eval()
        first = evaluate(model, dataset.eval_set, precision)
        scored = sum(len(tokens.encode(passage)) for passage in dataset.eval_set.passages)
        begins = abs(first.nats / scored / math.log(tokens.vocab_size) - 1)
        measures.append(Measure(f"{kind} tokens: loss of an untrained model over ln V, less 1", begins, high=1e-6))
        perturb(model)
        measures.append(_order(model, dataset.eval_set, precision, kind))
    other = _normalised_by_tokens(evaluate(model, dataset.eval_set, precision), scored)
    measures.append(Measure("bits per token for 8: what the wrong denominator gives", other, low=0.5, control=True))
    return measures, ""


def perturb(model: GPT, seed: int = 0) -> None:
    """Make every part count: an untrained model's output projections and head are zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += NOISE * torch.randn(parameter.shape, generator=generator)


def _order(model: GPT, texts: EvalSet, precision: Precision, kind: str) -> Measure:
    scores = []
    for step in (1, -1):
        passages = texts.passages[::step]
        scores.append(evaluate(model, EvalSet(passages, texts.tokenizer), precision).bits_per_byte)
    what = f"{kind} tokens: relative change when the documents come in another order"
    return Measure(what, abs(scores[1] / scores[0] - 1), high=1e-6)


def _normalised_by_tokens(score: Score, tokens: int) -> float:
    """How far off it is to divide by tokens and call it bytes."""
    return abs(score.nats / tokens / math.log(2) - score.bits_per_byte)


@contextmanager
def leaking() -> Iterator[None]:
    """Meanwhile every model sees a little of the next token, in training, evaluation and recheck alike."""
    honest = GPT.hidden

    def hidden(self: GPT, idx: Tensor, cache: None = None) -> Tensor:
        seen = honest(self, idx, cache)
        return torch.cat([seen[:, :-1] + LEAK * self.embed(idx)[:, 1:], seen[:, -1:]], 1)

    with mock.patch.object(GPT, "hidden", hidden):
        yield


def causality(bench: Bench) -> Told:
    """See :data:`nanochat.bench.selftests.SELFTESTS`."""
    measures = [Measure(name, _leak(name), high=LEAK_TOLERANCE) for name in attention_types()]
    with leaking():
        measures.append(
            Measure("a model that sees the next token", _leak(RunConfig().model.attention_type), low=0.01, control=True)
        )
    return measures, ""


@torch.no_grad()
def _leak(name: str) -> float:
    rng = np.random.Generator(np.random.Philox(key=0))
    model = GPT(small(attention_type=name)).eval()
    perturb(model)
    documents = [rng.integers(0, VOCABULARY, size=1000)]
    return leakage(model, documents, rng)
