"""From a budget to a size and to steps: what is promised, what is refused, what is left alone."""

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.architecture import attention_types, faults
from nanochat.config import ConfigError, GPTConfig
from nanochat.flops import ledger
from nanochat.optim import OPTIMIZERS
from nanochat.sizing import LADDER, MIN_STEPS, fit, plan_steps

BUDGETS = [2e9, 3e9, 1e10, 1.5e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18]
TINY = {"n_layer": 1, "n_head": 2, "n_embd": 16, "sequence_len": 32, "vocab_size": 257}


@pytest.mark.parametrize("optimizer", OPTIMIZERS.names())
@pytest.mark.parametrize("attention", attention_types())
@pytest.mark.parametrize("budget", BUDGETS)
def test_every_budget_gets_a_size_and_steps_that_spend_it(budget, attention, optimizer):
    chosen = {"attention_type": attention, "optimizer_type": optimizer}
    if faults(GPTConfig(**chosen)):
        with pytest.raises(ConfigError, match="needs second derivatives"):
            fit(budget, chosen)
        return
    if optimizer == "hoss" and budget < 1e10:  # the smallest shape has 200 steps from 6e9 or so
        with pytest.raises(ConfigError, match="need 200 steps: "):
            fit(budget, chosen)
        return
    sized = fit(budget, chosen)
    assert sized.steps >= MIN_STEPS
    used = sized.steps * ledger(sized.model).step_flops(sized.batch_size)
    assert abs(used - budget) / budget <= 0.005
    assert sized.tokens == sized.steps * sized.batch_size * sized.model.sequence_len
    assert sized.model.attention_type == attention


def test_every_arm_gets_the_same_size():
    sizes = {
        (sized.model.n_layer, sized.model.n_embd, sized.model.sequence_len, sized.batch_size)
        for sized in (fit(1e12, {"attention_type": name}) for name in attention_types())
    }
    assert len(sizes) == 1


def test_the_users_own_budget_is_a_tiny_byte_level_design():
    sized = fit(2e9)
    assert (sized.model.n_layer, sized.model.n_embd, sized.model.vocab_size) == (1, 16, 257)
    assert sized.tokenizer == "byte"
    assert sized.steps >= 400
    for word in ("2e+09", "16 channels", "575 steps", "tokens per weight"):
        assert word in sized.sentence
    assert "\n" not in sized.sentence


def test_sizes_grow_with_the_budget_and_stay_near_the_rule():
    sized = [fit(budget) for budget in BUDGETS]
    weights = [ledger(each.model).parameters for each in sized]
    assert weights == sorted(weights)
    assert all(4 < each.tokens_per_parameter < 100 for each in sized)


def test_the_ladder_climbs():
    costs = [
        ledger(
            GPTConfig(
                n_layer=rung.n_layer,
                n_embd=rung.n_embd,
                n_head=rung.n_head,
                sequence_len=rung.sequence_len,
                vocab_size=rung.vocab_size,
            )
        ).training.total
        for rung in LADDER
    ]
    assert costs == sorted(costs)


@pytest.mark.parametrize(
    "fixed",
    [
        {"n_embd": 32},
        {"n_head": 4},
        {"n_layer": 2},
        {"sequence_len": 64},
        {"vocab_size": 300},
        {"batch_size": 4},
        {"n_embd": 48, "n_head": 6, "n_kv_head": 3},
        {"n_embd": 36},
        {"mlp": "swiglu", "tie_embeddings": True},
        {"tokenizer": "bpe"},
    ],
)
def test_what_is_given_stays(fixed):
    sized = fit(1e10, fixed)
    for name, value in fixed.items():
        owner = sized if name in ("batch_size", "tokenizer") else sized.model
        assert getattr(owner, name) == value


def test_vocabulary_follows_the_tokenizer():
    assert fit(1e14, {"tokenizer": "byte"}).model.vocab_size == 257
    assert fit(2e9, {"tokenizer": "bpe"}).model.vocab_size == 512
    assert fit(2e9, vocab_size=512).tokenizer == "bpe"


@settings(deadline=None, derandomize=True, max_examples=60)
@given(budget=st.floats(1e9, 1e15), batch=st.sampled_from([1, 2, 8, 64]))
def test_planned_steps_are_within_half_a_percent_or_refused(budget, batch):
    config = GPTConfig(**TINY)
    cost = ledger(config).step_flops(batch)
    try:
        steps = plan_steps(config, batch, budget)
    except ConfigError:
        assert budget / cost < MIN_STEPS
    else:
        assert steps >= MIN_STEPS
        assert abs(steps * cost - budget) / budget <= 0.005


def test_a_design_below_the_least_steps_is_refused_with_numbers_that_help():
    with pytest.raises(ConfigError) as error:
        plan_steps(GPTConfig(), 16, 2e9)
    (line,) = error.value.faults
    assert "--target-flops: got 2e+09" in line
    assert "need 200 steps" in line
    words = line.split()
    enough = float(words[words.index("steps:") + 1])
    assert plan_steps(GPTConfig(), 16, enough) >= MIN_STEPS
    flags = {word: int(words[place + 1].strip("(")) for place, word in enumerate(words) if word.startswith("--n-")}
    flags |= {flag: int(words[words.index(flag) + 1]) for flag in ("--sequence-len", "--batch-size")}
    batch = flags.pop("--batch-size")
    fitting = GPTConfig(**{flag[2:].replace("-", "_"): value for flag, value in flags.items()})
    assert plan_steps(fitting, batch, 2e9) >= MIN_STEPS


def test_one_step_short_is_refused_and_enough_is_not():
    config = GPTConfig(**TINY)
    cost = ledger(config).step_flops(2)
    assert plan_steps(config, 2, MIN_STEPS * cost) == MIN_STEPS
    with pytest.raises(ConfigError, match="pays for 199 steps"):
        plan_steps(config, 2, (MIN_STEPS - 1) * cost)


@pytest.mark.parametrize(
    ("budget", "fixed", "message"),
    [
        (1e6, {}, "need 200 steps"),
        (0.0, {}, "need a finite number above 0"),
        (float("nan"), {}, "need a finite number above 0"),
        (2e9, {"n_layer": 4, "n_embd": 128, "n_head": 4}, "need 200 steps"),
        (2e9, {"vocab_size": 65536}, "a smaller --vocab-size"),
        (2e9, {"n_embd": 20, "n_kv_head": 3}, "need a divisor of --n-embd 20"),
        (2e9, {"n_embd": 30, "n_head": 4}, "need a multiple of --n-head 4"),
        (2e9, {"batch_size": 0}, "--batch-size: got 0"),
        (2e9, {"attention_type": "standrad"}, "did you mean 'standard'"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line_each(budget, fixed, message):
    with pytest.raises(ConfigError, match=message) as error:
        fit(budget, fixed)
    assert all("\n" not in fault for fault in error.value.faults)


def test_a_mistyped_field_is_refused():
    with pytest.raises(ValueError, match="n_embed"):
        fit(2e9, {"n_embed": 32})


def test_no_heavy_import():
    code = (
        "import sys; from nanochat.sizing import fit; from nanochat import optim, schedule; "
        "fit(2e9, {'attention_type': 'tropical', 'optimizer_type': 'muon'}); "
        "sys.exit(bool({'torch', 'jax', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
