"""The options of tropical together: ledger, state, decoding and what is refused, for each score, position and beta."""

from __future__ import annotations

import pytest
import torch

from nanochat.attention.tropical import StateCache, Tropical, TropicalKnobs
from nanochat.config import ConfigError, GPTConfig
from nanochat.counter import Counter
from nanochat.flops import ledger
from nanochat.gpt import GPT
from nanochat.kernels.maxplus import operators, recurrent
from nanochat.registry import Operations

every_combination = [
    pytest.mark.parametrize("beta", [None, 2.0]),
    pytest.mark.parametrize("position", ["translation", "rotary", "none"]),
    pytest.mark.parametrize("score", ["hilbert", "maxplus"]),
]


def config_of(score: str, beta: float | None, position: str, length: int) -> GPTConfig:
    knobs = TropicalKnobs(score=score, beta=beta, position="rotary" if position == "rotary" else "translation")
    return GPTConfig(
        n_layer=1, n_embd=32, n_head=4, n_kv_head=2, vocab_size=40, sequence_len=length, attention_type="tropical",
        position="none" if position == "none" else "rope", knobs={"tropical": knobs},
    )  # fmt: skip


def combinations(function):
    for mark in every_combination:
        function = mark(function)
    return function


def assert_equal(counted: Operations, declared: Operations) -> None:
    for kind in ("matmul", "semiring", "elementwise"):
        assert getattr(counted, kind) == pytest.approx(getattr(declared, kind), rel=1e-3), kind


@combinations
@pytest.mark.parametrize("length", [7, 40])  # either side of the length from which maxplus is linear
def test_the_ledger_is_exact(score, beta, position, length):
    config = config_of(score, beta, position, length)
    model, declared = GPT(config), ledger(config)
    idx = torch.randint(40, (2, length), generator=torch.Generator().manual_seed(0))
    model(idx, idx).backward()  # tables and kernels are made
    with Counter() as forward:
        loss = model(idx, idx)
    with Counter() as backward:
        loss.backward()
    assert_equal(forward.operations, declared.forward * (2 * length))
    update = Operations(elementwise=sum(parameter.numel() for parameter in model.parameters()))
    assert_equal(backward.operations, declared.backward * (2 * length) + update)  # added to the gradients there


@combinations
def test_the_ledger_of_decoding_is_exact(score, beta, position):
    config = config_of(score, beta, position, 40)
    model = GPT(config).eval()
    with torch.no_grad():
        cache = model.init_cache(1, 40)
        model(torch.zeros(1, 39, dtype=torch.long), cache=cache)
        with Counter() as counter:
            model(torch.zeros(1, 1, dtype=torch.long), cache=cache)
    assert_equal(counter.operations, ledger(config, 39).decode)


def test_maxplus_decodes_from_a_state_that_does_not_grow():
    model = GPT(config_of("maxplus", None, "translation", 8)).double().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(parameter.numel()))
    cache = model.init_cache(1, 700)
    idx = torch.randint(40, (1, 700), generator=torch.Generator().manual_seed(0))
    sizes, operations = [], []
    with torch.no_grad():
        whole = model(idx)
        parts = []
        for part in idx.split([1, 98, 1, 599, 1], 1):
            with Counter() as counter:
                parts.append(model(part, cache=cache))
            (state,) = cache.layers
            assert isinstance(state, StateCache) and state.memory.abs().max() < 100, "positions would have grown to 600"
            sizes.append(state.memory.numel())
            operations += [counter.operations] if part.shape[1] == 1 else []
    assert len(set(sizes)) == 1 and operations[0] == operations[1] == operations[2]
    assert (torch.cat(parts, 1) - whole).abs().max() < 1e-10


def test_which_form_runs_is_what_the_ledger_charges(monkeypatch):
    """The linear form from two tokens per channel on, in the mixer and in the ledger alike."""
    called = []
    for module, name in ((operators, "attention"), (recurrent, "recurrence")):
        original = getattr(module, name)
        monkeypatch.setattr(
            module, name, lambda *args, original=original, name=name: called.append(name) or original(*args)
        )
    for length in (15, 16):
        config = config_of("maxplus", None, "none", length)
        GPT(config)(torch.zeros(1, length, dtype=torch.long))
    assert called == ["attention", "recurrence"]
    quadratic, linear = (ledger(config_of("maxplus", None, "none", length)).parts["mixer"] for length in (15, 16))
    assert quadratic.semiring == 4 * 16 / 2 * 4 * 8 and linear.semiring == 2 * 8 * 8 * (4 + 2)


@pytest.mark.parametrize("beta", [None, 4.0])
@pytest.mark.parametrize("score", ["hilbert", "maxplus"])
def test_beta_changes_the_function_and_every_weight_learns(score, beta):
    config = config_of(score, beta, "translation", 24)
    model, hard = GPT(config), GPT(config_of(score, None, "translation", 24))
    for one in (model, hard):
        for name, parameter in one.named_parameters():
            generator = torch.Generator().manual_seed(len(name))
            torch.nn.init.normal_(parameter, std=0.2, generator=generator)
    idx = torch.randint(40, (2, 24), generator=torch.Generator().manual_seed(0))
    assert torch.equal(model(idx), hard(idx)) == (beta is None)
    model(idx, idx).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())
    mixer = model.stack.blocks[0].mixer
    assert isinstance(mixer, Tropical)
    mixer.beta = None
    assert torch.equal(model(idx), hard(idx)), "beta may be set between steps"


@pytest.mark.parametrize("beta", [0.0, -1.0, float("nan"), float("inf"), 1e7])
def test_no_beta_but_a_positive_one(beta):
    with pytest.raises(ConfigError, match="--tropical-beta: got .*need more than 0, at most 1e\\+06"):
        TropicalKnobs(beta=beta)


def test_margins_need_a_winner():
    with pytest.raises(ConfigError, match="a margin has a winner"):
        TropicalKnobs(beta=1.0, record_margins=True)
