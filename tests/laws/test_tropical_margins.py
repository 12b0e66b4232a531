"""Margin certificates: nothing within the radius changes a winner, the worst case just outside does, and a wrong
constant is caught.
"""

from __future__ import annotations

import pytest
import torch

from nanochat.attention import tropical
from nanochat.kernels.maxplus import naive, operators

SCORES = ("hilbert", "maxplus")
DIM = 8


def attack(q, k, v, winner: int, rival: int, channel: int, epsilon: float, score: str, moved: str):
    """The sup-norm change of size epsilon that hurts the last query's winner most: the winner's path down, the rival's
    up, by all means that ``moved`` allows. One head, batch 1; shapes (N, D), (S, D), (S, D).
    """
    start, (q, k, v) = (q, k, v), (q.clone(), k.clone(), v.clone())
    if moved in ("v", "all"):
        v[winner, channel] -= epsilon
        v[rival, channel] += epsilon
    if score == "maxplus":
        if moved in ("k", "all"):
            k[winner] -= epsilon
            k[rival] += epsilon
        if moved in ("q", "all"):
            q[-1, (q[-1] + k[winner]).argmax()] -= epsilon
            q[-1, (q[-1] + k[rival]).argmax()] += epsilon
    ends = {j: ((q[-1] - k[j]).argmax(), (q[-1] - k[j]).argmin()) for j in (winner, rival)}
    for j, sign in ((winner, 1), (rival, -1)) if score == "hilbert" else ():
        high, low = ends[j]
        if moved in ("q", "all"):
            q[-1, high] += sign * epsilon
            q[-1, low] -= sign * epsilon
        if moved in ("k", "all"):
            k[j, high] -= sign * epsilon
            k[j, low] += sign * epsilon
    # One channel may serve both keys: no entry moves by more than epsilon.
    return [before + (after - before).clamp(-epsilon, epsilon) for before, after in zip(start, (q, k, v), strict=True)]


def worst_case(score: str):
    """Two keys whose scores hang on different channels, with room to move, so that every bound is attained."""
    q, v = torch.zeros(2, DIM, dtype=torch.float64), torch.zeros(2, DIM, dtype=torch.float64)
    k = torch.zeros(2, DIM, dtype=torch.float64)
    if score == "hilbert":
        k[0, 0], k[0, 1] = 5.0, -5.0
        k[1, 2], k[1, 3] = 5.0, -5.0
    else:
        k[0, 0], k[1, 1] = 5.0, 5.0
    v[0, 6] = 0.25
    return q, k, v, 0, 1, 6


def winner_of(q, k, v, score: str, channel: int) -> int:
    return int(operators.attention_with_winners(*(x[None, None] for x in (q, k, v)), score)[1][0, 0, -1, channel])


def certificate(q, k, v, score: str, moved: str, channel: int) -> float:
    found = tropical.margins(*(x[None, None] for x in (q, k, v)), score)
    return found.gap[0, 0, -1, channel].item() / (2 * tropical.LIPSCHITZ[score][moved])


@pytest.mark.parametrize("moved", ["q", "k", "v", "all"])
@pytest.mark.parametrize("score", SCORES)
def test_the_radius_is_tight(score, moved):
    q, k, v, winner, rival, channel = worst_case(score)
    assert winner_of(q, k, v, score, channel) == winner
    radius = certificate(q, k, v, score, moved, channel)
    inside = attack(q, k, v, winner, rival, channel, radius * (1 - 1e-9), score, moved)
    outside = attack(q, k, v, winner, rival, channel, radius * (1 + 1e-9), score, moved)
    assert winner_of(*inside, score, channel) == winner
    assert winner_of(*outside, score, channel) == rival
    for before, after in zip((q, k, v), inside, strict=True):
        assert (before - after).abs().max() <= radius


@pytest.mark.parametrize("score", SCORES)
def test_the_constant_1_is_not_sound_when_everything_moves(score):
    q, k, v, winner, rival, channel = worst_case(score)
    claimed = certificate(q, k, v, score, "v", channel)  # gap / 2: the constant 1
    broken = attack(q, k, v, winner, rival, channel, 0.99 * claimed, score, "all")
    assert winner_of(*broken, score, channel) == rival


def test_the_constant_3_of_maxplus_is_not_sound_for_hilbert():
    q, k, v, winner, rival, channel = worst_case("hilbert")
    gap = 2 * certificate(q, k, v, "hilbert", "v", channel)
    broken = attack(q, k, v, winner, rival, channel, 0.99 * gap / 6, "hilbert", "all")
    assert winner_of(*broken, "hilbert", channel) == rival


@pytest.mark.parametrize("moved", ["q", "k", "v", "all"])
@pytest.mark.parametrize("score", SCORES)
def test_no_attack_within_the_radius_changes_a_winner(score, moved):
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(20, DIM, generator=generator, dtype=torch.float64) for _ in range(3))
    found = tropical.margins(*(x[None, None] for x in (q, k, v)), score)
    winners = naive.attention_winners(*(x[None, None] for x in (q, k, v)), score)[0, 0]
    for channel in range(DIM):
        winner, radius = int(winners[-1, channel]), certificate(q, k, v, score, moved, channel) * (1 - 1e-9)
        for rival in (j for j in range(20) if j != winner):
            moves = attack(q, k, v, winner, rival, channel, radius, score, moved)
            assert winner_of(*moves, score, channel) == winner
    radius = found.radius[moved][0, 0, -1].item()
    for seed in range(50):
        corners = torch.Generator().manual_seed(seed)
        signs = [torch.randint(0, 2, x.shape, generator=corners).double() * 2 - 1 for x in (q, k, v)]
        tensors = [
            x + radius * (1 - 1e-9) * sign if moved in (name, "all") else x
            for name, x, sign in zip("qkv", (q, k, v), signs, strict=True)
        ]
        after = naive.attention_winners(*(x[None, None] for x in tensors), score)[0, 0]
        assert torch.equal(after[-1], winners[-1])


@pytest.mark.parametrize("score", SCORES)
def test_one_input_that_drives_all_three_attains_the_constant(score):
    """q = k = v = x: moving x by 1 moves a path by 3 (maxplus) or 5 (hilbert), not by 1."""
    x = torch.zeros(2, DIM, dtype=torch.float64)
    x[0, 0], x[0, 1], x[0, 6] = (-5.0, 5.0, 30.0) if score == "hilbert" else (5.0, 0.0, 30.0)
    # Channel 6 dominates the spread of x_1 - x_0 for hilbert; channel 5 carries the path that is watched.
    x[0, 5] = 20.0
    step = 1e-3
    moved = x.clone()
    path = lambda x: (naive.scores(x[1:], x, score)[0, 0] + x[0, 5]).item()  # noqa: E731 - one path of one formula
    difference = x[1] - x[0]
    if score == "hilbert":
        high, low = difference.argmax(), difference.argmin()
        moved[1, high] -= step
        moved[0, high] += step
        moved[1, low] += step
        moved[0, low] -= step
        moved[0, 5] += step
    else:
        moved += step
    change = abs(path(moved) - path(x)) / step
    assert change == pytest.approx(tropical.LIPSCHITZ[score]["all"], abs=1e-6)


def test_a_single_visible_key_has_an_infinite_margin():
    q = torch.zeros(1, 1, 1, 4)
    found = tropical.margins(q, q, q)
    assert torch.isinf(found.token).all() and torch.isinf(found.radius["all"]).all()


@pytest.mark.parametrize("score", SCORES)
def test_gaps_equal_the_definition_under_grouped_queries(score):
    generator = torch.Generator().manual_seed(1)
    q = torch.randn(2, 4, 5, 6, generator=generator, dtype=torch.float64)
    k, v = (torch.randn(2, 2, 37, 6, generator=generator, dtype=torch.float64) for _ in range(2))
    top = naive.candidates(q, k, v, score).topk(2, dim=-2).values
    found = tropical.margins(q, k, v, score)
    assert torch.equal(found.gap, top[..., 0, :] - top[..., 1, :])
    assert torch.equal(found.token, found.gap.amin(-1))
