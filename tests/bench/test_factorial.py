"""Factorial designs: planted effects come back, the null is rarely called an effect, confounding is never hidden."""

import json

import numpy as np
import pytest
from made_suites import Truth, World
from scipy.stats import binom

import cli
from nanochat.bench.ablation import conclude
from nanochat.bench.factorial import contrasts, effects
from nanochat.bench.factors import Factor, design, forecast, grid, parse
from nanochat.config import ConfigError

FACTORS = (Factor("a", ("0", "1")), Factor("b", ("0", "1", "2")), Factor("c", ("0", "1")))
CELLS = grid(FACTORS)


def normal(key, shape):
    return np.random.Generator(np.random.Philox(key)).normal(size=shape)


def planted(cell):
    a, b, c = cell
    return -0.05 * a + 0.02 * (b == 1) + 0.0 * (b == 2) + 0.03 * c - 0.04 * a * c


def scores(mean=planted, cells=CELLS, seeds=12, key=0, noise=0.003):
    seed = 0.05 * normal(key, seeds)
    return [
        [mean(cell) + value for value in seed + noise * normal(1000 * key + at + 1, seeds)]
        for at, cell in enumerate(cells)
    ]


TRUTH = {"a=1": -0.07, "b=1": 0.02, "b=2": 0.0, "c=1": 0.01, "a=1 x c=1": -0.04}


def test_planted_effects_come_back_with_their_words():
    found = {effect.name: effect for effect in effects(FACTORS, CELLS, scores(key=1), sesoi=0.01, alpha=0.05)}
    assert len(found) == 4 + 2 + 1 + 2
    for name in found:
        assert found[name].estimate == pytest.approx(TRUTH.get(name, 0.0), abs=0.005), name
    assert (found["a=1"].verdict, found["b=1"].verdict) == ("WIN", "LOSS")
    assert (found["b=2"].verdict, found["a=1 x c=1"].verdict) == ("TIE", "WIN")


def test_all_intervals_cover_the_truth_as_often_as_promised():
    worlds, covered = 200, 0
    for key in range(worlds):
        found = effects(FACTORS, CELLS, scores(key=key), sesoi=0.01, alpha=0.05)
        covered += all(effect.low <= TRUTH.get(effect.name, 0.0) <= effect.high for effect in found)
    assert covered >= binom.ppf(1e-3, worlds, 0.95)


def test_weights_of_a_whole_design_are_differences_of_means():
    for contrast in contrasts(FACTORS, CELLS):
        at, level = contrast.places[0]
        naive = np.zeros(len(CELLS))
        for index, cell in enumerate(CELLS):
            sign = (cell[at] == level) - (cell[at] == 0)
            rest = 12 / len(FACTORS[at].levels)
            if len(contrast.places) == 2:
                other, at_level = contrast.places[1]
                sign *= (cell[other] == at_level) - (cell[other] == 0)
                rest /= len(FACTORS[other].levels)
            naive[index] = sign / rest
        np.testing.assert_allclose(contrast.weights, naive, atol=1e-12)


def test_under_the_null_families_err_as_rarely_as_promised():
    worlds, wrong = 400, 0
    for key in range(worlds):
        found = effects(FACTORS, CELLS, scores(lambda cell: 0.0, seeds=8, key=key), sesoi=1e-9, alpha=0.05)
        wrong += any(effect.verdict in ("WIN", "LOSS") for effect in found)
    assert binom.ppf(1e-6, worlds, 0.01) <= wrong <= binom.ppf(1 - 1e-3, worlds, 0.05)


def test_interactions_are_not_blamed_on_main_effects():
    def only_together(cell):
        return -0.1 * (cell[0] and cell[2])

    found = {each.name: each for each in effects(FACTORS, CELLS, scores(only_together, key=1), sesoi=0.01, alpha=0.05)}
    assert found["a=1 x c=1"].estimate == pytest.approx(-0.1, abs=0.005)
    assert found["b=1"].verdict == "TIE" and found["a=1 x b=1"].verdict == "TIE"


def test_a_missing_cell_confounds_what_needs_it_and_nothing_else():
    cells = [cell for cell in CELLS if not (cell[1] == 2 and cell[2] == 1)]
    found = {effect.name: effect for effect in effects(FACTORS, cells, scores(cells=cells), sesoi=0.01, alpha=0.05)}
    lost = {name for name, effect in found.items() if effect.verdict == "NONE"}
    assert lost == {"b=2", "c=1", "b=2 x c=1"}
    assert all(found[name].estimate is None and "confounded" in found[name].note for name in lost)
    assert found["b=1 x c=1"].estimate == pytest.approx(0.0, abs=0.005)
    assert found["a=1"].low <= -0.07 <= found["a=1"].high


def test_two_knobs_moved_together_tell_nothing():
    factors = FACTORS[:1] + FACTORS[2:]
    assert not any(contrast.estimable for contrast in contrasts(factors, [(0, 0), (1, 1)]))


def test_a_diverged_run_leaves_no_number_where_it_counts():
    values = scores()
    values[0][3] = None
    found = effects(FACTORS, CELLS, values, sesoi=0.01, alpha=0.05)
    assert {effect.verdict for effect in found if effect.estimate is None} == {"UNSTABLE"}
    barred = {CELLS[0]: ("INVALID", "spent too much")}
    found = effects(FACTORS, CELLS, scores(), sesoi=0.01, alpha=0.05, barred=barred)
    assert found[0].verdict == "INVALID" and "spent too much" in found[0].note


def test_few_seeds_have_no_words():
    found = effects(FACTORS, CELLS, scores(seeds=2), sesoi=0.01, alpha=0.05)
    assert {effect.verdict for effect in found} == {"INCONCLUSIVE"} and found[0].estimate is not None


@pytest.mark.parametrize(
    ("texts", "fault"),
    [
        ([], "--factor: got none, need at least one"),
        (["group"], "need KNOB=a,b"),
        (["group=u1,u1"], "two or more different values"),
        (["group=u1,so3", "group=u1,so4"], "got group twice"),
        (
            ["a=" + ",".join(map(str, range(9))), "b=" + ",".join(map(str, range(9)))],
            "got 81 combinations, need at most 64",
        ),
    ],
)
def test_faulty_factors_are_refused(texts, fault):
    with pytest.raises(ConfigError, match=fault):
        parse(texts)


def test_bad_input_is_one_line_and_exit_code_2(capsys):
    for words, fault in (
        ("gaug --factor group=so3,u1", "did you mean 'gauge'"),
        ("gauge --factor foo=1,2", "unknown field 'foo'"),
        ("gauge --factor group=so3,xx", "unknown --group 'xx'"),
        ("gauge --factor group=so3,u1 --optimizer adamw --optimizer muon", "need one: an ablation varies knobs"),
        ("gauge --factor group=so3,u1 --crew rai", "did you mean 'ray'"),
        ("gauge --factor group=so3,u1 --crew ray", "need how many workers"),
        ("reversible --factor form=additive,momentum --factor exact=false,true", "can tell no effect"),
    ):
        assert cli.execute(["ablate", *words.split()]) == 2, words
        out, err = capsys.readouterr()
        said = err.splitlines()
        assert len(said) == 1 and fault in said[0] and not out, (out, said)


@pytest.fixture
def ablation():
    return design("gauge", ["group=so3,u1", "transported=0.5,1.0"], {"preset": "quick"})


def test_a_suite_of_the_combinations_is_judged_and_written(ablation, tmp_path):
    from dataclasses import replace

    played = World(ablation.plan, Truth({ablation.label((1, 0)): -0.1, ablation.label((1, 1)): -0.1})).played()
    found = conclude(ablation, replace(played, directory=tmp_path))
    words = {effect.name: effect.verdict for effect in found.effects}
    assert list(words) == ["group=u1", "transported=1.0", "group=u1 x transported=1.0"]
    assert words["group=u1"] == "WIN" and words["transported=1.0"] in ("TIE", "INCONCLUSIVE")
    written = json.loads((tmp_path / "ablation.json").read_text())
    assert written["schema"] == "mgr.ablation.v1" and len(written["combinations"]) == 4
    assert "| group=u1 | WIN | -0.0" in (tmp_path / "ablation.md").read_text()
    html = (tmp_path / "ablation.html").read_text()
    assert html.count("<circle") == 3 and "http" not in html.replace("http-equiv", "")


def test_the_forecast_counts(ablation):
    assert forecast(ablation)[0].startswith("4 combinations of 2 knobs, 4 of which can be built; ")
    assert forecast(design("gauge", ["group=so3,u1"], {}))[0].startswith("2 combinations of 1 knob, ")


def test_all_combinations_get_all_seeds(ablation):
    plan = design("gauge", ["group=so3,u1"], {"preset": "standard"}).plan
    assert plan.looks == (12,) and ablation.plan.looks == (8,)


def test_refused_combinations_are_named_and_left_out():
    found = design("reversible", ["form=additive,leapfrog,momentum", "exact=false,true"], {"preset": "quick"})
    assert list(found.refused) == [(2, 1)] and "velocity" in found.refused[2, 1]
    tells = {contrast.places for contrast in contrasts(found.factors, found.cells) if contrast.estimable}
    assert tells == {((0, 1),), ((0, 1), (1, 1))}
