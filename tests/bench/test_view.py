"""What a terminal and a log show of a suite: everything that is left out, how far it is, and no verdict."""

from nanochat.bench.suite import prepare
from nanochat.bench.view import left_out
from nanochat.config import SuiteConfig


def test_what_cannot_be_built_is_told_beforehand_in_one_sentence_per_rule():
    arms = ("standard", "gauge", "braid", "tropical")
    wanted = SuiteConfig(arms=arms, optimizers=("adamw", "hoss"), schedulers=("wsd", "ordinal"), undertrained_ok=True)
    (sentence,) = left_out(prepare(wanted))
    assert sentence.startswith("left out 4 of 16: ") and "second derivatives (gauge, braid; " in sentence
    assert left_out(prepare(SuiteConfig(arms=arms))) == []
