"""Every arm gets the same search, and the search finds what is there."""

import math
from collections import Counter

import pytest

from nanochat.bench.tuning import GRID, HORIZON_EXPONENT, Trial, rate_on, search


def bowl(optimum: dict[str, float], calls: list[Trial], diverges_above: float = math.inf):
    def score(trials):
        calls.extend(trials)
        return {
            trial: math.inf if trial.point > diverges_above else (trial.point - optimum[trial.label]) ** 2
            for trial in trials
        }

    return score


def trials_per_arm(calls):
    return Counter((trial.label, trial.rung) for trial in calls)


def test_inside_the_grid_it_takes_five_three_and_two_points_and_finds_the_best():
    calls = []
    tuned = search({"a": 0.003, "b": 0.003}, [7, 8], bowl({"a": 0.1, "b": -1.2}, calls))
    assert (tuned["a"].point, tuned["b"].point) == (0, -1)
    assert tuned["a"].rate == pytest.approx(0.003 * 4**-HORIZON_EXPONENT)
    one_seed = {(label, rung): count for label in "ab" for rung, count in ((0, 5), (1, 3))}
    assert trials_per_arm(calls) == {**one_seed, ("a", 2): 4, ("b", 2): 4}, "both seeds at the full budget alone"
    assert not tuned["a"].at_edge


def test_one_arm_at_the_edge_extends_every_arm_by_as_much():
    calls = []
    tuned = search({"inside": 0.003, "edge": 0.003}, [7], bowl({"inside": 0.0, "edge": 3.1}, calls))
    assert tuned["edge"].point == 3 and tuned["inside"].point == 0
    assert trials_per_arm(calls) == {
        ("inside", 0): 7,
        ("edge", 0): 7,
        ("inside", 1): 3,
        ("edge", 1): 3,
        ("inside", 2): 2,
        ("edge", 2): 2,
    }
    assert sorted(tuned["edge"].scores[0]) == [*GRID, 3, 4]
    assert not tuned["edge"].at_edge


def test_an_optimum_beyond_all_extensions_is_reported():
    calls = []
    tuned = search({"a": 0.003}, [7], bowl({"a": -30.0}, calls))
    assert tuned["a"].at_edge and tuned["a"].point == -6


def test_diverged_points_lose_and_do_not_stop_the_search():
    tuned = search({"a": 0.003}, [7], bowl({"a": 2.0}, [], diverges_above=0))
    assert tuned["a"].point == 0
    assert tuned["a"].sensitivity == math.inf
    assert search({"a": 0.003}, [7], bowl({"a": 0.0}, [], diverges_above=-99))["a"].point == 0


def test_the_full_budget_decides_between_the_best_two():
    """What short runs like best may lose at C: the rate of the verdict runs is the one that was better there."""

    def score(trials):
        best = {0: 1.0, 1: 1.0, 2: 0.0}
        return {trial: (trial.point - best[trial.rung]) ** 2 + 0.1 * (trial.rung < 2) * trial.point for trial in trials}

    found = search({"a": 0.003}, [1, 2, 3, 4], score)["a"]
    assert sorted(found.scores[2]) == [0, 1] and found.point == 0
    assert found.rate == pytest.approx(rate_on(2, 0.003, 0)) == pytest.approx(0.003 * 4**-HORIZON_EXPONENT)
    assert rate_on(0, 0.003, 1) == rate_on(1, 0.003, 1) == 0.006


def test_every_trial_uses_only_tuning_seeds():
    calls = []
    search({"a": 0.003}, [1_000_000, 1_000_001], bowl({"a": 0.0}, calls))
    assert {trial.seed for trial in calls} == {1_000_000, 1_000_001}
