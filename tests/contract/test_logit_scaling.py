"""Length-aware logits: exactly nothing within the trained length, log t / log T_train beyond it, cached or not."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import rms_norm

from nanochat.architecture import attention_types, faults, plan
from nanochat.attention import MIXERS, gauge
from nanochat.attention.heads import causal_mask, repeat_heads, sharpness
from nanochat.attention.simplicial import SimplicialKnobs
from nanochat.attention.standard import StandardKnobs, naive
from nanochat.bench.arms import parse
from nanochat.config import ConfigError, GPTConfig
from nanochat.counter import Counter
from nanochat.flops import ledger
from nanochat.gpt import GPT
from nanochat.kernels.hypercomplex import naive as hypercomplex
from nanochat.kernels.scan import naive as scan
from nanochat.kernels.simplicial import naive as simplicial

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


def surreal_definition(mixer: Any, x: Tensor, scale: Tensor, exponents: bool = True) -> Tensor:
    """The softmax of mantissas plus exponents, both scaled; or mantissas alone."""
    q, k, v, r = mixer.heads(x, None)
    k, v, r = (repeat_heads(each, 2) for each in (k, v, r))
    scores = q @ k.mT * q.shape[-1] ** -0.5 * scale + r.mT * (scale if exponents else 1)
    return scores.masked_fill(~causal_mask(LONG, LONG, 0, x.device), float("-inf")).softmax(-1) @ v


def simplicial_definition(mixer: Any, x: Tensor, scale: Tensor) -> Tensor:
    q, k, v = mixer.project(x, None)
    more = [layer(x).unflatten(-1, (2, -1)).transpose(1, 2) for layer in mixer.second.values()]
    k, v, more_k, more_v = (repeat_heads(each, 2) for each in (k, v, rms_norm(more[0], (8,)), more[1]))
    return simplicial.attention(q * scale, k, v, more_k, more_v, mixer.windows, slopes=mixer.slopes)


def gauge_definition(mixer: Any, x: Tensor, scale: Tensor) -> Tensor:
    frame = gauge.frames(mixer.connection(x), mixer.group)[0]
    q, k, v = (scan.turn(frame, each, mixer.group) for each in mixer.project(x, None))
    return rms_norm(scan.turn(frame, naive(q * scale, k, v), mixer.group, inverse=True), (8,))


DEFINITIONS: dict[str, Callable[[Any, Tensor, Tensor], Tensor]] = {
    "standard": lambda mixer, x, scale: naive(mixer.project(x, None)[0] * scale, *mixer.project(x, None)[1:]),
    "gauge": gauge_definition,
    "surreal": surreal_definition,
    "simplicial": simplicial_definition,
    "quaternion": lambda mixer, x, scale: rotors(mixer, x, 4, scale),
    "octonion": lambda mixer, x, scale: rotors(mixer, x, 8, scale),
}
"""Heads of a mixer from its definition, without positions, with its scores times a factor per query."""


def rotors(mixer: Any, x: Tensor, n: int, scale: Tensor) -> Tensor:
    """Numbers are of unit length where values are turned, whatever the length of the query that scores."""
    q, k, v = mixer.project(x, None)
    q, k = (hypercomplex.channels(hypercomplex.unit(hypercomplex.numbers(each, n))) * n**0.5 for each in (q, k))
    return hypercomplex.attention(q * scale, k, v, n, unit_scores=False)


def factors(name: str) -> Tensor:
    """By hand: tokens that a query sees; of ``simplicial`` (windows 32 and 8), pairs."""
    seen = [min(t, 32) * min(t, 8) if name == "simplicial" else t for t in range(1, LONG + 1)]
    steps = [max(1.0, math.log(n) / math.log(seen[TRAINED - 1])) for n in seen]
    return torch.tensor(steps, dtype=torch.float64)[:, None]


def distances(name: str, definition: Callable[..., Tensor], *scales: Tensor) -> list[float]:
    """Of the mixer with ``--logit-scaling log`` from its definition, for each factor of the scores."""
    x = torch.randn(2, LONG, 32, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    with torch.no_grad():
        mixer = awake(config_of(name)).double().stack.layers[0].mixer
        got = mixer(x, None)
        expected = (mixer.out(definition(mixer, x, scale).transpose(1, 2).reshape(x.shape)) for scale in scales)
        return [(got - one).abs().max().item() for one in expected]


@pytest.mark.parametrize("name", DEFINITIONS)
def test_scores_are_multiplied_by_log_t_over_log_of_the_trained_length(name):
    """The mixer against its definition with scaled scores; without, and twice, are the negative controls."""
    factor = factors(name)
    right, without, twice = distances(name, DEFINITIONS[name], factor, torch.ones_like(factor), factor**2)
    assert right < 1e-10 and without > 1e-4 and twice > 1e-4


def test_scaling_the_mantissas_alone_is_another_function():
    (apart,) = distances("surreal", lambda *given: surreal_definition(*given, exponents=False), factors("surreal"))
    assert apart > 1e-4


def test_pairs_that_a_window_hides_do_not_count():
    (apart,) = distances("simplicial", simplicial_definition, factors("standard"))
    assert apart > 1e-4
    reach = sharpness(0, 400, TRAINED, factors("simplicial"), (32, 8))[:, 0]
    assert (reach[:LONG] - factors("simplicial")[:, 0]).abs().max() < 1e-12 and (reach[32:] == reach[31]).all()
    both = sharpness(0, 400, TRAINED, factors("simplicial"), (999, 999))
    assert (both - sharpness(0, 400, TRAINED, both)).abs().max() < 1e-12  # pairs without windows: t^2 over T^2


@able
@pytest.mark.parametrize("chunks", [[14, *[1] * 8, 26], [5, 1, 20, 15, 7], [LONG]], ids=["token", "chunks", "whole"])
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


@able
def test_half_precision_keeps_its_type(name):
    model = awake(config_of(name)).bfloat16()
    with torch.no_grad():
        got = model(tokens(LONG))
        assert got.dtype == torch.bfloat16
        exact = awake(config_of(name))(tokens(LONG))
        assert torch.cosine_similarity(got.float().flatten(), exact.flatten(), dim=0) > 0.99
    assert model.stack.layers[0].mixer.sharpen(torch.ones(1, 1, LONG, 2).bfloat16(), 0).dtype == torch.bfloat16


@pytest.mark.parametrize("name", attention_types())
def test_what_it_does_not_act_on_refuses_it(name):
    config = config_of(name)
    unaware = [record.name for record in dict.fromkeys(plan(config).mixers) if not record.length_aware]
    found = faults(config)
    assert len(found) == len(unaware)
    assert all(fault.startswith(f"--logit-scaling log: got {one}, ") for one, fault in zip(unaware, found, strict=True))


def test_the_reason_stands_in_the_refusal():
    assert {"standard", *DEFINITIONS} <= set(ABLE)
    silent = [record.name for record in MIXERS if not record.length_aware and not record.length_blind]
    assert not silent, "need length_aware, or the reason why not"
    (fault,) = faults(config_of("tropical"))
    assert fault == (
        "--logit-scaling log: got tropical, whose maximum does not spread out over more keys, "
        f"need one of {', '.join(ABLE)}"
    )
    (fault,) = faults(config_of("ultrametric"))
    assert "got ultrametric, whose weights are levels of a tree" in fault


@pytest.mark.parametrize(
    ("name", "knobs", "words"),
    [("standard", StandardKnobs(window=4), "got --standard-window"),
     ("simplicial", SimplicialKnobs(window="16,8"), "got a --simplicial-window within --sequence-len 16")],
)  # fmt: skip
def test_windows_refuse_it(name, knobs, words):
    (fault,) = faults(config_of(name, knobs={name: knobs}))
    assert fault.startswith(f"--logit-scaling log: {words}")
    assert not faults(config_of(name, "none", knobs={name: knobs}))


def test_lengths_without_a_logarithm_are_refused():
    with pytest.raises(ConfigError, match="--sequence-len: got 1, need at least 2"):
        config_of(sequence_len=1)
    with pytest.raises(ConfigError, match="--logit-scaling"):
        config_of(scaling="sqrt")


def test_an_arm_takes_it():
    shape = {"n_layer": 1, "n_head": 2, "n_embd": 16, "sequence_len": 16, "vocab_size": 300}
    assert parse("standard,logit_scaling=log").model(shape).logit_scaling == "log"
