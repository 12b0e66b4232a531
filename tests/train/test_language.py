"""Every attention type learns language: 200 steps on the default corpus end clearly below its unigram entropy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from nanochat import optim, schedule
from nanochat.architecture import attention_types
from nanochat.config import DataConfig, GPTConfig, OptimConfig
from nanochat.data import Dataset, open_dataset
from nanochat.distributed import World
from nanochat.gpt import GPT
from nanochat.precision import Precision
from nanochat.step import Step

STEPS, LENGTH = 200, 64
CLEARLY = 0.90
"""Share of the unigram entropy; what is below it is clearly below."""
FAST = ("standard", "gauge")
TYPES = [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in attention_types()]

See = Callable[[Tensor], Tensor]


def everything(inputs: Tensor) -> Tensor:
    return inputs


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Dataset:
    """The default corpus in bytes, which need no tokenizer to be trained; fewer held-out documents."""
    folder = str(tmp_path_factory.mktemp("cache"))
    return open_dataset(DataConfig(cache_dir=folder, tokenizer="byte", eval_documents=40, eval_bytes=512), 257)


def new_model(name: str, corpus: Dataset) -> GPT:
    sizes = {"n_layer": 2, "n_head": 2, "n_embd": 64, "sequence_len": LENGTH}
    return GPT(GPTConfig(attention_type=name, vocab_size=corpus.tokenizer.vocab_size, **sizes))


def held_out(corpus: Dataset) -> tuple[Tensor, Tensor]:
    windows = corpus.eval_set.windows(LENGTH)
    return torch.from_numpy(windows.inputs), torch.from_numpy(windows.targets)


def unigram_nats(corpus: Dataset) -> float:
    """Cross-entropy of the held-out tokens under their frequencies in the training text, one added to each count."""
    counts = np.bincount(corpus.train_tokens, minlength=corpus.tokenizer.vocab_size) + 1
    targets = held_out(corpus)[1].numpy()
    return float(-np.log(counts / counts.sum())[targets[targets >= 0]].mean())


@torch.no_grad()
def nats(model: GPT, corpus: Dataset, see: See = everything) -> float:
    """Held-out loss per token of a model that is given ``see`` of its inputs."""
    inputs, targets = held_out(corpus)
    return model(see(inputs), targets).item()


def trained(model: GPT, corpus: Dataset, see: See = everything) -> GPT:
    """After 200 steps of 16 sequences at the optimizer's own learning rate."""
    settings, loader = OptimConfig(), corpus.loader(16, LENGTH, seed=0)
    plain = Precision("cpu", "float32", compile=False, threads=1, reason="small")
    stepper, rate = optim.build(model, settings), schedule.build(settings, STEPS)
    step = Step(model, model, stepper, rate, grad_clip=settings.grad_clip, precision=plain, world=World())
    for number in range(STEPS):
        inputs, targets = (torch.from_numpy(each) for each in loader.batch(number))
        step(see(inputs), targets)
    return model


@pytest.mark.parametrize("name", TYPES)
def test_two_hundred_steps_end_clearly_below_the_unigram_entropy(name, corpus):
    """All types: ``pytest -m "slow or not slow" tests/train/test_language.py``, two minutes."""
    got, unigram = nats(trained(new_model(name, corpus), corpus), corpus), unigram_nats(corpus)
    assert got < CLEARLY * unigram


def test_a_model_that_sees_no_token_does_not(corpus):
    """Its inputs are all one token: it can learn frequencies only. Nor does a model that has not been trained."""
    blind, unigram = trained(new_model("standard", corpus), corpus, torch.zeros_like), unigram_nats(corpus)
    assert 0.98 * unigram < nats(blind, corpus, torch.zeros_like) < 1.1 * unigram
    assert nats(new_model("standard", corpus), corpus) > unigram
