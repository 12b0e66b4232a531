"""Mixed models: a pattern of mixers over the layers, held to what a plain type is held to."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from nanochat.architecture import check, faults, plan
from nanochat.attention import MIXERS
from nanochat.attention.standard import StandardKnobs
from nanochat.attention.tropical import TropicalKnobs
from nanochat.bench.arms import models, parse
from nanochat.bench.jobs import revive
from nanochat.config import ConfigError, GPTConfig, RunConfig, plain
from nanochat.counter import Counter
from nanochat.flops import ledger
from nanochat.gpt import GPT
from nanochat.options import parse as parse_words
from nanochat.sizing import fit

V, T = 50, 33
BOTH = "standard,tropical"


def config_of(pattern: str = "", **others: Any) -> GPTConfig:
    sizes = {"n_layer": 3, "n_head": 4, "n_kv_head": 2, "n_embd": 32, "vocab_size": V, "sequence_len": T}
    return GPTConfig(**{**sizes, "attention_pattern": pattern, **others})


def awake(config: GPTConfig) -> GPT:
    """The model with random values in the matrices that start at zero, so that no branch is silent."""
    model, generator = GPT(config), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * parameter.shape[-1] ** -0.5)
    return model


def tokens(length: int = T) -> Tensor:
    return torch.randint(V, (2, length), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", MIXERS.names())
@pytest.mark.parametrize("given", ["standard", None], ids=["type left out", "type equal"])
def test_a_pattern_of_one_is_the_plain_type_to_the_bit(name, given):
    plain_model, mixed = GPT(config_of(attention_type=name)), GPT(config_of(name, attention_type=given or name))
    expected, got = plain_model(tokens(), tokens()), mixed(tokens(), tokens())
    assert torch.equal(expected, got)
    expected.backward()
    got.backward()
    for (one, first), (other, second) in zip(plain_model.named_parameters(), mixed.named_parameters(), strict=True):
        assert one == other and torch.equal(first, second) and torch.equal(first.grad, second.grad), one
    assert ledger(mixed.config) == ledger(plain_model.config)


def test_a_pattern_repeats_over_the_layers():
    built = plan(config_of(BOTH, n_layer=5))
    assert [mixer.name for mixer in built.mixers] == ["standard", "tropical", "standard", "tropical", "standard"]
    classes = [type(block.mixer).__name__ for block in GPT(config_of("tropical,tropical,standard")).stack.layers]
    assert classes == ["Tropical", "Tropical", "Standard"]


def test_every_layer_computes_its_own_mixer():
    """A mixed model differs from both plain ones and from the other order: no layer is silently the baseline."""
    with torch.no_grad():
        outputs = [awake(config_of(text))(tokens()) for text in (BOTH, "tropical,standard", "standard", "tropical")]
    assert all(not torch.equal(one, other) for i, one in enumerate(outputs) for other in outputs[:i])


@pytest.mark.parametrize("chunks", [[1] * T, [5, 1, 20, 7], [T]], ids=["token", "chunks", "whole"])
def test_cached_decoding_equals_the_full_pass(chunks):
    model, idx = awake(config_of(BOTH)).double(), tokens()
    cache = model.init_cache(2, T)
    with torch.no_grad():
        parts = torch.cat([model(part, cache=cache) for part in idx.split(chunks, dim=1)], 1)
        assert (parts - model(idx)).abs().max() < 1e-10


def test_the_future_is_not_seen():
    model, idx = awake(config_of(BOTH)), tokens()
    changed = idx.clone()
    changed[:, 16] = (changed[:, 16] + 1) % V
    with torch.no_grad():
        before, after = model(idx), model(changed)
    assert torch.equal(before[:, :16], after[:, :16]) and not torch.equal(before[:, 16], after[:, 16])


def counted(config: GPTConfig) -> tuple[Any, Any]:
    model = awake(config)
    with Counter() as forward:
        loss = model(tokens(), tokens())
    with Counter() as backward:
        loss.backward()
    return forward.operations, backward.operations


def assert_ledger_is_counted(declared: GPTConfig, executed: GPTConfig) -> None:
    book, scored = ledger(declared), 2 * T
    for stated, got in zip((book.forward * scored, book.backward * scored), counted(executed), strict=True):
        assert stated.matmul == pytest.approx(got.matmul, rel=0.01)
        assert stated.semiring == pytest.approx(got.semiring, rel=0.05)
        assert stated.elementwise == pytest.approx(got.elementwise, rel=0.05)


def test_the_ledger_adds_up_the_mechanisms_of_the_layers():
    """Three layers hold the baseline twice; a ledger that took one mechanism for all layers is caught."""
    mixed = config_of(BOTH)
    assert_ledger_is_counted(mixed, mixed)
    with pytest.raises(AssertionError):
        assert_ledger_is_counted(config_of("standard"), mixed)
    with pytest.raises(AssertionError):
        assert_ledger_is_counted(config_of("tropical,standard"), mixed)
    parts = [ledger(config_of(attention_type=name)).parts["mixer"] for name in ("standard", "tropical")]
    assert ledger(mixed).parts["mixer"].total == pytest.approx((2 * parts[0].total + parts[1].total) / 3)
    assert ledger(mixed).parameters == sum(parameter.numel() for parameter in GPT(mixed).parameters())


def test_knobs_reach_the_layers_of_their_mechanism():
    knobs = {"standard": StandardKnobs(window=5), "tropical": TropicalKnobs(score="maxplus")}
    layers = GPT(config_of(BOTH, knobs=knobs)).stack.layers
    assert [layers[0].mixer.window, layers[1].mixer.score, layers[2].mixer.window] == [5, "maxplus", 5]


@pytest.mark.parametrize("text", ["standard/tropical", " standard , tropical", "standard,tropical"])
def test_one_pattern_has_one_spelling(text):
    assert config_of(text) == config_of(BOTH) and config_of(text).attention_pattern == BOTH


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"attention_pattern": "standard,reversible"}, "got reversible, a block stack, need mixers only"),
        ({"attention_pattern": "standard,residual"}, "unknown --attention-pattern 'residual'"),
        ({"attention_pattern": "standard,tropicl"}, "did you mean 'tropical'?"),
        ({"attention_pattern": "standard,"}, "unknown --attention-pattern ''"),
        ({"attention_pattern": "standard", "attention_type": "tropical"}, "got tropical beside --attention-pattern"),
        ({"attention_pattern": BOTH, "attention_type": "reversible"}, "got reversible beside --attention-pattern"),
        ({"attention_pattern": BOTH, "n_layer": 1}, "got 2 mixers, need at most --n-layer 1"),
        ({"attention_pattern": "tropical", "n_embd": 4, "position": "none"}, "got 1 channel per head"),
    ],
)
def test_one_fault_is_one_line(options, words):
    config = config_of(**{"pattern": "", **options} if "attention_pattern" not in options else options)
    (fault,) = faults(config)
    assert words in fault and "\n" not in fault
    with pytest.raises(ConfigError):
        check(config)


def test_the_command_line_takes_a_pattern_and_the_options_of_its_mixers():
    words = ["--attention-pattern", "standard,tropical", "--tropical-score", "maxplus", "--standard-window", "8"]
    model = parse_words(words).config.model
    assert model.pattern == ("standard", "tropical") and model.attention_type == GPTConfig().attention_type
    assert (model.knobs["tropical"].score, model.knobs["standard"].window) == ("maxplus", 8)


def test_options_of_a_mixer_outside_the_pattern_are_refused(capsys):
    with pytest.raises(SystemExit) as end:
        parse_words(["--attention-pattern", "tropical", "--standard-window", "8"])
    assert end.value.code == 2
    assert "options of standard: got some in a run that does not use it" in capsys.readouterr().err


def test_a_file_takes_a_pattern(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text('[model]\nattention_pattern = "tropical/standard"\n[model.knobs.tropical]\nscore = "maxplus"\n')
    assert parse_words(["--config", str(file)]).config.model.pattern == ("tropical", "standard")


SHAPE = {"n_layer": 2, "n_head": 2, "n_embd": 16, "sequence_len": 16, "vocab_size": 300}


def test_an_arm_takes_a_pattern_with_slashes():
    arm = parse("standard,attention_pattern=standard/tropical,tropical.score=maxplus,window=4,label=mixed")
    model = arm.model(SHAPE)
    assert arm.label == "mixed" and model.pattern == ("standard", "tropical")
    assert (model.knobs["tropical"].score, model.knobs["standard"].window) == ("maxplus", 4)
    assert revive(plain(RunConfig(model=model))).model == model


def test_an_arm_with_commas_in_its_pattern_is_told_about_slashes():
    with pytest.raises(ConfigError, match="slashes"):
        parse("standard,attention_pattern=standard,tropical")
    _, faults = models([parse("standard,attention_pattern=standard/reversible")], SHAPE)
    assert "a block stack" in next(iter(faults.values()))[0]


def test_a_budget_sizes_a_mixed_model_as_any_other():
    """The reference whose price sets one size for all arms is the baseline, not the pattern."""
    plain_fit, mixed = fit(2e9, {}), fit(2e9, {"attention_pattern": "tropical"})
    assert (mixed.model.n_layer, mixed.model.n_embd) == (plain_fit.model.n_layer, plain_fit.model.n_embd)
    assert mixed.batch_size == plain_fit.batch_size and mixed.model.pattern == ("tropical",)
