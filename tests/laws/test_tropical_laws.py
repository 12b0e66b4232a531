"""Laws of the max-plus semiring, of the Hilbert metric and of tropical attention, each with what must break them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nanochat.attention import build, tropical
from nanochat.attention.heads import rotary_table, rotate
from nanochat.gpt import GPT, GPTConfig
from nanochat.kernels.maxplus import maslov, naive, operators, recurrent

SCORES = ("hilbert", "maxplus")
# Multiples of 1/8 below 2^10 add without rounding in float64: the laws hold to the bit.
exact = st.integers(-8192, 8192).map(lambda n: n / 8)


def matrices(*shape: int):
    return arrays(np.float64, shape, elements=exact).map(torch.from_numpy)


def heads(queries: int = 6, keys: int = 6, dim: int = 4):
    return st.tuples(matrices(1, 1, queries, dim), matrices(1, 1, keys, dim), matrices(1, 1, keys, dim))


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class TestSemiring:
    @given(matrices(3, 4), matrices(4, 5), matrices(5, 2))
    def test_the_product_is_associative(self, a, b, c):
        product = operators.matmul
        assert torch.equal(product(product(a, b), c), product(a, product(b, c)))

    @given(matrices(3, 4), matrices(4, 5), matrices(4, 5))
    def test_it_distributes_over_the_maximum(self, a, b, c):
        product = operators.matmul
        assert torch.equal(product(a, torch.maximum(b, c)), torch.maximum(product(a, b), product(a, c)))
        left, right = b.T, c.T
        whole = product(torch.maximum(left, right), a.T)
        assert torch.equal(whole, torch.maximum(product(left, a.T), product(right, a.T)))

    @given(matrices(4, 4))
    def test_the_sum_is_idempotent_and_the_identity_neutral(self, a):
        identity = torch.full((4, 4), -torch.inf, dtype=torch.float64).fill_diagonal_(0)
        assert torch.equal(torch.maximum(a, a), a)
        assert torch.equal(operators.matmul(a, identity), a) and torch.equal(operators.matmul(identity, a), a)

    @given(matrices(3, 4), matrices(4, 2), exact)
    def test_scalars_pass_through(self, a, b, c):
        assert torch.equal(operators.matmul(a + c, b), operators.matmul(a, b) + c)

    @given(matrices(3, 4), matrices(4, 2), matrices(3, 4))
    def test_the_product_is_nonexpansive(self, a, b, moved):
        change = (operators.matmul(a, b) - operators.matmul(moved, b)).abs().max()
        assert change <= (a - moved).abs().max()

    def test_ordinary_products_break_idempotence(self):
        a = normal(3, 3)
        assert not torch.equal(a + a, a)


class TestHilbertMetric:
    @given(matrices(3, 5))
    def test_it_is_a_metric_on_projective_space(self, points):
        distance = -naive.scores(points, points, "hilbert")
        assert torch.equal(distance, distance.T) and (distance.diagonal() == 0).all()
        assert distance[0, 2] <= distance[0, 1] + distance[1, 2]

    @given(matrices(4, 5), matrices(4, 5), exact, exact, matrices(5))
    def test_shifts_and_common_translations_are_isometries(self, x, y, a, b, translation):
        distance = naive.scores(x, y, "hilbert")
        assert torch.equal(naive.scores(x + a, y + b, "hilbert"), distance)
        assert torch.equal(naive.scores(x + translation, y + translation, "hilbert"), distance)

    def test_rotations_are_not(self):
        q, k = normal(1, 1, 1, 8), normal(1, 1, 1, 8, seed=1)
        cos, sin = rotary_table(12, 8, 100.0)
        turned = [
            naive.scores(rotate(q, (cos[i : i + 1], sin[i : i + 1])), rotate(k, (cos[j : j + 1], sin[j : j + 1])))
            for i, j in ((3, 1), (9, 7))
        ]
        assert (turned[0] - turned[1]).abs().max() > 0.01

    @pytest.mark.parametrize("score", SCORES)
    def test_translated_scores_see_the_distance_of_positions_only(self, score):
        q, k = (normal(1, 2, 1, 8, seed=seed).expand(1, 2, 12, 8) for seed in (0, 1))
        s = naive.scores(*tropical.translate(q, k, score), score)
        for offset in range(-11, 12):
            diagonal = s.diagonal(offset, -2, -1)
            assert torch.allclose(diagonal, diagonal[..., :1].expand_as(diagonal), rtol=0, atol=1e-12)
        assert (s[..., 11, 0] - s[..., 0, 0]).abs().max() > 0.1

    @pytest.mark.parametrize("score", SCORES)
    def test_without_positions_the_order_of_the_past_is_invisible(self, score):
        mixer = build("tropical", n_embd=32, n_head=2, knobs={"tropical": tropical.TropicalKnobs(score=score)}).double()
        torch.nn.init.normal_(mixer.out.weight)
        x = normal(1, 9, 32)
        swapped = x[:, [1, 0, *range(2, 9)]]
        rope = rotary_table(9, 16, 1e4)
        assert torch.equal(mixer(x, None)[:, 2:], mixer(swapped, None)[:, 2:])
        assert not torch.allclose(mixer(x, rope)[:, 2:], mixer(swapped, rope)[:, 2:])


class TestAttention:
    @pytest.mark.parametrize("score", SCORES)
    @given(data=heads(), shift=exact)
    def test_homogeneous(self, score, data, shift):
        q, k, v = data
        y = operators.attention(q, k, v, score)
        assert torch.equal(operators.attention(q, k, v + shift, score), y + shift)
        other = shift if score == "hilbert" else -shift
        assert torch.equal(operators.attention(q + shift, k + other, v, score), y)

    @pytest.mark.parametrize("score", SCORES)
    @given(data=heads(), factor=st.sampled_from([0.25, 0.5, 2.0, 8.0]))
    def test_scaling_all_inputs_scales_the_output(self, score, data, factor):
        y = operators.attention(*data, score)
        assert torch.equal(operators.attention(*(factor * x for x in data), score), factor * y)

    @pytest.mark.parametrize("score", SCORES)
    @given(data=heads(), moves=heads())
    def test_nonexpansive_with_the_stated_constants(self, score, data, moves):
        y = operators.attention(*data, score)
        for place, name in enumerate("qkv"):
            moved = list(data)
            moved[place] = moved[place] + moves[place]
            change = (operators.attention(*moved, score) - y).abs().max()
            assert change <= tropical.LIPSCHITZ[score][name] * moves[place].abs().max()
        change = (operators.attention(*(x + m for x, m in zip(data, moves, strict=True)), score) - y).abs().max()
        assert change <= tropical.LIPSCHITZ[score]["all"] * max(m.abs().max() for m in moves)

    @pytest.mark.parametrize("score", SCORES)
    @given(data=heads(), level=matrices(1, 1, 6, 1))
    def test_the_gauge_forgets_a_level_per_query_and_nothing_else(self, score, data, level):
        y = operators.attention(*data, score)
        fixed = tropical.gauge(y)
        assert torch.equal(tropical.gauge(y + level), fixed)
        assert (fixed.amax(-1) == 0).all()
        assert torch.equal(fixed - fixed[..., :1], y - y[..., :1])

    @pytest.mark.parametrize("score", SCORES)
    def test_strictly_causal(self, score):
        q, k, v = (normal(1, 2, 40, 8, seed=seed) for seed in range(3))
        y = operators.attention(q, k, v, score)
        for token in (1, 17, 39):
            moved = [x.clone() for x in (q, k, v)]
            for x in moved:
                x[:, :, token:] += normal(*x[:, :, token:].shape, seed=9)
            assert torch.equal(operators.attention(*moved, score)[:, :, :token], y[:, :, :token])

    def test_a_version_without_the_mask_is_not(self):
        q, k, v = (normal(1, 1, 12, 4, seed=seed) for seed in range(3))
        full = lambda k: (naive.scores(q, k).unsqueeze(-1) + v.unsqueeze(-3)).amax(-2)  # noqa: E731 - the wrong formula
        moved = k.clone()
        moved[:, :, 6:] = q[:, :, 6:]
        assert not torch.equal(full(moved)[:, :, :6], full(k)[:, :, :6])

    @pytest.mark.parametrize("score", SCORES)
    def test_chunks_and_single_tokens_equal_the_whole(self, score):
        q, k, v = (normal(2, 2, 31, 6, seed=seed) for seed in range(3))
        whole = operators.attention(q, k, v, score)
        for low, high in ((0, 1), (4, 5), (7, 30), (30, 31)):
            part = operators.attention(q[:, :, low:high], k[:, :, :high], v[:, :, :high], score)
            assert torch.equal(part, whole[:, :, low:high])

    def test_maxplus_scores_have_a_state_of_d_by_d(self):
        q, k, v = (normal(1, 1, 50, 4, seed=seed)[0, 0] for seed in range(3))
        memory = (k[:, :, None] + v[:, None, :]).cummax(0).values
        linear = (q[:, :, None] + memory).amax(1)
        y = operators.attention(*(x[None, None] for x in (q, k, v)), "maxplus")[0, 0]
        torch.testing.assert_close(y, linear, rtol=0, atol=1e-12)

    def test_the_state_holds_d_by_d_tokens_and_no_more(self):
        """Whatever is asked, at most D x D tokens ever answer; a token below the state is as if it had not been."""
        k, v = (normal(1, 1, 200, 3, seed=seed) for seed in (1, 2))
        questions = 4 * normal(1, 1, 3000, 3)
        found = {}
        for score in SCORES:
            paths = naive.scores(questions, k, score).unsqueeze(-1) + v.unsqueeze(-3)
            found[score] = len(paths.argmax(-2).unique())
        assert found["maxplus"] <= 9 < found["hilbert"]
        below = [torch.cat((x, x[:, :, :1] - 1), 2) for x in (k, v)]
        _, state = recurrent.recurrence(k, k, v)
        assert torch.equal(recurrent.recurrence(below[0], *below)[1], state)
        above = [torch.cat((x, x[:, :, :1] + 9), 2) for x in (k, v)]
        assert not torch.equal(recurrent.recurrence(above[0], *above)[1], state)


class TestFiniteBeta:
    """What (1/beta) log sum exp(beta .) in place of every maximum does, by theorem 5 of the page."""

    @staticmethod
    def interval(score: str, dim: int, tokens: int) -> tuple[float, float]:
        """beta times the least and the largest deviation from the maximum."""
        inside = np.log(dim)
        return (-2 * inside, np.log(tokens)) if score == "hilbert" else (0.0, np.log(tokens) + inside)

    @pytest.mark.parametrize("score", SCORES)
    def test_it_stays_within_log_n_over_beta_and_tends_to_the_maximum(self, score):
        q, k, v = (normal(1, 1, 9, 5, seed=seed) for seed in range(3))
        hard = operators.attention(q, k, v, score)
        low, high = self.interval(score, 5, 9)
        for beta in (0.1, 1.0, 10.0, 1000.0):
            difference = beta * (maslov.attention(q, k, v, score, beta) - hard)
            assert low - 1e-9 <= difference.min() and difference.max() <= high + 1e-9
        assert (maslov.attention(q, k, v, score, 1.0) - hard).abs().max() > 0.1
        assert tropical.maslov_limit() < 1e-6

    @pytest.mark.parametrize("beta", [0.5, 3.0, 1e4])
    def test_the_constants_are_attained_so_smaller_ones_are_wrong(self, beta):
        zeros = torch.zeros(1, 1, 9, 5, dtype=torch.float64)
        largest = beta * maslov.attention(zeros, zeros, zeros, "maxplus", beta)[0, 0, -1]
        assert (largest - np.log(9 * 5)).abs().max() < 1e-9
        assert (largest > 0.99 * np.log(9 * 5)).all() and (largest > np.log(9)).all(), "a bound without D is broken"
        least = beta * maslov.attention(zeros, zeros, zeros, "hilbert", beta)[0, 0, 0]
        assert (least + 2 * np.log(5)).abs().max() < 1e-9
        assert (least < -np.log(5)).all(), "the bound of one maximum is broken by a score of two"

    @pytest.mark.parametrize("beta", [1.0, 4.0])
    @pytest.mark.parametrize("score", SCORES)
    def test_it_is_softmax_attention_over_distributions(self, score, beta):
        """exp(beta z_i) = sum_j a_ij softmax(beta v_j), a_i the softmax over j of beta s_ij + log sum exp(beta v_j)."""
        q, k, v = (normal(1, 1, 9, 5, seed=seed) for seed in range(3))
        z = tropical.gauge(maslov.attention(q, k, v, score, beta), beta)
        hidden = ~naive.visible(9, 9)
        scores = (beta * naive.scores(q, k, score, beta)).masked_fill(hidden, -torch.inf)
        weights = (scores + (beta * v).logsumexp(-1).unsqueeze(-2)).softmax(-1)
        mixed = weights @ (beta * v).softmax(-1)
        assert ((beta * z).exp() - mixed).abs().max() < 1e-12
        without_level = scores.softmax(-1) @ (beta * v).softmax(-1)
        assert (without_level - mixed).abs().max() > 1e-3
        hard_gauge = tropical.gauge(maslov.attention(q, k, v, score, beta))
        assert ((beta * hard_gauge).exp().sum(-1) - 1).abs().min() > 1e-3

    def test_at_one_the_inner_product_is_linear_attention_with_exponential_features(self):
        q, k, v = (normal(1, 1, 9, 5, seed=seed) for seed in range(3))
        state = (k.exp().unsqueeze(-1) * v.exp().unsqueeze(-2)).cumsum(2)
        linear = (q.exp().unsqueeze(-2) @ state).squeeze(-2)
        assert (maslov.attention(q, k, v, "maxplus", 1.0).exp() - linear).abs().max() < 1e-10 * linear.max()
        assert (maslov.attention(q, k, v, "maxplus", 2.0).exp() - linear).abs().max() > 0.1

    @pytest.mark.parametrize("score", SCORES)
    def test_it_is_homogeneous_once_beta_moves_along(self, score):
        q, k, v = (normal(1, 1, 9, 5, seed=seed) for seed in range(3))
        y = maslov.attention(q, k, v, score, 2.0)
        scaled = maslov.attention(3 * q, 3 * k, 3 * v, score, 2.0 / 3)
        assert (scaled - 3 * y).abs().max() < 1e-12
        assert (maslov.attention(3 * q, 3 * k, 3 * v, score, 2.0) - 3 * y).abs().max() > 0.01
        assert (maslov.attention(q, k, v + 7, score, 2.0) - y - 7).abs().max() < 1e-12

    @pytest.mark.parametrize("score", SCORES)
    @pytest.mark.parametrize("beta", [0.3, 5.0])
    def test_the_lipschitz_constants_are_those_of_the_maximum(self, score, beta):
        for seed in range(20):
            data, moves = ([normal(1, 1, 6, 4, seed=3 * seed + place + at) for place in range(3)] for at in (0, 100))
            y = maslov.attention(*data, score, beta)
            moved = maslov.attention(*(x + m for x, m in zip(data, moves, strict=True)), score, beta)
            largest = max(m.abs().max() for m in moves)
            assert (moved - y).abs().max() <= tropical.LIPSCHITZ[score]["all"] * largest
        x = normal(1, 1, 6, 4)
        apart = torch.tensor([1.0, -1, -1, -1], dtype=torch.float64)  # one input that drives q, k and v
        y, moved = (maslov.attention(s * apart - x, s * apart + x, x + s, score, 200.0) for s in (0.0, 1e-3))
        assert (moved - y).abs().max() > 1e-3, "more than the constant of v alone"

    @pytest.mark.parametrize("score", SCORES)
    def test_strictly_causal(self, score):
        q, k, v = (normal(1, 2, 80, 8, seed=seed) for seed in range(3))
        y = maslov.attention(q, k, v, score, 2.0)
        for token in (1, 17, 79):
            moved = [x.clone() for x in (q, k, v)]
            for x in moved:
                x[:, :, token:] += 1e6 * normal(*x[:, :, token:].shape, seed=9)
            assert torch.equal(maslov.attention(*moved, score, 2.0)[:, :, :token], y[:, :, :token])


class TestMixer:
    @pytest.mark.parametrize("beta", [None, 3.0])
    @pytest.mark.parametrize("position", ["translation", "rotary"])
    @pytest.mark.parametrize("score", SCORES)
    def test_cached_decode_equals_the_full_pass_beyond_the_trained_length(self, score, position, beta):
        knobs = {"tropical": tropical.TropicalKnobs(score=score, position=position, beta=beta)}
        config = GPTConfig(n_layer=2, n_embd=32, n_head=4, n_kv_head=2, vocab_size=64, sequence_len=8, knobs=knobs,
                           attention_type="tropical")  # fmt: skip
        model = GPT(config).double()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
        idx = torch.randint(64, (2, 21), generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            full, cache = model(idx), model.init_cache(2, 21)
            parts = [model(idx[:, a:b], cache=cache) for a, b in ((0, 5), (5, 6), (6, 7), (7, 19), (19, 21))]
        torch.testing.assert_close(torch.cat(parts, 1), full, rtol=0, atol=1e-12)

    @pytest.mark.parametrize("score", SCORES)
    def test_compiled_equals_eager(self, score):
        mixer = build("tropical", n_embd=32, n_head=2, knobs={"tropical": tropical.TropicalKnobs(score=score)})
        torch.nn.init.normal_(mixer.out.weight)
        x, rope = torch.randn(2, 13, 32), rotary_table(13, 16, 1e4)
        compiled = torch.compile(mixer, backend="aot_eager", fullgraph=True)
        results = []
        for function in (mixer, compiled):
            mixer.zero_grad()
            y = function(x, rope)
            y.square().sum().backward()
            results.append([y.detach(), *(p.grad.clone() for p in mixer.parameters())])
        for one, other in zip(*results, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
