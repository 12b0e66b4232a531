"""Weights mixed with a cellular automaton: the rule itself, the variance, what is left alone."""

import pytest
import torch

from nanochat.cellular import RULES, automaton, mix_automaton, pattern
from nanochat.config import ConfigError, GPTConfig
from nanochat.gpt import GPT

SIZES = {"n_layer": 2, "n_head": 2, "n_embd": 32, "sequence_len": 16, "vocab_size": 64}


def by_hand(rule: int, row: list[int]) -> list[int]:
    """The next row from the rule's table, cell by cell."""
    width = len(row)
    return [(rule >> (4 * row[i - 1] + 2 * row[i] + row[(i + 1) % width])) & 1 for i in range(width)]


@pytest.mark.parametrize("rule", [30, 116, 110, 0, 255])
def test_rows_follow_the_rule(rule):
    rows = automaton(rule, torch.randint(2, (13,), dtype=torch.uint8), 9)
    for before, after in zip(rows[:-1].tolist(), rows[1:].tolist(), strict=True):
        assert after == by_hand(rule, before)


def test_rule_30_from_one_cell_is_the_known_triangle():
    first = torch.zeros(11, dtype=torch.uint8)
    first[5] = 1
    rows = ["".join(map(str, row)) for row in automaton(30, first, 4).tolist()]
    assert rows == ["00000100000", "00001110000", "00011001000", "00110111100"]


@pytest.mark.parametrize("rule", RULES.values())
def test_patterns_have_mean_zero_and_variance_one(rule):
    cells = pattern(rule, (64, 48), 0, "w")
    assert cells.mean().abs() < 1e-5
    assert cells.square().mean() == pytest.approx(1.0, abs=1e-4)
    assert cells.unique().numel() == 2


def test_a_pattern_that_dies_is_zero():
    assert torch.equal(pattern(0, (1, 1), 0, "w"), torch.zeros(1, 1))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_variance_is_kept_and_zero_weights_stay_zero(rule, alpha):
    plain, mixed = GPT(GPTConfig(**SIZES)), GPT(GPTConfig(**SIZES, ca_init_rule=rule, ca_init_alpha=alpha))
    for (name, before), after in zip(plain.named_parameters(), mixed.parameters(), strict=True):
        assert after.square().mean().item() == pytest.approx(before.square().mean().item(), rel=1e-4), name
        if alpha == 0.0:
            assert torch.allclose(after, before, rtol=1e-5, atol=1e-7), name
        elif before.abs().max() > 0:
            assert not torch.allclose(after, before), name
        else:
            assert torch.equal(after, before), name


def test_alpha_is_the_share_of_the_pattern():
    """At alpha the correlation with the drawn weight is sqrt(1 - alpha^2), up to sampling."""
    plain = GPT(GPTConfig(**SIZES)).stack.blocks[0].mlp.up.weight.flatten()
    for alpha in (0.3, 0.8):
        mixed = GPT(GPTConfig(**SIZES, ca_init_rule="rule30", ca_init_alpha=alpha))
        weight = mixed.stack.blocks[0].mlp.up.weight.flatten()
        correlation = torch.corrcoef(torch.stack([plain, weight]))[0, 1].item()
        assert correlation == pytest.approx((1 - alpha**2) ** 0.5, abs=0.06)


def test_the_seed_decides_and_layers_differ():
    def weights(seed: int) -> list[torch.Tensor]:
        model = GPT(GPTConfig(**SIZES, ca_init_rule="rule30", ca_init_alpha=1.0, ca_init_seed=seed))
        return [block.mlp.up.weight for block in model.stack.blocks]

    first, second = weights(0), weights(1)
    assert all(torch.equal(a, b) for a, b in zip(first, weights(0), strict=True))
    assert not torch.equal(first[0], second[0])
    assert not torch.equal(first[0], first[1])


def test_a_pattern_that_dies_leaves_the_weight():
    layer = torch.nn.Linear(1, 1)  # one cell is a constant pattern
    before = layer.weight.item()
    mix_automaton(layer, "rule30", 1.0, 0)
    assert layer.weight.item() == before


def test_rules_differ():
    models = [GPT(GPTConfig(**SIZES, ca_init_rule=rule)) for rule in RULES]
    assert not torch.equal(models[0].embed.weight, models[1].embed.weight)


@pytest.mark.parametrize("rule", RULES)
def test_the_loss_still_starts_at_ln_v(rule):
    model = GPT(GPTConfig(**SIZES, ca_init_rule=rule))
    idx = torch.randint(64, (2, 16), generator=torch.Generator().manual_seed(0))
    assert model(idx, idx).item() == pytest.approx(torch.tensor(64.0).log().item(), abs=1e-5)


def test_bad_values_are_refused_together():
    with pytest.raises(ConfigError) as error:
        GPTConfig(ca_init_rule="rule31", ca_init_alpha=1.5, ca_init_seed=-1)
    assert len(error.value.faults) == 3
