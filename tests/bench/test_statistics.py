"""The verdict statistics keep their promises on simulated suites whose truth is known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from nanochat.bench.statistics import (
    decide,
    detectable_effect,
    holm,
    interval,
    paired_p,
    power,
    seeds_needed,
    sign_flip_p,
)

SUITES = 10_000
# Four standard errors of a binomial share of .05 over 10,000 suites: [.0413, .0587].
BAND = 4 * (0.05 * 0.95 / SUITES) ** 0.5
SEED_SD = 0.024
ARM_SD = 0.025


def simulate(arms: int, seeds: int, effect=0.0, suites: int = SUITES, key: int = 0) -> np.ndarray:
    """Paired differences (suites, arms, seeds): every arm shares the baseline's noise, as in a real suite."""
    generator = np.random.Generator(np.random.Philox(key))
    baseline = generator.normal(0, SEED_SD, (suites, 1, seeds))
    arm = 0.7 * baseline + generator.normal(0, ARM_SD, (suites, arms, seeds)) + effect
    return arm - baseline


@pytest.mark.parametrize(("arms", "seeds"), [(1, 6), (1, 8), (2, 8), (10, 8), (10, 12)])
def test_family_wise_error_stays_at_alpha(arms, seeds):
    decision = decide(simulate(arms, seeds), sesoi=0.01, alpha=0.05)
    false = np.isin(decision.verdict, ["WIN", "LOSS"]).any(-1).mean()
    # Holm is exact for one arm and conservative for correlated ones.
    assert false <= 0.05 + BAND
    assert false >= (0.05 - BAND if arms == 1 else 0.02)


def test_false_wins_and_losses_are_balanced():
    verdict = decide(simulate(1, 8), sesoi=0.01, alpha=0.05).verdict
    assert abs((verdict == "WIN").mean() - (verdict == "LOSS").mean()) < 4 * (0.05 / SUITES) ** 0.5


@pytest.mark.parametrize("seeds", [6, 8, 12])
@pytest.mark.parametrize("arms", [1, 5])
def test_simultaneous_intervals_cover(arms, seeds):
    effect = np.linspace(-0.05, 0.05, arms)[None, :, None]
    decision = decide(simulate(arms, seeds, effect, key=1), sesoi=0.01, alpha=0.05)
    covered = ((decision.low <= effect[..., 0]) & (effect[..., 0] <= decision.high)).all(-1).mean()
    assert covered >= 0.95 - BAND
    if arms == 1:
        assert covered <= 0.95 + BAND


@pytest.mark.parametrize("arms", [1, 4])
@pytest.mark.parametrize("side", [-1, 1])
def test_ties_are_rarely_called_at_the_edge_of_equivalence(arms, side):
    sesoi = 0.1
    decision = decide(simulate(arms, 8, side * sesoi, key=2), sesoi=sesoi, alpha=0.05)
    assert (decision.p_tie <= 0.05).any(-1).mean() <= 0.05 + BAND


def test_a_document_level_test_would_fail_the_same_null():
    """Negative control: the battery must have the strength to reject a wrong engine."""
    generator = np.random.Generator(np.random.Philox(3))
    suites, documents = 1000, 200
    seed_effect = generator.normal(0, SEED_SD, (suites, 2, 1))
    score = seed_effect + generator.normal(0, 0.1, (suites, 2, documents))
    difference = score[:, 0] - score[:, 1]
    p = paired_p(difference.mean(-1), difference.std(-1, ddof=1), documents)
    assert (p <= 0.05).mean() > 0.4


def test_percentile_bootstrap_would_not_cover():
    """Negative control: why the intervals are Student's and not bootstrapped over seeds."""
    generator = np.random.Generator(np.random.Philox(4))
    values = generator.normal(size=(500, 5))
    means = values[:, generator.integers(5, size=(1000, 5))].mean(-1)
    low, high = np.quantile(means, [0.025, 0.975], axis=1)
    assert ((low <= 0) & (high >= 0)).mean() < 0.92


def test_paired_p_is_scipys():
    generator = np.random.Generator(np.random.Philox(5))
    differences = generator.normal(0.3, 1, (20, 8))
    ours = paired_p(differences.mean(-1), differences.std(-1, ddof=1), 8)
    theirs = stats.ttest_1samp(differences, 0, axis=-1).pvalue
    np.testing.assert_allclose(ours, theirs, rtol=1e-9)


def test_sign_flip_is_scipys_and_bounded():
    generator = np.random.Generator(np.random.Philox(6))
    for n in (5, 6, 8, 11):
        differences = generator.normal(0.5, 1, n)
        theirs = stats.permutation_test(
            (differences,), np.mean, permutation_type="samples", n_resamples=np.inf, vectorized=False
        ).pvalue
        assert sign_flip_p(differences) == pytest.approx(theirs)
    assert sign_flip_p(np.full(5, 0.1)) == 0.0625
    assert sign_flip_p(np.full(8, 0.1)) == 0.0078125
    assert 0 < sign_flip_p(np.linspace(0.1, 0.2, 30)) < 1e-4


def test_detectable_effects_match_the_published_table():
    table = {3: 3.26, 4: 2.12, 5: 1.68, 6: 1.43, 8: 1.16, 10: 1.00, 12: 0.89, 16: 0.75, 20: 0.66}
    for n, expected in table.items():
        assert detectable_effect(n, 0.05) == pytest.approx(expected, abs=0.02)
    for n, expected in {5: 3.15, 8: 1.81, 10: 1.49, 12: 1.29, 16: 1.05, 20: 0.91}.items():
        assert detectable_effect(n, 0.005) == pytest.approx(expected, abs=0.02)


def test_power_is_what_simulation_finds():
    for n, effect in ((6, 1.43), (8, 1.0), (12, 0.5)):
        generator = np.random.Generator(np.random.Philox(n))
        differences = generator.normal(effect, 1, (20_000, n))
        found = (paired_p(differences.mean(-1), differences.std(-1, ddof=1), n) <= 0.05).mean()
        assert power(effect, n, 0.05) == pytest.approx(found, abs=0.02)


def test_seeds_needed_is_the_smallest_that_suffices():
    assert seeds_needed(0.4, 0.05) == pytest.approx(51, abs=1)
    for effect in (0.1, 0.4, 0.9, 2.0):
        n = seeds_needed(effect, 0.05)
        assert power(effect, n, 0.05) >= 0.8
        assert n == 6 or power(effect, n - 1, 0.05) < 0.8
    assert seeds_needed(0.0, 0.05) is None
    assert seeds_needed(float("nan"), 0.05) is None


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
@settings(derandomize=True, deadline=None)
def test_holm_keeps_order_and_lies_between_p_and_bonferroni(p):
    p = np.array(p)
    adjusted = holm(p)
    assert (adjusted >= p).all() and (adjusted <= np.minimum(1, len(p) * p)).all()
    order = np.argsort(p)
    assert (np.diff(adjusted[order]) >= 0).all()
    assert (holm(p, len(p) + 3) >= adjusted).all()


def test_equal_runs_are_a_tie_and_not_a_division_by_zero():
    decision = decide(np.zeros((1, 8)), sesoi=0.01, alpha=0.05)
    assert decision.verdict.tolist() == ["TIE"]
    assert decision.p.item() == 1 and decision.low.item() == decision.high.item() == 0


def test_a_constant_difference_does_not_get_a_p_of_zero():
    assert decide(np.full((1, 8), 0.5), sesoi=0.01, alpha=0.05).p.item() == 2**-7


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_fewer_than_six_seeds_are_never_significant(seeds):
    differences = np.full((1, seeds), -1.0) + np.linspace(0, 1e-6, seeds)
    assert decide(differences, sesoi=0.01, alpha=0.05).verdict.tolist() == ["INCONCLUSIVE"]


def test_large_effects_are_found_with_their_sign():
    decision = decide(simulate(2, 8, np.array([-0.3, 0.3])[:, None], suites=200), sesoi=0.01, alpha=0.05)
    assert (decision.verdict[:, 0] == "WIN").all() and (decision.verdict[:, 1] == "LOSS").all()


def test_interval_of_one_value_is_itself():
    assert interval(np.array([2.0])) == (2.0, 2.0)
    low, high = interval(np.array([1.0, 2.0, 3.0, 4.0]))
    assert (low, high) == pytest.approx(stats.t.interval(0.95, 3, 2.5, stats.sem([1, 2, 3, 4])))
