"""Laws of the prefix kernel and of ultrametric attention, each with what must break them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from nanochat.attention import build, ultrametric
from nanochat.attention.heads import rotary_table
from nanochat.config import ConfigError, GPTConfig
from nanochat.flops import ledger
from nanochat.kernels.prefix.operators import ball_sums

DEPTH, BASE = 4, 3
strings = st.lists(st.integers(0, BASE - 1), min_size=DEPTH, max_size=DEPTH)
positive = st.lists(st.floats(0, 100), min_size=DEPTH + 1, max_size=DEPTH + 1)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mixer(seed: int = 0, **options):
    """A mixer in float64 whose output map is not silent."""
    knobs = {"ultrametric": ultrametric.UltrametricKnobs(**options)}
    made = build("ultrametric", n_embd=32, n_head=4, n_kv_head=2, seed=seed, knobs=knobs).double()
    torch.nn.init.normal_(made.out.weight, generator=torch.Generator().manual_seed(seed))
    torch.nn.init.normal_(made.level, generator=torch.Generator().manual_seed(seed))
    return made


def gram(distribution: Tensor, levels: Tensor) -> Tensor:
    """The kernel between all tokens (N, N) of digit distributions (N, K, p), by the mixer's own function."""
    lower = ultrametric.soft_kernel(distribution[None, None], distribution[None, None], levels[None])[0, 0, 0]
    return lower + lower.tril(-1).T


def distances(kernel: Tensor) -> Tensor:
    """d(x, y) = K(x, x) - K(x, y): the weight of the levels that two strings do not share."""
    return kernel.diagonal()[:, None] - kernel


def violations(distance: Tensor) -> int:
    """Triples with d(x, z) > max(d(x, y), d(y, z))."""
    around = torch.maximum(distance[:, :, None], distance[None, :, :])  # x, y, z
    return int((distance[:, None, :] > around).sum())


class TestStrongTriangle:
    @given(st.lists(strings, min_size=3, max_size=8), positive)
    def test_it_holds_for_hard_digits_and_all_weights_that_are_not_negative(self, points, weights):
        hot = torch.nn.functional.one_hot(torch.tensor(points), BASE).double()
        distance = distances(gram(hot, torch.tensor(weights, dtype=torch.float64)))
        assert violations(distance) == 0
        assert torch.equal(distance, distance.T) and (distance.diagonal() == 0).all() and (distance >= 0).all()

    def test_it_holds_for_the_digits_that_a_mixer_finds(self):
        made = mixer()
        hot = ultrametric.harden(made.scores(normal(1, 1, 24, 8)).softmax(-1))[0, 0].detach()
        assert violations(distances(gram(hot, made.levels(hot)[0].detach()))) == 0

    def test_euclidean_distances_of_the_same_vectors_break_it(self):
        vectors = normal(1, 1, 24, 8)[0, 0]
        assert violations(torch.cdist(vectors, vectors)) > 100

    def test_soft_digits_break_it(self):
        made = mixer()
        soft = made.scores(normal(1, 1, 24, 8)).softmax(-1)[0, 0].detach()
        assert violations(distances(gram(soft, made.levels(soft)[0].detach()))) > 0

    def test_a_negative_weight_breaks_it(self):
        hot = torch.nn.functional.one_hot(torch.tensor([[0, 0], [0, 1], [1, 0]]), 2).double()
        assert violations(distances(gram(hot, torch.tensor([1.0, -2.0, 1.0], dtype=torch.float64)))) > 0


class TestModes:
    @pytest.mark.parametrize("sizes", [{}, {"digits": 3, "base": 5}, {"digits": 1, "base": 7, "growth": 1.0}])
    def test_the_same_hard_digits_give_the_same_output(self, sizes):
        x, modes = normal(2, 71, 32), {}
        for name, options in (("trie", {"mode": "trie"}), ("hard", {"hard": True}), ("soft", {})):
            modes[name] = mixer(**sizes, **options)(x, None)
        assert (modes["trie"] - modes["hard"]).abs().max() < 1e-10
        assert (modes["trie"] - modes["soft"]).abs().max() > 1e-3

    def test_soft_digits_become_the_trie_as_they_sharpen(self):
        x = normal(1, 40, 32)
        trie = mixer(mode="trie")(x, None)
        far = [(mixer(sharpness=sharpness)(x, None) - trie).abs().max().item() for sharpness in (4.0, 1e2, 1e6)]
        assert far[0] > far[1] > far[2] and far[2] < 1e-10

    def test_hard_digits_are_exactly_one_hot(self):
        soft = normal(50, 8, 3).softmax(-1)
        hot = ultrametric.harden(soft)
        assert torch.equal(hot.sum(-1), torch.ones(50, 8, dtype=torch.float64)) and set(hot.unique().tolist()) == {0, 1}

    def test_the_weight_of_a_hard_string_is_one_with_the_gradient_of_its_log_probability(self):
        scores = normal(6, 4, 3).requires_grad_()
        codes, weight = ultrametric.likeliest(scores)
        assert torch.equal(weight, torch.ones(6, 5, dtype=torch.float64))
        digits = torch.stack([codes // 3 ** (3 - place) % 3 for place in range(4)], -1)
        assert torch.equal(digits, scores.argmax(-1))
        log_probability = scores.log_softmax(-1).gather(-1, digits[..., None]).squeeze(-1).cumsum(-1)
        pull = normal(6, 4, seed=1)
        (want,) = torch.autograd.grad(log_probability, scores, pull)
        (got,) = torch.autograd.grad(weight[:, 1:], scores, pull)
        assert (got - want).abs().max() < 1e-12

    def test_trie_mode_learns_which_digits_to_use(self):
        """Values differ in two balls, the query's score for the wrong one is a little higher: its gradient says so."""
        scores = torch.tensor([[[[[3.0, 0.0]], [[0.0, 3.0]], [[0.1, 0.0]]]]], dtype=torch.float64, requires_grad=True)
        codes, weight = ultrametric.likeliest(scores)
        values = ultrametric.with_count(torch.tensor([[[[1.0], [-1.0], [0.0]]]], dtype=torch.float64))
        y = ultrametric.ratio(ball_sums(codes, codes, weight, weight, values, 2))[0, 0, 2, 0]
        assert y > 0  # it reads the first ball
        (gradient,) = torch.autograd.grad((y + 1) ** 2, scores)  # and should read the second
        assert gradient[0, 0, 2, 0, 0] > 0 > gradient[0, 0, 2, 0, 1]


class TestBalls:
    def changes(self, first_level: int) -> tuple[bool, bool]:
        """Whether queries in one ball of level 2 see a change outside of it, and one inside of it."""
        codes = torch.randint(2**4, (1, 1, 120), generator=torch.Generator().manual_seed(0))
        inside = (codes // 4 == 2)[0, 0]
        weights = torch.rand(1, 1, 120, 5, dtype=torch.float64)
        weights[..., :first_level] = 0
        values = normal(1, 1, 120, 6)

        def outputs(v: Tensor) -> Tensor:
            return ball_sums(codes, codes, weights, weights, v, 2)[0, 0, inside]

        before, outer, inner = outputs(values), values.clone(), values.clone()
        outer[:, :, ~inside] += 1e6
        inner[:, :, inside] += 1
        return not torch.equal(outputs(outer), before), not torch.equal(outputs(inner), before)

    def test_updates_outside_a_ball_change_nothing_inside(self):
        assert self.changes(first_level=2) == (False, True)

    def test_a_level_above_the_ball_lets_them_in(self):
        assert self.changes(first_level=1) == (True, True)

    def test_the_denominator_never_vanishes(self):
        made = mixer(mode="trie", digits=12, growth=16.0).float()
        with torch.no_grad():
            made.level.fill_(-20.0)
            assert made(normal(1, 64, 32).float() * 100, None).isfinite().all()


class TestAttention:
    @pytest.mark.parametrize("mode", ["kernel", "trie"])
    def test_positions_do_not_enter(self, mode):
        made, x = mixer(mode=mode), normal(1, 19, 32)
        y = made(x, rotary_table(19, 8, 1e4))
        assert torch.equal(y, made(x, None))
        swapped = made(x[:, [1, 0, *range(2, 19)]], None)
        assert torch.allclose(swapped[:, 2:], y[:, 2:], rtol=0, atol=1e-11)
        later = made(x[:, [18, *range(1, 18), 0]], None)
        assert not torch.allclose(later[:, 2:18], y[:, 2:18])  # what is not yet past does count

    def test_outputs_lie_between_the_least_and_the_largest_value_so_far(self):
        made = mixer(mode="trie")
        q, k, v = made.project(normal(1, 50, 32), None)
        y = made.route(q, k, v)
        high, low = v.cummax(2).values.repeat_interleave(2, 1), v.cummin(2).values.repeat_interleave(2, 1)
        assert (y <= high + 1e-12).all() and (y >= low - 1e-12).all()

    def test_decoding_memory_is_constant_in_trie_mode_only(self):
        def kept(mode: str, length: int) -> int:
            cache = mixer(mode=mode).init_cache(1, length, torch.device("cpu"), torch.float32)
            return sum(x.nbytes for x in vars(cache).values() if isinstance(x, Tensor))

        assert kept("trie", 64) == kept("trie", 65536)
        assert kept("kernel", 128) == 2 * kept("kernel", 64)

    def test_cost_per_token_is_constant_in_trie_mode_only(self):
        def price(mode: str, length: int) -> float:
            knobs = {"ultrametric": ultrametric.UltrametricKnobs(mode=mode)}
            booked = ledger(GPTConfig(attention_type="ultrametric", knobs=knobs), length)
            return booked.parts["mixer"].total + booked.backward_parts["mixer"].total

        assert price("trie", 65536) == price("trie", 4096)
        assert price("kernel", 65536) > 12 * price("kernel", 4096)

    @pytest.mark.parametrize(
        ("options", "sentence"),
        [
            ({"digits": 0}, "--ultrametric-digits: got 0, need at least 1"),
            ({"base": 1}, "--ultrametric-base: got 1, need at least 2"),
            ({"base": 16, "digits": 8}, r"got 16\^8 leaves, need at most 4096"),
            ({"sharpness": 0.0}, "--ultrametric-sharpness: got 0, need more than 0"),
            ({"growth": 40.0}, "--ultrametric-growth: got 40, need 1 to 16"),
            ({"mode": "tree"}, "unknown --mode 'tree'"),
        ],
    )
    def test_options_out_of_range_are_refused(self, options, sentence):
        with pytest.raises(ConfigError, match=sentence):
            ultrametric.UltrametricKnobs(**options)
