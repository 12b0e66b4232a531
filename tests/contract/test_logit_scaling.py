"""Length-aware logits: exactly nothing within the trained length, log t / log T_train beyond it, cached or not."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from nanochat.architecture import attention_types, faults, plan
from nanochat.attention import MIXERS
from nanochat.attention.heads import sharpness
from nanochat.attention.standard import StandardKnobs, naive
from nanochat.bench.arms import parse
from nanochat.config import ConfigError, GPTConfig
from nanochat.counter import Counter
from nanochat.flops import ledger
from nanochat.gpt import GPT

V, TRAINED, LONG = 50, 16, 48
ABLE = [record.name for record in MIXERS if record.length_aware]
able = pytest.mark.parametrize("name", ABLE)


def config_of(name: str = "standard", scaling: str = "log", **others: Any) -> GPTConfig:
    sizes = {"n_layer": 2, "n_head": 4, "n_kv_head": 2, "n_embd": 32, "vocab_size": V, "sequence_len": TRAINED}
    return GPTConfig(**{**sizes, "attention_type": name, "logit_scaling": scaling, **others})


def awake(config: GPTConfig) -> GPT:
    """The model with random values in the matrices that start at zero, so that no branch is silent."""
    model, generator = GPT(config), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * parameter.shape[-1] ** -0.5)
    return model


def tokens(length: int) -> Tensor:
    return torch.randint(V, (2, length), generator=torch.Generator().manual_seed(1))


def test_the_factor_by_hand():
    got = sharpness(0, LONG, TRAINED, torch.empty(0, dtype=torch.float64))[:, 0]
    expected = [max(1.0, math.log(t) / math.log(TRAINED)) for t in range(1, LONG + 1)]
    assert got.tolist() == pytest.approx(expected, rel=1e-15)
    assert (got[:TRAINED] == 1).all() and (got[TRAINED:].diff() > 0).all()
    assert torch.equal(sharpness(20, 5, TRAINED, got)[:, 0], got[20:25])
    assert sharpness(TRAINED**2 - 1, 1, TRAINED, got).item() == pytest.approx(2)


@able
@pytest.mark.parametrize("length", [1, TRAINED - 1, TRAINED])
def test_within_the_trained_length_nothing_changes(name, length):
    """Loss and gradients to the bit, and no operation more."""
    losses, gradients, counts = [], [], []
    for scaling in ("none", "log"):
        model = awake(config_of(name, scaling))
        with Counter() as counter:
            loss = model(tokens(length), tokens(length))
            loss.backward()
        losses.append(loss)
        gradients.append([parameter.grad for parameter in model.parameters()])
        counts.append(counter.operations)
    assert torch.equal(losses[0], losses[1]) and counts[0] == counts[1]
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))
    books = [ledger(config_of(name, scaling), length) for scaling in ("none", "log")]
    assert books[0].training == books[1].training


@able
def test_beyond_it_only_later_tokens_change(name):
    with torch.no_grad():
        plain, scaled = (awake(config_of(name, scaling))(tokens(LONG)) for scaling in ("none", "log"))
    assert torch.equal(plain[:, :TRAINED], scaled[:, :TRAINED])
    assert ((plain - scaled).abs().amax((0, 2)) > 0)[TRAINED:].all()


def mixed(scaling: str, x: Tensor) -> tuple[Tensor, Any]:
    mixer = awake(config_of("standard", scaling)).double().stack.layers[0].mixer
    return mixer(x, None), mixer


def test_scores_are_multiplied_by_log_t_over_log_of_the_trained_length():
    """The mixer against its definition with scaled scores; the unscaled definition is the negative control."""
    x = torch.randn(2, LONG, 32, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    with torch.no_grad():
        got, mixer = mixed("log", x)
        q, k, v = mixer.project(x, None)
        steps = [max(1.0, math.log(t) / math.log(TRAINED)) for t in range(1, LONG + 1)]
        factor = torch.tensor(steps, dtype=torch.float64)
        for scale, equal in ((factor[:, None], True), (torch.ones_like(factor)[:, None], False)):
            expected = mixer.out(naive(q * scale, k, v).transpose(1, 2).reshape(x.shape))
            assert ((got - expected).abs().max() < 1e-10) == equal


@able
@pytest.mark.parametrize("chunks", [[1] * LONG, [5, 1, 20, 15, 7], [LONG]], ids=["token", "chunks", "whole"])
def test_cached_decoding_equals_the_full_pass(name, chunks):
    model, idx = awake(config_of(name)).double(), tokens(LONG)
    cache = model.init_cache(2, LONG)
    with torch.no_grad():
        parts = torch.cat([model(part, cache=cache) for part in idx.split(chunks, dim=1)], 1)
        assert (parts - model(idx)).abs().max() < 1e-10


@able
def test_the_ledger_charges_it_beyond_the_trained_length_only(name):
    model, scored = awake(config_of(name)), 2 * LONG
    with Counter() as forward:
        loss = model(tokens(LONG), tokens(LONG))
    with Counter() as backward:
        loss.backward()
    with_it, without = ledger(config_of(name), LONG), ledger(config_of(name, "none"), LONG)
    for one, stated in ((forward.operations, with_it.forward), (backward.operations, with_it.backward)):
        assert (stated * scored).matmul == pytest.approx(one.matmul, rel=0.01)
        assert (stated * scored).elementwise == pytest.approx(one.elementwise, rel=0.05)
    plain = awake(config_of(name, "none"))
    with Counter() as counter:
        plain(tokens(LONG), tokens(LONG))
    more = forward.operations.elementwise - counter.operations.elementwise  # the vector of factors once per batch
    assert more == pytest.approx((with_it.forward.elementwise - without.forward.elementwise) * scored, rel=0.1)
    decoded = [ledger(config_of(name), length).decode.elementwise for length in (TRAINED - 1, TRAINED)]
    silent = [ledger(config_of(name, "none"), length).decode.elementwise for length in (TRAINED - 1, TRAINED)]
    assert decoded[0] == silent[0] and decoded[1] == silent[1] + 2 * (32 + 3)


def test_half_precision_keeps_its_type():
    model = awake(config_of()).bfloat16()
    with torch.no_grad():
        assert model(tokens(LONG)).dtype == torch.bfloat16
    assert model.stack.layers[0].mixer.sharpen(torch.ones(1, 1, LONG, 2).bfloat16(), 0).dtype == torch.bfloat16


@pytest.mark.parametrize("name", attention_types())
def test_what_it_does_not_act_on_refuses_it(name):
    config = config_of(name)
    unaware = [record.name for record in dict.fromkeys(plan(config).mixers) if not record.length_aware]
    found = faults(config)
    assert len(found) == len(unaware)
    assert all(
        f"--logit-scaling log: got {one}, need one of" in fault for one, fault in zip(unaware, found, strict=True)
    )


def test_tropical_and_windows_refuse_it():
    assert faults(config_of("tropical")) == [f"--logit-scaling log: got tropical, need one of {', '.join(ABLE)}"]
    assert "standard" in ABLE and "tropical" not in ABLE
    (fault,) = faults(config_of("standard", knobs={"standard": StandardKnobs(window=4)}))
    assert fault.startswith("--logit-scaling log: got --standard-window")
    assert not faults(config_of("standard", "none", knobs={"standard": StandardKnobs(window=4)}))
    with pytest.raises(ConfigError, match="--sequence-len: got 1, need at least 2"):
        config_of(sequence_len=1)
    with pytest.raises(ConfigError, match="--logit-scaling"):
        config_of(scaling="sqrt")


def test_an_arm_takes_it():
    shape = {"n_layer": 1, "n_head": 2, "n_embd": 16, "sequence_len": 16, "vocab_size": 300}
    assert parse("standard,logit_scaling=log").model(shape, "adamw").logit_scaling == "log"
