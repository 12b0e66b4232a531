"""Laws of 2-simplicial attention, each with what must break them: a pairwise score, two-hop diffusion, rotations."""

from __future__ import annotations

from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanochat.attention import build
from nanochat.attention.heads import rotary_table, rotate
from nanochat.attention.simplicial import SimplicialKnobs, rotate_triples
from nanochat.config import ConfigError, GPTConfig
from nanochat.gpt import GPT
from nanochat.kernels.simplicial import naive, operators
from nanochat.options import parse

FORMS = ("trilinear", "determinant")


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def five(length: int, dim: int, seed: int = 0) -> list[Tensor]:
    """q, k, v, k', v' of one head."""
    return [normal(1, 1, length, dim, seed=5 * seed + each) for each in range(5)]


def turn(x: Tensor, matrix: Tensor) -> Tensor:
    """The same 3x3 matrix on every vector (c, c + D//3, c + 2 (D//3))."""
    third = x.shape[-1] // 3
    vectors = x[..., : 3 * third].unflatten(-1, (3, third))
    turned = torch.einsum("ab,...bc->...ac", matrix, vectors).flatten(-2)
    return torch.cat((turned, x[..., 3 * third :]), -1)


def orthogonal(determinant: int, seed: int = 0) -> Tensor:
    matrix = torch.linalg.qr(normal(3, 3, seed=seed)).Q
    return matrix * (determinant * torch.linalg.det(matrix))


class TestForms:
    def test_the_determinant_form_is_a_sum_of_determinants(self):
        q, k, second = (normal(7, 12, seed=seed) for seed in range(3))
        vectors = torch.stack([x.unflatten(-1, (3, 4)) for x in (q, k, second)], -1).transpose(1, 2)
        expected = torch.linalg.det(vectors).sum(-1)
        torch.testing.assert_close(naive.form_of(q, k, second, "determinant"), expected, rtol=0, atol=1e-12)

    def test_channels_left_over_enter_by_their_product(self):
        q, k, second = (normal(5, 8, seed=seed) for seed in range(3))
        rest = naive.form_of(*(x[..., 6:] for x in (q, k, second)), "trilinear")
        vectors = naive.form_of(*(x[..., :6] for x in (q, k, second)), "determinant")
        torch.testing.assert_close(naive.form_of(q, k, second, "determinant"), vectors + rest, rtol=0, atol=1e-12)

    def test_swapping_arguments_changes_the_sign_of_one_form_and_nothing_of_the_other(self):
        q, k, second = (normal(5, 9, seed=seed) for seed in range(3))
        for form, factor in (("trilinear", 1), ("determinant", -1)):
            swapped = naive.form_of(q, second, k, form)
            torch.testing.assert_close(swapped, factor * naive.form_of(q, k, second, form), rtol=0, atol=1e-12)

    @pytest.mark.parametrize("form", FORMS)
    def test_an_unknown_form_or_an_empty_window_is_refused(self, form):
        q, k, v, second_k, second_v = five(4, 6)
        with pytest.raises(ValueError, match="got form 'pairwise'"):
            operators.attention(q, k, v, second_k, second_v, (2, 2), "pairwise")
        with pytest.raises(ValueError, match=r"window \(2, 0\)"):
            operators.attention(q, k, v, second_k, second_v, (2, 0), form)
        with pytest.raises(ValueError, match="N <= S"):
            operators.attention(q, k[:, :, 1:], v[:, :, 1:], second_k, second_v, (2, 2), form)

    @pytest.mark.parametrize("window", ["32", "32;8", "0,8", "32,-1", "a,b", ""])
    def test_a_window_that_is_not_two_sizes_is_refused(self, window):
        with pytest.raises(ConfigError, match="--simplicial-window: got .*need two positive whole numbers, as in 32,8"):
            SimplicialKnobs(window=window)

    def test_the_command_line_takes_windows_and_names_what_is_wrong(self, capsys):
        wanted = ["--attention-type", "simplicial", "--simplicial-window"]
        assert parse([*wanted, "16,4"]).config.model.knobs["simplicial"].windows == (16, 4)
        with pytest.raises(SystemExit, match="2"):
            parse([*wanted, "16", "--simplicial-form", "pairwise"])
        error = capsys.readouterr().err
        assert "--simplicial-window: got '16', need two positive whole numbers" in error
        assert "unknown --simplicial-form 'pairwise'" in error

    def test_determinants_need_three_channels(self):
        config = GPTConfig(n_layer=1, n_embd=8, n_head=4, vocab_size=16, attention_type="simplicial",
                           knobs={"simplicial": SimplicialKnobs(form="determinant")})  # fmt: skip
        with pytest.raises(ConfigError, match="got 2 channels per head, need at least 3"):
            GPT(config)


class TestRotations:
    """q, k and k' turn together by one rotation of 3-space: the determinant form does not notice."""

    def moved(self, form: str, matrix: Tensor) -> float:
        q, k, v, second_k, second_v = five(20, 12)
        turned = (turn(q, matrix), turn(k, matrix), v, turn(second_k, matrix), second_v)
        before = operators.attention(q, k, v, second_k, second_v, (8, 4), form)
        return (operators.attention(*turned, (8, 4), form) - before).abs().max().item()

    @pytest.mark.parametrize("seed", range(5))
    def test_determinants_are_invariant_and_trilinear_scores_are_not(self, seed):
        matrix = orthogonal(1, seed)
        assert self.moved("determinant", matrix) < 1e-10
        assert self.moved("trilinear", matrix) > 0.01

    def test_a_reflection_is_noticed(self):
        assert self.moved("determinant", orthogonal(-1)) > 0.01

    def test_vectors_rotate_with_the_values_equivariantly(self):
        """Where v carries vectors too and v' scalars (equal on the axes of a vector), the output turns with them."""
        q, k, v, second_k, second_v = five(20, 12)
        second_v = second_v[..., :4].repeat(1, 1, 1, 3)
        matrix = orthogonal(1)
        q2, k2, v2, second_k2 = (turn(x, matrix) for x in (q, k, v, second_k))
        before = operators.attention(q, k, v, second_k, second_v, (8, 4), "determinant")
        after = operators.attention(q2, k2, v2, second_k2, second_v, (8, 4), "determinant")
        torch.testing.assert_close(after, turn(before, matrix), rtol=0, atol=1e-10)
        assert (operators.attention(q2, k2, v2, second_k2, second_v, (8, 4)) - turn(before, matrix)).abs().max() > 0.01

    def shifted(self, form: str, rotation) -> float:
        """How much the scores of fixed vectors change when all positions move by 37."""
        q, k, second = (normal(1, 1, 1, 12, seed=seed) for seed in range(3))
        found = []
        for start in (0, 37):
            cos, sin = (table.double() for table in rotary_table(64, 12, 100.0))
            places = [(table[start + at : start + at + 1]) for at in (9, 4, 7) for table in (cos, sin)]
            turned = [rotation(x, (places[2 * n], places[2 * n + 1])) for n, x in enumerate((q, k, second))]
            found.append(naive.form_of(*turned, form))
        return (found[0] - found[1]).abs().item()

    def test_rotary_positions_are_relative_for_determinants_only(self):
        assert self.shifted("determinant", rotate_triples) < 1e-5
        assert self.shifted("trilinear", rotate_triples) > 0.01
        assert self.shifted("trilinear", rotate) > 0.01


class TestTriangles:
    """Three tokens meet in one weight; a product of pairwise weights has no such term."""

    def cross_ratio(self, weights: Tensor) -> float:
        """Largest third-order interaction of log weights at (i, j, l): 0 where they are sums over pairs."""
        logs = weights.log()
        for axis in range(3):
            logs = logs.narrow(axis, 1, 1) - logs.narrow(axis, 0, 1)
        return logs.abs().max().item()

    @pytest.mark.parametrize("form", FORMS)
    def test_weights_do_not_factor_over_pairs(self, form):
        q, k, second = (normal(2, 6, seed=seed) for seed in range(3))
        scores = naive.form_of(q[:, None, None], k[None, :, None], second[None, None], form)
        assert self.cross_ratio(scores.flatten(1).softmax(-1).view(2, 2, 2)) > 0.1

    def test_those_of_two_hop_diffusion_do(self):
        q, k = normal(2, 6), normal(2, 6, seed=1)
        first, second = (q @ k.T).softmax(-1), (k @ q.T).softmax(-1)
        assert self.cross_ratio(first[:, :, None] * second[None]) < 1e-12

    def test_those_of_two_keys_added_do(self):
        """The wrong fold, q.k + q.k', is pairwise attention twice."""
        q, k, second = (normal(2, 6, seed=seed) for seed in range(3))
        scores = (q @ k.T)[:, :, None] + (q @ second.T)[:, None]
        assert self.cross_ratio(scores.flatten(1).softmax(-1).view(2, 2, 2)) < 1e-12

    def test_one_head_solves_match3_without_training(self):
        """Bits as (-1)^bit: the trilinear score of x, y, z is the number of bits exactly where x ^ y ^ z = 0.

        A token before the others offers every query a pair of one bit less, so that the mass on the others says whether
        some pair reaches all bits.
        """
        bits, length = 5, 14
        tokens = match3_tokens(200, length, bits, torch.Generator().manual_seed(0))
        vectors = F.pad(-signs(tokens, bits).double(), (0, 1))  # a channel of its own for the token before the others
        first = torch.zeros(len(tokens), 1, bits + 1, dtype=torch.float64)
        first[..., -1] = (bits - 1) ** 0.5
        keys = torch.cat((first, vectors), 1)[:, None]
        sharp = 40 * (bits + 1) ** 0.5
        queries = torch.cat((vectors[..., :-1], torch.ones_like(vectors[..., :1])), -1)
        queries = torch.cat((torch.zeros_like(first), queries), 1)[:, None] * sharp
        values = (keys[..., -1:] == 0).double().expand_as(keys)
        mass = operators.attention(queries, keys, values, keys, values, (length + 1, length + 1))[:, 0, 1:, 0]
        for place in range(length):
            past = tokens[:, : place + 1]
            exists = ((past[:, :, None] ^ past[:, None]) == tokens[:, place, None, None]).flatten(1).any(1)
            assert torch.equal(mass[:, place] > 0.5, exists)

    def test_no_pair_of_tokens_knows_anything_of_match3(self):
        """All triples of 2-bit words: given that they match or not, each pair is distributed as before."""
        triples = torch.tensor(list(product(range(4), repeat=3)))
        match = triples[:, 0] ^ triples[:, 1] ^ triples[:, 2] == 0
        for a, b in ((0, 1), (0, 2), (1, 2)):
            counts = torch.zeros(2, 16, dtype=torch.long)
            counts.index_put_((match.long(), 4 * triples[:, a] + triples[:, b]), torch.tensor(1), accumulate=True)
            assert (counts[1] == counts[1, 0]).all() and (counts[0] == counts[0, 0]).all()


class TestWindows:
    @pytest.mark.parametrize("form", FORMS)
    def test_a_token_is_seen_inside_its_windows_and_nowhere_else(self, form):
        inputs = five(30, 6)
        before = operators.attention(*inputs, (7, 3), form)
        for which, window in ((1, 7), (2, 7), (3, 3), (4, 3)):
            changed = list(inputs)
            changed[which] = changed[which].clone()
            changed[which][:, :, 10] += 1
            moved = (operators.attention(*changed, (7, 3), form) != before).any(-1)[0, 0].nonzero().flatten()
            assert moved.tolist() == list(range(10, 10 + window))

    def test_without_the_mask_the_future_is_seen(self):
        q, k, v, second_k, second_v = five(12, 6)
        scores = naive.form_of(q[..., :, None, None, :], k[..., None, :, None, :], second_k[..., None, None, :, :],
                               "trilinear")  # fmt: skip
        p = (scores * 6**-0.5).flatten(-2).softmax(-1).view(scores.shape)
        unmasked = torch.einsum("bhijl,bhjd,bhld->bhid", p, v, second_v)
        masked = operators.attention(q, k, v, second_k, second_v, (12, 12))
        torch.testing.assert_close(unmasked[:, :, -1], masked[:, :, -1], rtol=0, atol=1e-12)
        assert (unmasked[:, :, :-1] - masked[:, :, :-1]).abs().amin(-1).min() > 1e-6

    @pytest.mark.parametrize("form", FORMS)
    @pytest.mark.parametrize("position", ["rope", "none"])
    def test_what_lies_before_the_windows_changes_nothing(self, form, position):
        """Positions are relative: a longer past moves neither form's output. Rotary pairs on triple products do."""
        knobs = {"simplicial": SimplicialKnobs(window="5,3", form=form)}
        mixer = build("simplicial", n_embd=24, n_head=2, position=position, knobs=knobs).double()
        nn.init.normal_(mixer.out.weight)
        x = normal(1, 40, 24)
        rope = None if position == "none" else rotary_table(40, 12, 100.0)
        start = None if rope is None else (rope[0][:20], rope[1][:20])
        whole, part = mixer(x, rope)[:, 25:], mixer(x[:, 20:], start)[:, 5:]
        torch.testing.assert_close(whole, part, rtol=0, atol=1e-5)
        if position == "rope" and form == "trilinear":
            q, k, v = mixer.project(x, rope)
            q2, k2, v2 = mixer.project(x[:, 20:], start)
            absolute = operators.attention(q, k, v, k, v, (5, 3))[:, :, 25:]
            assert (absolute - operators.attention(q2, k2, v2, k2, v2, (5, 3))[:, :, 5:]).abs().max() > 0.01

    def test_penalties_tell_the_order_of_the_window_apart(self):
        mixer = build("simplicial", n_embd=24, n_head=2).double()
        nn.init.normal_(mixer.out.weight)
        x, rope = normal(1, 9, 24), rotary_table(9, 12, 100.0)
        swapped = x[:, [1, 0, *range(2, 9)]]
        assert (mixer(x, rope)[:, 8] - mixer(swapped, rope)[:, 8]).abs().max() > 1e-4
        blind = build(
            "simplicial", n_embd=24, n_head=2, position="none", knobs={"simplicial": SimplicialKnobs(window="9,9")}
        )
        blind = blind.double()
        nn.init.normal_(blind.out.weight)
        torch.testing.assert_close(blind(x, None)[:, 8], blind(swapped, None)[:, 8], rtol=0, atol=1e-12)

    @pytest.mark.parametrize("window", ["1,1", "4,1", "1,4", "3,7", "32,8"])
    def test_decoding_keeps_two_windows_however_long_the_sequence(self, window):
        knobs = {"simplicial": SimplicialKnobs(window=window)}
        config = GPTConfig(n_layer=2, n_embd=24, n_head=4, n_kv_head=2, vocab_size=64, sequence_len=8, knobs=knobs,
                           attention_type="simplicial")  # fmt: skip
        model = GPT(config).double()
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.2)
        idx = torch.randint(64, (2, 61), generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            full, cache = model(idx), model.init_cache(2, 61)
            parts = [
                model(idx[:, a:b], cache=cache) for a, b in ((0, 1), (1, 2), (2, 40), (40, 41), (41, 43), (43, 61))
            ]
        torch.testing.assert_close(torch.cat(parts, 1), full, rtol=0, atol=1e-12)
        first, second = (int(size) for size in window.split(","))
        rows = [tensor.shape[2] for tensor in cache.layers[0].kept]
        assert rows == [first - 1, first - 1, second - 1, second - 1]


def signs(tokens: Tensor, bits: int) -> Tensor:
    """Bits of each token as +-1, (..., bits)."""
    return ((tokens[..., None] >> torch.arange(bits)) & 1) * 2.0 - 1


def match3_tokens(count: int, length: int, bits: int, generator: torch.Generator) -> Tensor:
    """Sequences of different words, none of them 0."""
    return torch.rand(count, 2**bits - 1, generator=generator).argsort(1)[:, :length] + 1


def match3(count: int, length: int, bits: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Balanced sequences and whether the last word is the XOR of two others. Source: arXiv:2306.02896."""
    tokens = match3_tokens(6 * count, length, bits, generator)
    label = ((tokens[:, :-1, None] ^ tokens[:, None, :-1]) == tokens[:, -1:, None]).flatten(1).any(1)
    kept = torch.cat((label.nonzero()[: count // 2], (~label).nonzero()[: count // 2])).flatten()
    assert len(kept) == count
    return signs(tokens[kept], bits), label[kept].float()


class TwoHop(nn.Module):
    """Diffusion A (A v) with the baseline's weights: not simplicial."""

    def __init__(self, mixer: nn.Module):
        super().__init__()
        self.mixer = mixer

    def forward(self, x: Tensor, rope: None) -> Tensor:
        q, k, v = self.mixer.project(x, rope)
        y = self.mixer.attend(q, k, self.mixer.attend(q, k, v))
        return self.mixer.out(y.transpose(1, 2).reshape(x.shape))


class Reader(nn.Module):
    """One block that answers at the last word."""

    def __init__(self, arm: str, length: int, bits: int, width: int):
        super().__init__()
        name = "simplicial" if arm == "simplicial" else "standard"
        knobs = {name: SimplicialKnobs(window=f"{length},{length}")} if name == arm == "simplicial" else {}
        mixer = build(name, n_embd=width, n_head=1, position="none", knobs=knobs)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            mixer.out.weight.copy_(torch.randn(width, width, generator=generator) * width**-0.5)
        self.mixer = TwoHop(mixer) if arm == "two-hop" else mixer
        self.embed = nn.Linear(bits, width)
        # What k' and v' take, 2 width^2, the other arms have in a wider feed-forward part.
        hidden = 2 * width if name == "simplicial" else 4 * width
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, 1)
        with torch.no_grad():
            for parameter in (*self.embed.parameters(), *self.up.parameters(), *self.down.parameters()):
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * parameter.shape[-1] ** -0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        x = x + self.mixer(F.rms_norm(x, x.shape[-1:]), None)
        return self.down(F.relu(self.up(x[:, -1])))[:, 0]


def accuracy(arm: str, steps: int, *, length: int, bits: int, batch: int, rate: float = 3e-3) -> float:
    """Of fresh sequences, after training."""
    generator = torch.Generator().manual_seed(0)
    inputs, labels = match3(10000, length, bits, generator)
    fresh, wanted = match3(2000, length, bits, generator)
    model = Reader(arm, length, bits, 32)
    optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=0)
    for _ in range(steps):
        rows = torch.randint(len(inputs), (batch,), generator=generator)
        loss = F.binary_cross_entropy_with_logits(model(inputs[rows]), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        return ((model(fresh) > 0) == (wanted > 0)).float().mean().item()


SMALL = {"length": 6, "bits": 4, "batch": 128, "rate": 1e-2}
"""Match3 that a head learns in seconds."""


class TestMatch3:
    def test_arms_have_equal_parameters(self):
        sizes = [
            sum(p.numel() for p in Reader(arm, 6, 4, 32).parameters()) for arm in ("simplicial", "standard", "two-hop")
        ]
        assert max(sizes) < 1.02 * min(sizes)

    def test_a_head_learns_it(self):
        assert accuracy("simplicial", 120, **SMALL) > 0.9

    @pytest.mark.parametrize("arm", ["standard", "two-hop"])
    def test_a_pairwise_head_of_equal_size_does_not(self, arm):
        assert accuracy(arm, 120, **SMALL) < 0.65

    @pytest.mark.slow  # a minute: the full size of the claim, 32 words, 10 positions, 500 steps
    @pytest.mark.parametrize(
        ("arm", "low", "high"), [("simplicial", 0.99, 1), ("standard", 0, 0.7), ("two-hop", 0, 0.7)]
    )
    def test_the_full_size(self, arm, low, high):
        assert low <= accuracy(arm, 500, length=10, bits=5, batch=256) <= high
