"""Arms: what can be written, and what is said about what cannot."""

import subprocess
import sys

import pytest

from nanochat.bench.arms import models, parse, resolve
from nanochat.bench.config import SuiteConfig
from nanochat.config import ConfigError

SHAPE = {"n_layer": 1, "n_head": 2, "n_embd": 16, "sequence_len": 16, "vocab_size": 300}


def suite(*arms, **options):
    return SuiteConfig(arms=arms, **options)


def test_a_plain_name_and_a_changed_field():
    arm = parse("standard, position=none,mlp=gelu")
    assert arm.attention_type == "standard" and arm.overrides == {"position": "none", "mlp": "gelu"}
    model = arm.model(SHAPE)
    assert model.position == "none" and model.n_embd == 16


def test_a_knob_of_the_mechanism_itself():
    model = parse("standard,window=8").model(SHAPE)
    assert model.knobs["standard"].window == 8


def test_values_take_the_type_of_their_field():
    overrides = parse("standard,qk_norm=false,rope_base=500,n_kv_head=2,ca_init_rule=none").overrides
    assert overrides == {"qk_norm": False, "rope_base": 500.0, "n_kv_head": 2, "ca_init_rule": None}


def test_an_alias_trains_on_its_own():
    first, second = resolve(suite("standard", "standard,label=again"))
    assert (first.label, first.replica) == ("standard", "")
    assert (second.label, second.replica) == ("again", "again")
    assert first.model(SHAPE) == second.model(SHAPE)


def test_the_baseline_comes_first_and_is_added_when_missing():
    assert [arm.label for arm in resolve(suite("standard,position=none", "standard"))][0] == "standard"
    assert [arm.label for arm in resolve(suite("standard,position=none"))] == ["standard", "standard,position=none"]
    arms = resolve(suite("standard", "standard,mlp=gelu,label=gelu", baseline="gelu"))
    assert [arm.label for arm in arms] == ["gelu", "standard"]


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (("standrad",), "did you mean 'standard'"),
        (("standard,n_embd=8",), "the suite sets n_embd"),
        (("standard,positon=none",), "did you mean 'position'"),
        (("standard,position=sideways",), "need one of rope, none"),
        (("standard,qk_norm=maybe",), "need true or false"),
        (("standard,rope_base=wide",), "need a number"),
        (("standard,position",), "need field=value"),
        (("standard,window=-1",), "need at least 0"),
        (("standard,mlp=gelu", "standard,mlp=gelu"), "got it 2 times"),
        (("standard",), "at least one other arm"),
    ],
)
def test_faults_say_what_got_need(texts, words):
    with pytest.raises(ConfigError) as caught:
        resolve(suite(*texts))
    assert any(words in fault for fault in caught.value.faults)
    assert all("\n" not in fault for fault in caught.value.faults)


def test_all_faults_of_all_arms_come_together():
    with pytest.raises(ConfigError) as caught:
        resolve(suite("standrad", "standard,position=x,mlp=y", "standard,n_layer=3"))
    assert len(caught.value.faults) == 4


def test_what_depends_on_the_shape_is_found_with_the_shape():
    arms = resolve(suite("standard,n_kv_head=3"))
    built, faults = models(arms, SHAPE)
    assert list(built) == ["standard"] and "divisor" in faults["standard,n_kv_head=3"][0]


def test_suite_options_are_validated_together():
    with pytest.raises(ConfigError) as caught:
        SuiteConfig(sesoi=-1.0, alpha=2.0, seeds=1, target_flops=float("nan"), preset="huge", run_id="a/b", jobs=-1)
    assert len(caught.value.faults) == 7


def test_arms_are_checked_without_torch_or_numpy():
    code = (
        "import sys; from nanochat.bench.arms import resolve; from nanochat.bench.config import SuiteConfig;"
        "resolve(SuiteConfig(arms=('standard', 'standard,position=none')));"
        "print([name for name in ('torch', 'jax', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
