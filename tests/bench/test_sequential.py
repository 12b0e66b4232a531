"""Looking early does not buy false verdicts, and says so only on simulated suites whose truth is known."""

import numpy as np
import pytest

from nanochat.bench import sequential
from nanochat.bench.selftests.synthetic import played
from nanochat.bench.sequential import cutoffs, examine
from nanochat.bench.statistics import decide, paired_p

LOOKS = (4, 8, 12)
SUITES = 2000
BAND = 4 * (0.05 * 0.95 / SUITES) ** 0.5


def suites(arms: int, effect: np.ndarray | float = 0.0, key: int = 0) -> np.ndarray:
    generator = np.random.Generator(np.random.Philox(key))
    baseline = generator.normal(0, 0.024, (SUITES, 1, LOOKS[-1]))
    arm = 0.7 * baseline + generator.normal(0, 0.025, (SUITES, arms, LOOKS[-1])) + effect
    return arm - baseline


def test_cutoffs_are_the_published_ones_and_one_look_spends_everything():
    assert cutoffs(LOOKS, 0.05) == pytest.approx((0.0005, 0.0141, 0.0451), abs=5e-5)
    assert cutoffs((8,), 0.05) == pytest.approx((0.05,))
    assert cutoffs((10, 20, 30, 40, 50), 0.05)[-1] == pytest.approx(0.0413, abs=5e-4)
    assert all(np.diff(cutoffs(LOOKS, 0.005)) > 0)
    with pytest.raises(ValueError, match="increasing"):
        cutoffs((8, 4), 0.05)


@pytest.mark.parametrize("looks", [LOOKS, (6, 7, 12), (2, 30)])
@pytest.mark.parametrize("alpha", [0.05, 0.005])
def test_a_random_walk_leaves_the_band_as_often_as_promised(looks, alpha):
    generator = np.random.Generator(np.random.Philox(7))
    walks = generator.normal(size=(200_000, looks[-1])).cumsum(-1)[:, np.array(looks) - 1]
    from scipy.special import ndtr

    p = 2 * ndtr(-np.abs(walks) / np.sqrt(looks))
    crossed = (p <= np.array(cutoffs(looks, alpha))).any(-1).mean()
    assert crossed == pytest.approx(alpha, abs=4 * (alpha / 200_000) ** 0.5)


@pytest.mark.parametrize("arms", [1, 3])
def test_family_wise_error_over_all_looks_stays_in_the_band(arms):
    false = np.mean([any(w in ("WIN", "LOSS") for w in played(d, LOOKS)[0]) for d in suites(arms)])
    assert 0.02 <= false <= 0.064


def test_looking_at_every_seed_without_cutoffs_would_fail():
    """Negative control: the battery sees what the cut-offs are for."""
    differences = suites(1)[:, 0]
    peeked = np.zeros(SUITES, dtype=bool)
    for n in range(3, LOOKS[-1] + 1):
        taken = differences[:, :n]
        peeked |= paired_p(taken.mean(-1), taken.std(-1, ddof=1), n) <= 0.05
    assert peeked.mean() > 0.12


def test_more_nodes_change_nothing(monkeypatch):
    bands = [2.004 * np.sqrt(12), 3.5 * np.sqrt(12), 12 * np.sqrt(12)]
    few = [sequential._crossing(LOOKS, band) for band in bands]
    monkeypatch.setattr(sequential, "NODES", 200)
    assert few == pytest.approx([sequential._crossing(LOOKS, band) for band in bands], rel=1e-8, abs=1e-15)


def test_large_effects_stop_early_and_small_ones_do_not():
    found = [played(d, LOOKS) for d in suites(2, np.array([-0.3, 0.3])[:, None])[:200]]
    assert all(words == ["WIN", "LOSS"] for words, _, _ in found)
    assert np.mean([used for _, used, _ in found]) == 8  # the look at 4 seeds is never allowed to decide
    assert np.mean([played(d, LOOKS)[1] for d in suites(1)[:200]]) > 11.5


@pytest.mark.parametrize("side", [-1, 1])
def test_ties_at_the_edge_of_equivalence_are_rare(side):
    called = [played(d, LOOKS, sesoi=0.1)[0] == ["TIE"] for d in suites(1, side * 0.1, key=2)]
    assert np.mean(called) <= 0.05 + BAND


def test_repeated_intervals_cover_at_whatever_look_it_ends():
    effect = np.array([-0.02, 0.03])
    covered = [
        ((b[:, 0] <= effect) & (effect <= b[:, 1])).all()
        for _, _, b in (played(d, LOOKS) for d in suites(2, effect[:, None], key=3))
    ]
    assert np.mean(covered) >= 0.95 - BAND


def test_one_look_is_the_plain_decision():
    for differences in suites(3, np.array([-0.05, 0.0, 0.02])[:, None], key=4)[:50, :, :8]:
        look = examine(differences, (8,), sesoi=0.01, alpha=0.05, family=3)
        plain = decide(differences, sesoi=0.01, alpha=0.05)
        assert [word or "INCONCLUSIVE" for word in look.verdict] == plain.verdict.tolist()
        np.testing.assert_allclose((look.low, look.high), (plain.low, plain.high))
