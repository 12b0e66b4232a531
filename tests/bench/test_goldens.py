"""Studies that are kept: their verdicts follow from their scores, and their pages say what was found."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from nanochat.bench.config import SuiteConfig
from nanochat.bench.design import read
from nanochat.bench.selftests.synthetic import played
from nanochat.bench.suite import prepare

ROOT = Path(__file__).resolve().parents[2]
GOLDENS = sorted((ROOT / "artifacts" / "goldens").iterdir())
SUITES = {"first-study": "all-types.toml"}
SECONDS = {"first-study": "winners-seconds.toml"}


@pytest.fixture
def study(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import study

    return study


def content(golden, name):
    return json.loads((golden / name).read_text(encoding="utf-8"))


def contenders(ruled):
    return [arm for arm in ruled["arms"] if arm["against"]]


def paired(ruled):
    """Differences by contender and seed, from the single scores; NaN where an early look had settled the arm."""
    base = {arm["label"]: arm["bpb"] for arm in ruled["arms"]}
    found = np.full((len(contenders(ruled)), len(ruled["seeds"])), np.nan)
    for row, arm in enumerate(contenders(ruled)):
        pairs = list(zip(arm["bpb"], base[arm["against"]], strict=False))
        found[row, : len(pairs)] = [one - other for one, other in pairs]
    return found


def test_there_are_studies():
    assert {golden.name for golden in GOLDENS} == set(SUITES)


@pytest.mark.parametrize("golden", GOLDENS, ids=lambda golden: golden.name)
def test_verdicts_follow_from_the_scores(golden):
    ruled = content(golden, "verdict.json")
    assert ruled["valid"] and not any(arm["faults"] for arm in ruled["arms"])
    differences = paired(ruled)
    words, used, bounds = played(differences, tuple(ruled["looks"]), ruled["sesoi"], ruled["alpha"])
    for row, arm in enumerate(contenders(ruled)):
        if arm["confirmation"] is None or arm["confirmation"]["verdict"] == "WIN":
            assert arm["verdict"] == words[row], arm["label"]
        else:
            assert words[row] == "WIN" and arm["verdict"] == "INCONCLUSIVE", arm["label"]
        assert used[row] == len(arm["bpb"])
        assert [arm["low"], arm["high"]] == pytest.approx(list(bounds[row]), rel=1e-9)
        assert arm["difference"] == pytest.approx(differences[row, : used[row]].mean(), rel=1e-9)


@pytest.mark.parametrize("golden", GOLDENS, ids=lambda golden: golden.name)
def test_the_design_is_the_one_that_was_written_down_before(golden):
    ruled = content(golden, "verdict.json")
    plan = prepare(read(ROOT / "suites" / SUITES[golden.name], {}))
    assert plan.design == ruled["design"]
    assert prepare(SuiteConfig()).design != ruled["design"]


@pytest.mark.parametrize("golden", GOLDENS, ids=lambda golden: golden.name)
def test_the_page_says_what_was_found(golden, study):
    page = (study.GUIDES / f"{golden.name}.md").read_text(encoding="utf-8")
    summary, times, seconds = study.kept(golden)
    assert study.with_section(page, study.section(summary, times, seconds)) == page, "run benchmarks/study.py"
    ruled = {arm["label"]: arm for arm in content(golden, "verdict.json")["arms"]}
    for arm in summary["arms"]:
        both = [name for name in ruled[arm["label"]] if name in arm and name != "runs"]
        assert len(both) > 10
        assert {name: arm[name] for name in both} == {name: ruled[arm["label"]][name] for name in both}
    changed = {**summary, "arms": [{**each, "mean": each["mean"] + 1e-4} for each in summary["arms"]]}
    assert study.with_section(page, study.section(changed, times, seconds)) != page


@pytest.mark.parametrize("name", SECONDS)
def test_equal_seconds_follow_from_the_scores(name):
    found = content(GOLDENS[0].parent / name, "seconds.json")
    base, *others = found["arms"]
    theirs = {run["seed"]: run for run in base["runs"]}
    for arm in others:
        differences = [run["bpb"] - theirs[run["seed"]]["bpb"] for run in arm["runs"]]
        tested = stats.ttest_1samp(differences, 0.0)
        low, high = tested.confidence_interval(0.95)
        told = arm["time"]
        if told["verdict"] == "INVALID":
            assert any(run["cpu_seconds"] < 0.9 * run["wall_seconds"] for run in (*arm["runs"], *base["runs"]))
            continue
        word = "INCONCLUSIVE" if tested.pvalue > 0.05 else "WIN" if np.mean(differences) < 0 else "LOSS"
        assert told["verdict"] == word and told["seeds"] == len(differences) >= 8
        assert (told["difference"], told["low"], told["high"], told["p"]) == pytest.approx(
            (np.mean(differences), low, high, tested.pvalue), rel=1e-6
        )


@pytest.mark.parametrize("name", SECONDS)
def test_equal_seconds_are_the_same_design_asked_once_more(name):
    suite = read(ROOT / "suites" / SUITES[name], {})
    asked = read(ROOT / "suites" / SECONDS[name], {})
    assert asked.time_axis and set(asked.arms) <= set(suite.arms)
    assert replace(asked, question=suite.question, arms=suite.arms, time_axis=False) == suite
    assert prepare(asked).design == content(GOLDENS[0].parent / name, "seconds.json")["design"]


@pytest.mark.parametrize("name", SECONDS)
def test_every_winner_was_asked_at_equal_seconds(name):
    won = {arm["label"] for arm in content(GOLDENS[0].parent / name, "verdict.json")["arms"] if arm["verdict"] == "WIN"}
    found = content(GOLDENS[0].parent / name, "seconds.json")["arms"]
    assert {arm["label"] for arm in found if arm["against"]} == won
    for arm in found:
        low, high = arm["time_ratio_interval"]
        assert low <= arm["time_ratio"] <= high < 1.2 * low
