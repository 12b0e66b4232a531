"""Laws of fractal attention in float64, each with a control that breaks it."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nanochat.attention import build, fractal
from nanochat.attention.fractal import FractalKnobs, geometric_scan, naive, path_attention, suffix_attention
from nanochat.attention.heads import rotary_table
from nanochat.config import ConfigError, GPTConfig
from nanochat.flops import ledger

T, D = 150, 6


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def soft(*shape: int, seed: int = 0) -> Tensor:
    return normal(*shape, seed=seed).mul(2).softmax(-1)


def mixer(seed: int = 0, **options):
    """A mixer in float64 whose output map is not silent."""
    knobs = {"fractal": FractalKnobs(**options)}
    made = build("fractal", n_embd=32, n_head=4, n_kv_head=2, seed=seed, knobs=knobs).double()
    torch.nn.init.normal_(made.out.weight, generator=torch.Generator().manual_seed(seed))
    return made


class TestPaths:
    @pytest.mark.parametrize(("arity", "depth", "kv_heads"), [(4, 4, 2), (3, 3, 4), (5, 1, 1), (2, 5, 2)])
    def test_the_linear_form_is_the_definition_with_every_gradient(self, arity, depth, kv_heads):
        given_ = soft(2, 4, T, depth, arity), soft(2, kv_heads, T, depth, arity, seed=1), normal(2, kv_heads, T, D)
        weights, results = normal(2, 4, T, D, seed=2), []
        for function in (naive, path_attention):
            leaves = [x.clone().requires_grad_() for x in given_]
            y = function(*leaves)
            results.append((y, *torch.autograd.grad((y * weights).sum(), leaves)))
        for name, one, other in zip(("y", "query", "key", "v"), *results, strict=True):
            assert other.abs().max() > 1e-3, f"{name}: nothing to compare"
            assert (one - other).abs().max() < 1e-10, name

    def test_the_product_of_overlaps_is_the_chance_that_paths_match(self):
        """Over all m^d paths; control: the sum of overlaps is not."""
        one, other = soft(7, 3, 4), soft(7, 3, 4, seed=1)
        chance = torch.zeros(7, dtype=torch.float64)
        for path in itertools.product(range(4), repeat=3):
            each = [x[:, level, symbol] for x in (one, other) for level, symbol in enumerate(path)]
            chance += torch.stack(each).prod(0)
        overlaps = (one * other).sum(-1)
        joined = [fractal.joint(*fractal.in_halves(x)) for x in (one, other)]
        assert (chance - overlaps.prod(-1)).abs().max() < 1e-12
        assert (chance - (joined[0] * joined[1]).sum(-1)).abs().max() < 1e-12
        assert (chance - overlaps.sum(-1)).abs().max() > 0.1

    def test_hard_addresses_look_up_equal_paths(self):
        """The mean of the values at one's own path, as a dictionary gives it; control: paths read backwards."""
        digits = torch.randint(3, (T, 2), generator=torch.Generator().manual_seed(0))
        v, found = normal(T, D), {}
        expected = []
        for path, value in zip(digits.tolist(), v, strict=True):
            found.setdefault(tuple(path), []).append(value)
            expected.append(torch.stack(found[tuple(path)]).mean(0))
        hot = F.one_hot(digits, 3).double()[None, None]
        y = path_attention(hot, hot, v[None, None])[0, 0]
        assert (y - torch.stack(expected)).abs().max() < 1e-12
        swapped = path_attention(hot.flip(-2) + 1e-9, hot + 1e-9, v[None, None])[0, 0]
        assert (swapped - torch.stack(expected)).abs().max() > 0.1

    def test_the_mixture_keeps_every_denominator_from_zero(self, monkeypatch):
        """Addresses that never meet: without the mixture 0 / 0."""
        q, k, v = torch.ones(1, 4, 9, 8), -torch.ones(1, 2, 9, 8), torch.randn(1, 2, 9, 8)
        made = mixer(arity=2, depth=12).float()
        with torch.no_grad():
            made.address.weight.fill_(50.0)
            made.address.weight[::2] = -50.0
            assert made.attend(q, k, v).isfinite().all()
            monkeypatch.setattr(fractal, "MIXTURE", 0.0)
            assert not made.attend(q, k, v).isfinite().all()

    def test_memory_and_cost_per_token_are_constant_in_path_form_only(self):
        def kept(form: str, length: int) -> int:
            cache = mixer(form=form).init_cache(1, length, torch.device("cpu"), torch.float32)
            return sum(x.nbytes for x in vars(cache).values() if isinstance(x, Tensor))

        def price(form: str, length: int) -> float:
            config = GPTConfig(attention_type="fractal", knobs={"fractal": FractalKnobs(form=form)})
            booked = ledger(config, length)
            return booked.parts["mixer"].total + booked.backward_parts["mixer"].total

        assert kept("path", 64) == kept("path", 65536) and kept("suffix", 4096) > 60 * kept("suffix", 64)
        assert price("path", 65536) == pytest.approx(price("path", 4096), rel=0.02)
        assert price("suffix", 65536) > 12 * price("suffix", 4096)


@pytest.mark.parametrize("form", ["path", "suffix"])
class TestBothForms:
    def test_outputs_lie_between_the_least_and_the_largest_value_so_far(self, form):
        """Control: values seen by nobody yet do not bound them."""
        made, x = mixer(form=form), normal(1, 50, 32)
        if form == "path":
            q, k, v = made.project(x, None)
            y = made.attend(q, k, v)
        else:
            t, v = made.steps(x)
            y = made.follow(t, v)
        high, low = (each.repeat_interleave(2, 1) for each in (v.cummax(2).values, v.cummin(2).values))
        assert (y <= high + 1e-12).all() and (y >= low - 1e-12).all()
        later = v.flip(2).cummax(2).values.flip(2).repeat_interleave(2, 1)
        assert (y > later).any()

    def test_positions_do_not_enter(self, form):
        made, x = mixer(form=form), normal(1, 19, 32)
        assert torch.equal(made(x, rotary_table(19, 8, 1e4)), made(x, None))

    def test_the_order_of_the_past_matters_to_histories_only(self, form):
        made, x = mixer(form=form), normal(1, 19, 32)
        y, swapped = made(x, None), made(x[:, [1, 0, *range(2, 19)]], None)
        assert torch.allclose(swapped[:, 2:], y[:, 2:], rtol=0, atol=1e-10) == (form == "path")

    def test_a_longer_sequence_begins_as_a_shorter_one(self, form):
        made, x = mixer(form=form), normal(1, 200, 32)
        y = made(x, None)
        for length in (1, 63, 64, 65, 130):
            assert (made(x[:, :length], None) - y[:, :length]).abs().max() < 1e-10
        assert (made(x[:, 1:], None) - y[:, 1:]).abs().max() > 1e-3


class TestHistories:
    @pytest.mark.parametrize("length", [1, 2, 31, 32, 33, 64, 1030])
    def test_the_scan_is_the_recurrence(self, length):
        """By loop, from a start that is not 0; control: another ratio."""
        x, start = normal(3, length, D), normal(3, D, seed=1)
        h, expected = start, []
        for place in range(length):
            h = 0.4 * h + x[:, place]
            expected.append(h)
        got = geometric_scan(x, 0.4, start)
        assert (got - torch.stack(expected, 1)).abs().max() < 1e-12
        assert (geometric_scan(x, 0.41, start) - got).abs().max() > 1e-4

    def test_a_cut_history_is_wrong_by_at_most_s_to_the_d_over_one_minus_s(self):
        """And not always by less than s times that: the bound is reached by a constant past."""
        worst = 0.0
        for seed in range(5):
            t = F.normalize(normal(60, D, seed=seed) + 3.0 * (seed == 0), dim=-1)
            whole = geometric_scan(t, 0.4, t.new_zeros(D))[-1]
            for depth in (1, 3, 6):
                cut = geometric_scan(t[-depth:], 0.4, t.new_zeros(D))[-1]
                error = (whole - cut).norm().item() / (0.4**depth / 0.6)
                worst = max(worst, error)
        assert 0.4 < worst <= 1 + 1e-12

    @settings(max_examples=100)
    @given(st.lists(st.integers(0, 2), min_size=12, max_size=12), st.lists(st.integers(0, 2), min_size=12, max_size=12))
    def test_distance_brackets_the_longest_common_suffix(self, one, other):
        """Orthonormal steps, common suffix L: (1 - 2s) s^L c <= |h - h'| <= s^L c with c = sqrt 2 / (1 - s)."""
        for ratio in (0.3, 0.4, 0.49):
            shared, distance = compare(one, other, ratio)
            c = ratio**shared * math.sqrt(2) / (1 - ratio)
            assert distance <= c + 1e-9
            assert distance >= (1 - 2 * ratio) * c - math.sqrt(2) * ratio**12 / (1 - ratio) - 1e-9

    def test_below_a_third_nearer_means_a_longer_common_suffix_and_above_not(self):
        """All pairs of words of 7 letters over 2: the ranges of |h - h'| per suffix do not overlap at s = .32."""
        assert overlaps(0.32) == 0 < overlaps(0.4)

    def test_from_a_half_on_different_histories_can_meet(self):
        """The separation 1 - 2s: words that differ in their last letter stay apart below 1/2, not above."""
        apart = {ratio: nearest_with_different_last_letter(ratio) for ratio in (0.4, 0.45, 0.6)}
        for ratio in (0.4, 0.45):
            assert apart[ratio] >= (1 - 2 * ratio) * math.sqrt(2) / (1 - ratio)
        assert apart[0.6] < 0.02


def history(word: list[int], ratio: float) -> Tensor:
    steps = torch.eye(3, dtype=torch.float64)[torch.tensor(word)]
    return geometric_scan(steps, ratio, steps.new_zeros(3))[-1]


def compare(one: list[int], other: list[int], ratio: float) -> tuple[int, float]:
    """Length of the longest common suffix, and the distance of the histories."""
    pairs = list(zip(reversed(one), reversed(other), strict=True))
    shared = next((place for place, (a, b) in enumerate(pairs) if a != b), len(pairs))
    return shared, (history(one, ratio) - history(other, ratio)).norm().item()


def overlaps(ratio: float) -> int:
    """Suffix lengths L such that some pair sharing L letters is nearer than some pair sharing L + 1."""
    nearest, farthest = [math.inf] * 8, [0.0] * 8
    words = [list(word) for word in itertools.product((0, 1), repeat=7)]
    for other in words:
        for first in (words[0], words[85], words[42]):
            shared, distance = compare(first, other, ratio)
            nearest[shared], farthest[shared] = min(nearest[shared], distance), max(farthest[shared], distance)
    return sum(nearest[shared] <= farthest[shared + 1] for shared in range(6))


def nearest_with_different_last_letter(ratio: float) -> float:
    words = torch.tensor(list(itertools.product((0, 1), repeat=9)))
    ends = []
    for last in (0, 1):
        letters = F.pad(words, (0, 1), value=last)
        steps = torch.eye(2, dtype=torch.float64)[letters]
        ends.append(geometric_scan(steps, ratio, steps.new_zeros(len(words), 2))[:, -1])
    return torch.cdist(*ends, compute_mode="donot_use_mm_for_euclid_dist").min().item()


class TestSuffixes:
    def recalled(self, shifted: bool) -> float:
        """Share of tokens that the nearest history names, in a sequence whose every token follows from three before."""
        generator = torch.Generator().manual_seed(0)
        rule = torch.randint(5, (5, 5, 5), generator=generator)
        tokens = torch.randint(5, (600,), generator=generator).tolist()
        follows = [False] * 600
        for place in range(3, 600):
            if place % 9 not in (0, 1, 2):  # now and then three free tokens, or it would run in a circle
                tokens[place] = int(rule[tuple(tokens[place - 3 : place])])
                follows[place] = True
        one_hot = F.one_hot(torch.tensor(tokens), 5).double()[None, None]
        after = geometric_scan(one_hot, 0.3, one_hot.new_zeros(1, 1, 5))
        before = torch.cat((torch.zeros_like(after[:, :, :1]), after[:, :, :-1]), 2) if shifted else after
        y = suffix_attention(after, before, one_hot, torch.tensor([12.0], dtype=torch.float64))[0, 0]
        right = (y[:-1].argmax(-1) == torch.tensor(tokens)[1:])[torch.tensor(follows)[1:]]
        return right[-150:].double().mean().item()

    def test_the_key_must_be_the_history_before_its_token(self):
        assert self.recalled(shifted=True) > 0.85
        assert self.recalled(shifted=False) < 0.5

    def test_power_zero_is_the_running_mean_and_a_large_one_is_not(self):
        h, v = normal(1, 1, 40, D), normal(1, 1, 40, D, seed=1)
        mean = v.cumsum(2) / torch.arange(1, 41, dtype=torch.float64)[:, None]
        for tau, equal in ((0.0, True), (4.0, False)):
            y = suffix_attention(h, h.roll(1, 2), v, torch.tensor([tau], dtype=torch.float64))
            assert ((y - mean).abs().max() < 1e-12) == equal

    def test_weights_are_powers_of_the_distance(self):
        """y is the mean under |h_i - h_j-1|^-tau, by loops; control: under exp(-tau |.|)."""
        h, g, v = normal(1, 2, 9, D), normal(1, 2, 9, D, seed=1), normal(1, 2, 9, D, seed=2)
        tau = torch.tensor([1.0, 2.5, 4.0, 8.0], dtype=torch.float64)
        y = suffix_attention(h, g, v, tau)
        by_power, by_exponential = torch.zeros_like(y), torch.zeros_like(y)
        for head, i in itertools.product(range(4), range(9)):
            distance = (h[0, head // 2, i] - g[0, head // 2, : i + 1]).norm(dim=-1)
            for found, weight in ((by_power, distance ** -tau[head]), (by_exponential, (-tau[head] * distance).exp())):
                found[0, head, i] = (weight @ v[0, head // 2, : i + 1]) / weight.sum()
        assert (y - by_power).abs().max() < 1e-10
        assert (y - by_exponential).abs().max() > 1e-2

    def test_equal_histories_have_a_finite_score_and_gradient(self):
        t = torch.zeros(1, 1, 30, D)
        t[..., 0] = 1
        after = geometric_scan(t, 0.4, t.new_zeros(1, 1, D)).requires_grad_()
        y = suffix_attention(after, after.roll(1, 2), torch.randn(1, 1, 30, D), torch.tensor([4.0]))
        (gradient,) = torch.autograd.grad(y.sum(), after)
        assert y.isfinite().all() and gradient.isfinite().all()

    def test_decoding_continues_from_one_history(self):
        """What the scan keeps is one state, whatever came before; it is the last row of the cache."""
        made = mixer(form="suffix")
        cache = made.init_cache(1, 40, torch.device("cpu"), torch.float64)
        made(normal(1, 33, 32), None, cache)
        t, _ = made.steps(normal(1, 33, 32))
        assert (cache.last - geometric_scan(t, 0.4, cache.last.new_zeros(1, 2, 8))[:, :, -1]).abs().max() < 1e-12
        assert not torch.allclose(cache.last, t[:, :, -1])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"arity": 1}, "--fractal-arity: got 1, need at least 2"),
        ({"depth": 0}, "--fractal-depth: got 0, need at least 1"),
        ({"arity": 8, "depth": 5}, r"got 8\^5 paths, need at most 4096"),
        ({"sharpness": 0.0}, "--fractal-sharpness: got 0, need more than 0"),
        ({"tau": -1.0}, "--fractal-tau: got -1, need more than 0"),
        ({"contraction": 1.0}, "--fractal-contraction: got 1, need more than 0, less than 1"),
        ({"form": "tree"}, "unknown --form 'tree'"),
    ],
)
def test_options_out_of_range_are_refused(options, sentence):
    with pytest.raises(ConfigError, match=sentence):
        FractalKnobs(**options)
