"""The engine's self-tests: the quick ones pass here, each fails when the engine is broken, and reports tell of them."""

import json
from dataclasses import replace

import numpy as np
import pytest

from nanochat.bench import audit, judge, recheck
from nanochat.bench.code import engine_hash
from nanochat.bench.observe import Observer
from nanochat.bench.selftests import SELFTESTS, Bench, chosen, golden, metric, run, synthetic, trained
from nanochat.bench.selftests import cheats as cheating
from nanochat.bench.selftests.finding import Finding, Measure
from nanochat.bench.selftests.kept import FILE, badge, read, standing
from nanochat.bench.statistics import decide
from nanochat.config import ConfigError

LONG = [test.name for test in SELFTESTS if test.long]
QUICK = [test.name for test in SELFTESTS if not test.long]


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path, 2, Observer())


def failed(told):
    measures, _ = told
    return {measure.what for measure in measures if not measure.passed}


def test_there_are_nine_and_the_long_ones_are_asked_for():
    assert len(SELFTESTS) == 9 and len({test.name for test in SELFTESTS}) == 9
    assert [test.name for test in chosen((), False)] == QUICK
    assert [test.name for test in chosen((), True)] == [test.name for test in SELFTESTS]
    assert [test.name for test in chosen(("metric",), False)] == ["metric"]
    with pytest.raises(ConfigError, match="did you mean 'metric'"):
        chosen(("metrik",), False)


def test_the_quick_ones_pass_and_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic, "PLAYED", 500)
    told = []
    findings = run(tmp_path, told=told.append)
    assert [finding.name for finding in told] == QUICK
    assert {finding.name for finding in findings if not finding.passed} == set()
    assert all(any(measure.control for measure in finding.measures) for finding in findings)
    kept = json.loads((tmp_path / "bench" / FILE).read_text(), parse_constant=pytest.fail)
    assert [entry["name"] for entry in kept["findings"]] == QUICK
    assert {entry["code"] for entry in kept["findings"]} == {engine_hash()}
    said = standing(tmp_path)["badge"]
    assert (
        said.startswith(f"self-tests {len(QUICK)}/9 passed on 20")
        and f"{len(cheating.CHEATS)} of {len(cheating.CHEATS)} cheats caught" in said
    )
    assert f"not run here: {', '.join(LONG)} (mgr selftest --full)" in said and "changed" not in said


def test_statistics_fail_without_holm(bench, monkeypatch):
    def uncorrected(differences, **given):
        made = decide(differences, **given)
        words = np.where(made.p <= given["alpha"], np.where(made.mean < 0, "WIN", "LOSS"), "INCONCLUSIVE")
        return replace(made, verdict=words)

    monkeypatch.setattr(synthetic, "decide", uncorrected)
    monkeypatch.setattr(synthetic, "PLAYED", 10)
    assert "false verdicts, 10 arms together, 8 seeds" in failed(synthetic.statistics(bench))


def test_statistics_fail_without_cutoffs(monkeypatch):
    monkeypatch.setattr("nanochat.bench.sequential.overall", lambda p, n, looks: p)
    monkeypatch.setattr(synthetic, "LOOKS", tuple(range(6, 13)))
    monkeypatch.setattr(synthetic, "PLAYED", 300)
    assert [measure.passed for measure in synthetic._false_verdicts()] == [True, True, False, False]


def test_broken_runs_fail_where_a_diverged_seed_is_overlooked(bench, monkeypatch):
    monkeypatch.setattr(synthetic, "BROKEN", 5)
    honest = judge._score
    monkeypatch.setattr(judge, "_score", lambda outcome: 2.3 if honest(outcome) is None else honest(outcome))
    assert "diverged: gets no verdict" in failed(synthetic.broken_runs(bench))


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [
        ("a longer context at evaluation", "RESCORE_TOLERANCE"),
        ("a mixer that sees the next token", "LEAK_TOLERANCE"),
        ("an extra forward pass per step", "LEDGER_TOLERANCE"),
    ],
)
def test_a_cheat_goes_through_where_its_check_is_blind(bench, monkeypatch, name, tolerance):
    (cheat,) = (cheat for cheat in cheating.CHEATS if cheat.what == name)
    monkeypatch.setattr(audit, tolerance, 1e9)
    assert cheating.faults_of(cheat, bench) == ()


def test_causality_fails_for_whatever_leaks(monkeypatch, bench):
    monkeypatch.setattr(metric, "attention_types", lambda: ("standard",))
    with metric.leaking():
        assert failed(metric.causality(bench)) == {"standard"}


def test_metric_fails_where_tokens_are_taken_for_bytes(monkeypatch, bench):
    honest = recheck.bits_per_byte
    monkeypatch.setattr("nanochat.evaluate.bits_per_byte", lambda nats, size: honest(nats, 2 * size))
    assert {what for what in failed(metric.bits(bench)) if "less 8" in what} == {
        "byte tokens: bits per byte of a uniform model, less 8",
        "bpe tokens: bits per byte of a uniform model, less 8",
    }


def test_golden_verdicts_fail_at_another_error_rate(bench, monkeypatch, tmp_path):
    frozen = json.loads(golden.FILE.read_text())
    frozen["config"]["alpha"] = 0.01
    (tmp_path / "golden.json").write_text(json.dumps(frozen))
    monkeypatch.setattr(golden, "FILE", tmp_path / "golden.json")
    assert failed(golden.unchanged(bench)) == {
        "standard,position=none: LOSS, to the byte",
        "standard,mlp=gelu: INCONCLUSIVE, to the byte",
    }


def test_the_badge_says_what_is_not_so():
    good = {"name": "metric", "passed": True, "headline": "", "date": "2026-11-22T01:02:03+00:00", "code": "a"}
    bad = {**good, "name": "cheats", "passed": False, "headline": "8 of 9 cheats caught", "date": "2026-11-23"}
    assert badge([], "a") == "self-tests: never run here (mgr selftest)"
    said = badge([good, bad], "b")
    assert said.startswith("self-tests 1/9 passed between 2026-11-22 and 2026-11-23; FAILED: cheats; not run here: ")
    assert said.endswith("8 of 9 cheats caught; the engine's code has changed since")


def test_what_is_not_ours_counts_as_nothing(tmp_path):
    (tmp_path / "bench").mkdir()
    for content in ("", "{", "[]", '{"schema": "other"}'):
        (tmp_path / "bench" / FILE).write_text(content)
        assert read(tmp_path / "bench" / FILE) == []
    assert standing(tmp_path / "nowhere")["findings"] == []


def test_a_folder_that_cannot_be_written_is_found_first(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="need a writable folder"):
        run(tmp_path / "file")


def test_bounds_include_their_ends_and_nothing_passes_nan():
    assert Measure("", 1.0, 1.0, 1.0).passed and not Measure("", float("nan")).passed
    assert not Measure("", 0.99, low=1.0).passed and not Measure("", 1.01, high=1.0).passed
    assert Measure("", float("nan")).to_json()["value"] is None
    assert not Finding(name="", claim="", measures=()).passed


def test_p_values_of_equal_arms_must_be_uniform():
    rng = np.random.Generator(np.random.Philox(key=1))
    honest = rng.uniform(size=160).tolist()
    assert all(measure.passed for measure in trained._uniform(honest))
    assert not any(measure.passed for measure in trained._uniform([p**4 for p in honest]))


def test_nights_have_fresh_seeds(tmp_path):
    nights = trained.Nights(tmp_path)
    nights.keep([{"p": 0.5, "verdict": "INCONCLUSIVE"}] * trained.ROUNDS)
    again = trained.Nights(tmp_path)
    assert again.count == 1 and again.rounds == nights.rounds
    seeds = [seed for night in range(3) for half in again.seeds(night) for seed in half]
    assert len(set(seeds)) == len(seeds) == 6 * trained.ROUNDS * trained.PAIRS


@pytest.mark.slow
def test_determinism_passes(bench):
    assert failed(trained.determinism(bench)) == set()


@pytest.mark.slow
def test_equal_arms_and_planted_effects_pass(bench, monkeypatch):
    monkeypatch.setattr(trained, "ROUNDS", 4)
    assert failed(trained.equal_arms(bench)) == set()
    assert failed(trained.planted_effects(bench)) == set()


def test_the_command_says_what_it_found(mgr, tmp_path):
    done = mgr("selftest", "--only", "golden verdicts", "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout, parse_constant=pytest.fail)
    assert said["schema"] == "mgr.selftest.v1" and said["badge"].startswith("self-tests 1/9 passed on ")
    assert [entry["name"] for entry in said["findings"]] == ["golden verdicts"]
    assert (tmp_path / "artifacts" / "bench" / FILE).is_file()
    wrong = mgr("selftest", "--only", "golden")
    assert wrong.returncode == 2 and wrong.stderr.startswith("mgr: unknown --only 'golden'")
