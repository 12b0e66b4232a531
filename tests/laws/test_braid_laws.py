"""Laws of braids: of the crossing laws in use, of what carries attention, and of the knots that words close to.

Each law has a control that breaks it: the restricted law, a word that is no move away, a total length, a wrong angle.
"""

from __future__ import annotations

import math
import random
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from demos.knot_braid import invariants, words
from demos.knot_braid.invariants import T, alexander, jones, laurent, over_t
from nanochat.attention import _braid_schedule as schedule
from nanochat.attention import braid, build
from nanochat.attention.braid import BraidKnobs, choose, crossing_weights, frames, gates, generators
from nanochat.attention.heads import softmax_attention
from nanochat.config import ConfigError, GPTConfig, LawBroken
from nanochat.counter import Counter
from nanochat.gpt import GPT

LETTER = {1: 1, 2: 2, -1: 3, -2: 4}
"""Place of a letter among the choices."""


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def one_hot(word: words.Word) -> Tensor:
    """The choices of tokens that spell a word on one braid, (1, 1, T, 5, 1)."""
    places = torch.tensor([LETTER[letter] for letter in word])
    return F.one_hot(places, 5).double()[None, None, ..., None]


def executed(word: words.Word, angle: float, law: str = "ybe") -> Tensor:
    """The unitary matrix that the kernels carry after a word."""
    table = generators(torch.tensor([[angle]], dtype=torch.float64), law)
    _, (quaternion, phase) = frames(one_hot(word), table)
    return schedule.unitary(quaternion[0], phase[0])[0, 0]


def random_word(length: int, count: int, seed: int) -> words.Word:
    generator = random.Random(seed)
    return tuple(generator.choice((-1, 1)) * generator.randrange(1, count) for _ in range(length))


class TestCrossingLaw:
    """(a, b) -> (b, t a + (1 - t) b), exactly: over fractions and over Laurent polynomials."""

    @staticmethod
    def taken(strands: tuple, places: tuple[int, ...], keep) -> tuple:
        for place in places:
            strands = (*strands[:place], *schedule.cross(*strands[place : place + 2], keep), *strands[place + 2 :])
        return strands

    VALUES = (Fraction(3, 7), Fraction(-5), Fraction(2, 11), Fraction(9, 4))

    @pytest.mark.parametrize("keep", [Fraction(2, 3), Fraction(-4), T], ids=str)
    def test_yang_baxter_holds_for_ybe_and_fails_for_restricted(self, keep):
        values = tuple(laurent({k: k + 1, 2: 3}) for k in range(3)) if keep is T else self.VALUES[:3]
        assert self.taken(values, (0, 1, 0), keep) == self.taken(values, (1, 0, 1), keep)
        assert self.taken(values, (0, 1, 0), None) != self.taken(values, (1, 0, 1), None)

    @pytest.mark.parametrize("keep", [Fraction(2, 3), None])
    def test_crossings_without_a_common_strand_commute_and_neighbours_do_not(self, keep):
        assert self.taken(self.VALUES, (0, 2), keep) == self.taken(self.VALUES, (2, 0), keep)
        assert self.taken(self.VALUES, (0, 1), keep) != self.taken(self.VALUES, (1, 0), keep)

    def test_of_all_laws_b_pa_plus_qb_only_two_families_pass(self):
        for p in range(-3, 4):
            for q in range(-3, 4):
                ends = []
                for order in ((0, 1, 0), (1, 0, 1)):
                    strands = [Fraction(1), Fraction(5), Fraction(-2)]
                    for place in order:
                        a, b = strands[place : place + 2]
                        strands[place : place + 2] = b, p * a + q * b
                    ends.append(strands)
                assert (ends[0] == ends[1]) == (q in (0, 1 - p))

    def test_residual_that_is_recorded(self):
        assert schedule.triple_residual(torch.tensor([0.3, 0.9], dtype=torch.float64)) < 1e-15
        assert schedule.triple_residual(None) > 1


class TestCrossingForm:
    q, k, v = normal(1, 2, 9, 4, seed=1), normal(1, 2, 9, 4, seed=2), normal(1, 2, 9, 4, seed=3)

    @staticmethod
    def strand_by_strand(gate: Tensor, v: Tensor, keep: Tensor | None, backwards: bool = False) -> Tensor:
        """The definition: every query's strand passes its tokens one after the other."""
        out = []
        for row in range(gate.shape[2]):
            strand, seen = torch.zeros_like(v[:, :, 0]), gate.shape[3] - gate.shape[2] + row + 1
            for j in reversed(range(seen)) if backwards else range(seen):
                met = schedule.cross(strand, v[:, :, j], None if keep is None else keep[:, None])[1]
                strand = strand + gate[:, :, row, j, None] * (met - strand)
            out.append(strand if keep is not None else strand / seen)
        return torch.stack(out, 2)

    @pytest.mark.parametrize("keep", [None, torch.tensor([0.9, 0.3], dtype=torch.float64)], ids=["restricted", "ybe"])
    @pytest.mark.parametrize("queries", [9, 1, 4])
    def test_weights_are_the_definition_with_every_gradient(self, keep, queries):
        results = []
        for fast in (True, False):
            given = {"q": self.q[:, :, -queries:], "k": self.k, "v": self.v}
            given |= {} if keep is None else {"keep": keep}
            given = {name: x.clone().requires_grad_() for name, x in given.items()}
            gate, law = gates(given["q"], given["k"]), given.get("keep")
            y = crossing_weights(gate, law) @ given["v"] if fast else self.strand_by_strand(gate, given["v"], law)
            results.append((y, *torch.autograd.grad((y * normal(*y.shape, seed=7)).sum(), list(given.values()))))
        for name, one, other in zip(("y", *given), *results, strict=True):
            assert (one - other).abs().max() < 1e-10, name

    def test_order_matters_for_ybe_alone(self):
        gate, keep = gates(self.q, self.k), torch.tensor([0.9, 0.3], dtype=torch.float64)
        for law, sees in ((keep, True), (None, False)):
            ends = [self.strand_by_strand(gate, self.v, law, backwards) for backwards in (False, True)]
            assert ((ends[0] - ends[1]).abs().max() > 0.01) == sees

    @pytest.mark.parametrize("keep", [None, torch.tensor([0.9, 0.3], dtype=torch.float64)], ids=["restricted", "ybe"])
    def test_what_comes_later_is_not_in_the_norm(self, keep):
        gate = gates(self.q, self.k)
        whole = crossing_weights(gate, keep)
        assert torch.equal(whole[:, :, :5, :5], crossing_weights(gate[:, :, :5, :5], keep))
        by_total = gate / gate.shape[-1]
        assert (by_total[:, :, :5, :5] - gate[:, :, :5, :5] / 5).abs().max() > 0.01

    def test_no_token_takes_from_another(self):
        """A louder key changes its own weight only; in softmax attention it changes all."""
        louder = self.k.clone()
        louder[:, :, 2] *= 3
        before, after = (gates(self.q, k)[0, 0, -1] for k in (self.k, louder))
        assert (before != after).nonzero().flatten().tolist() == [2]
        shares = [(self.q @ k.mT).softmax(-1)[0, 0, -1] for k in (self.k, louder)]
        assert (shares[0] != shares[1]).all()

    def test_all_crossed_is_the_running_mean(self):
        gate = gates(self.q, self.k, tau=-1e4)
        mean = self.v.cumsum(2) / torch.arange(1, 10, dtype=torch.float64)[:, None]
        assert (crossing_weights(gate, None) @ self.v - mean).abs().max() < 1e-12
        assert (crossing_weights(gates(self.q, self.k), None) @ self.v - mean).abs().max() > 0.01
        assert gates(self.q, self.k, tau=1e4).abs().max() == 0


class TestGenerators:
    ANGLES = torch.linspace(-3, 3, 25, dtype=torch.float64)[:, None]

    def test_artin_holds_at_every_angle_and_for_restricted_only_at_quarter_turns(self):
        assert schedule.yang_baxter(generators(self.ANGLES)) < 1e-14
        apart = [schedule.yang_baxter(generators(angle[:, None], "restricted")) for angle in self.ANGLES]
        assert min(apart) > 1e-3 and max(apart) > 0.9
        quarter = torch.tensor([[math.acos(math.sqrt(2 / 3))]], dtype=torch.float64)
        assert schedule.yang_baxter(generators(quarter, "restricted")) < 1e-14

    def test_a_wrong_constant_breaks_artin(self):
        real, phase, a, b, c, d = generators(self.ANGLES)
        bent = (a * 1.01, b * 1.01, c * 1.01, d * 1.01)
        scale = [(real.square() + x.square() + y.square()).sqrt() for x, y in (bent[:2], bent[2:])]
        parts = [part / scale[place // 2] for place, part in enumerate(bent)]
        assert schedule.yang_baxter((real / scale[0], phase, *parts)) > 1e-3

    @pytest.mark.parametrize("angle", [0.4, 1.1, math.pi / 2, -0.7])
    def test_it_is_the_reduced_burau_representation(self, angle):
        """Traces and determinants of words: what they are at t = -e^(2 i phase), and at no other t."""
        t = -complex(math.cos(2 * self.phase(angle)), math.sin(2 * self.phase(angle)))
        for seed in range(12):
            word = random_word(15, 3, seed)
            got, exact = executed(word, angle), invariants.burau(word, 3)
            trace, determinant = exact[0][0] + exact[1][1], invariants.determinant(exact)
            assert abs(got.diagonal().sum().item() - trace(t)) < 1e-10
            assert abs(torch.linalg.det(got).item() - determinant(t)) < 1e-10
            elsewhere = t * complex(math.cos(0.5), math.sin(0.5))
            assert abs(torch.linalg.det(got).item() - determinant(elsewhere)) > 0.1  # 15 letters: an odd power of t

    @staticmethod
    def phase(angle: float) -> float:
        return math.acos(3**0.5 / 2 * math.cos(angle))

    @pytest.mark.parametrize("count", [3, 4, 5])
    def test_squiers_form_is_kept_by_burau_exactly(self, count):
        """J: s + 1/s on the diagonal and -1 beside it, s^2 = t; the bar is s -> 1/s; entry (i, j) times s^(j - i)."""
        place = range(count - 1)
        near, diagonal = {0: laurent({1: 1, -1: 1}), 1: laurent({0: -1})}, {0: laurent({0: 2}), 1: laurent({0: -1})}
        forms = [tuple(tuple(f.get(abs(i - j), laurent({})) for j in place) for i in place) for f in (near, diagonal)]
        for letter in range(1, count):
            burau = invariants.burau_letter(letter, count)
            scaled = tuple(tuple(burau[i][j].at_power(2) * laurent({j - i: 1}) for j in place) for i in place)
            adjoint = tuple(tuple(scaled[j][i].at_power(-1) for j in place) for i in place)
            kept = [invariants.product(invariants.product(adjoint, form), scaled) == form for form in forms]
            assert kept == [True, False]

    def test_squiers_form_is_definite_on_our_arc_and_not_outside(self):
        def signs(half: float) -> list[float]:
            form = torch.tensor([[2 * math.cos(half), -1], [-1, 2 * math.cos(half)]])
            return torch.linalg.eigvalsh(form).sign().tolist()

        for angle in (0.01, 0.4, 1.0, 1.5, -0.7, 3.0):
            half = self.phase(angle) + math.pi / 2  # t = s^2 = e^(2 i half) is -e^(2 i phase)
            assert len(set(signs(half))) == 1
        assert signs(1.2) == [-1, 1]  # arg t = 2.4 > 2 pi / 3

    @pytest.mark.parametrize(("order", "elements"), [(2, 6), (3, 24), (4, 96), (5, 600)])
    def test_at_these_orders_the_image_is_coxeters_finite_group(self, order, elements):
        angle = math.acos(2 * math.cos(math.pi / order) / 3**0.5)
        both = torch.stack([executed((letter,), angle) for letter in (1, 2)])
        found, new = torch.empty(0, 2, 2, dtype=torch.complex128), torch.eye(2, dtype=torch.complex128)[None]
        while len(new):
            found = torch.cat((found, new))
            reached = (new[:, None] @ both).flatten(0, 1)
            fresh: list[Tensor] = []
            for one in reached:
                if not any((one - other).abs().max() < 1e-6 for other in fresh):
                    fresh.append(one)
            reached = torch.stack(fresh)
            known = (reached[:, None] - found).abs().amax((-1, -2)).amin(1) < 1e-6
            new = reached[~known]
            assert len(found) <= 600
        assert len(found) == elements
        assert (torch.linalg.matrix_power(both[0], order) - torch.eye(2)).abs().max() < 1e-12

    def test_starting_angles_have_those_orders(self):
        mixer = build("braid", n_embd=128, n_head=2)
        _, phase, *_ = mixer.double().table()
        assert torch.allclose(math.pi / phase[0], torch.tensor([2.0, 3, 4, 5, 2, 3, 4, 5], dtype=torch.float64))

    def test_where_strands_do_not_braid_crossings_commute(self):
        assert (executed((1, 2), 0.0) - executed((2, 1), 0.0)).abs().max() < 1e-12
        assert (executed((1, 2), 0.5) - executed((2, 1), 0.5)).abs().max() > 0.1


class TestSoftCrossings:
    """What remains exact when tokens choose by degrees."""

    TABLE = generators(normal(2, 3, seed=5))

    @staticmethod
    def last(choice: Tensor, table: braid.Table) -> Tensor:
        _, (quaternion, angle) = frames(choice, table)
        return schedule.unitary(quaternion[0], angle[0])

    def test_frames_are_unitary_and_equal_products_of_projected_mixtures(self):
        choice = choose(normal(1, 2, 40, 4, 3))
        got = self.last(choice, self.TABLE)
        start = torch.zeros(2, 4, 3, dtype=torch.float64)
        start[:, 0] = 1
        assert (got @ got.mH - torch.eye(2)).abs().max() < 1e-12
        assert (got - schedule.moved(self.TABLE, choice[0], (start, start[:, 1]))).abs().max() < 1e-12
        matrices, _ = schedule.choices(self.TABLE)
        mixture = (choice[0].permute(1, 2, 0, 3)[0][..., None, None] * matrices).sum(0)
        left, _, right = torch.linalg.svd(mixture)
        projected = frames(choice[:, :, :1], self.TABLE)[1][0][0]
        assert (left @ right - schedule.matrix(projected.transpose(0, 1))).abs().max() < 1e-12  # the nearest unitary
        assert (mixture @ mixture.mH - torch.eye(2)).abs().max() > 0.01  # which the mixture is not

    def test_weights_exchanged_with_the_inverses_undo_a_token(self):
        choice = choose(normal(1, 2, 6, 4, 3))
        undone = choice[:, :, :, [0, 3, 4, 1, 2]].flip(2)
        unit = self.last(torch.cat((choice, undone), 2), self.TABLE)
        assert (unit - torch.eye(2)).abs().max() < 1e-12
        assert (self.last(torch.cat((choice, choice), 2), self.TABLE) - torch.eye(2)).abs().max() > 0.1

    @pytest.mark.parametrize(("law", "holds"), [("ybe", True), ("restricted", False)])
    def test_a_soft_crossing_slides_under_two_whole_ones(self, law, holds):
        """s1 s2 g = g' s1 s2 where g hesitates about s1 and g' as much about s2."""
        table = generators(torch.tensor([[0.4]], dtype=torch.float64), law)
        whole = one_hot((1, 2))
        soft = torch.tensor([0.3, 0.5, 0, 0.2, 0], dtype=torch.float64)[None, None, None, :, None]
        moved = soft[:, :, :, [0, 2, 1, 4, 3]]
        one, other = (self.last(torch.cat(order, 2), table) for order in ((whole, soft), (moved, whole)))
        assert ((one - other).abs().max() < 1e-12) == holds

    def test_discrete_is_soft_where_one_choice_has_it_all(self):
        scores = normal(1, 2, 30, 4, 3)
        hard = choose(scores, mode="discrete")
        assert set(hard.unique().tolist()) == {0.0, 1.0} and (hard.sum(-2) == 1).all()
        sharp = choose(1e4 * scores)
        assert (self.last(sharp, self.TABLE) - self.last(hard, self.TABLE)).abs().max() < 1e-10
        assert (self.last(choose(scores), self.TABLE) - self.last(hard, self.TABLE)).abs().max() > 0.1

    @pytest.mark.parametrize("mode", ["soft", "discrete"])
    def test_more_tau_means_fewer_crossings(self, mode):
        scores = normal(1, 2, 200, 4, 3)
        stays = [choose(scores, tau, mode)[..., 0, :].mean().item() for tau in (-2.0, 0.0, 1.0, 4.0)]
        assert stays == sorted(stays) and stays[0] < 0.05 and stays[-1] > 0.85
        assert choose(0 * scores, 0.0, "discrete")[..., 0, :].all()  # a tie stays

    def test_the_straight_through_gradient_is_that_of_the_softmax(self):
        scores, cotangent = normal(1, 1, 5, 4, 2).requires_grad_(), normal(1, 1, 5, 5, 2, seed=3)
        pulled = [torch.autograd.grad(choose(scores, 0.2, mode), scores, cotangent)[0] for mode in ("soft", "discrete")]
        assert torch.equal(*pulled) and pulled[0].any()


class TestMovesOfTheInput:
    """A mixer whose tokens are letters: the logits of the token after a word see the braid, not the word."""

    SIZES = {"n_embd": 32, "n_head": 2, "position": "none"}
    START, END = 0, 5

    def reader(self, law: str = "ybe", mode: str = "discrete") -> tuple:
        knobs = BraidKnobs(mode=mode, crossing_law=law)
        mixer = build("braid", **self.SIZES, knobs={"braid": knobs}).double()
        with torch.no_grad():
            for seed, parameter in enumerate(mixer.parameters()):
                parameter.copy_(normal(*parameter.shape, seed=seed))
            scores = torch.zeros_like(mixer.crossing.weight).unflatten(0, (2, 4, -1))
            for letter, place in LETTER.items():
                scores[:, place - 1, :, self.token(letter)] = 60.0
            mixer.crossing.weight.copy_(scores.flatten(0, 2))
            mixer.value.weight[:, 1:] = 0  # letters move strands and say nothing else
        return mixer, normal(7, 32, seed=50)

    @classmethod
    def token(cls, letter: int) -> int:
        return LETTER[letter]

    def logits(self, reader: tuple, word: words.Word) -> Tensor:
        mixer, head = reader
        tokens = torch.tensor([self.START, *map(self.token, word), self.END])
        return mixer(F.one_hot(tokens, 32).double()[None], None)[0, -1] @ head.mT

    @pytest.mark.parametrize("mode", ["discrete", "soft"])
    def test_second_and_third_moves_change_nothing(self, mode):
        reader, generator = self.reader(mode=mode), random.Random(0)
        for seed in range(8):
            word = random_word(10, 3, seed)
            other = words.shuffled(word, 3, 30, generator)
            assert other != word
            assert (self.logits(reader, word) - self.logits(reader, other)).abs().max() < 1e-10

    def test_what_is_no_move_changes_them(self):
        reader, word = self.reader(), (1, 2, 2, -1, 2, 1, 1)
        for other in ((2, 1, 2, -1, 2, 1, 1), (-1, 2, 2, -1, 2, 1, 1), (*word, 1), word[:-1]):
            assert not words.equal(word, other)
            assert (self.logits(reader, word) - self.logits(reader, other)).abs().max() > 1e-3

    def test_the_restricted_law_sees_third_moves_and_no_second_ones(self):
        reader = self.reader("restricted")
        base = self.logits(reader, (2, 1, 2, 1))
        assert (self.logits(reader, (2, 1, -2, 2, 2, 1)) - base).abs().max() < 1e-10
        assert (self.logits(reader, (2, 2, 1, 2)) - base).abs().max() > 1e-3


class TestWords:
    @pytest.mark.parametrize("count", [3, 4, 5])
    def test_handle_reduction_decides_as_the_free_group_does(self, count):
        generator, trivial = random.Random(count), 0
        unit = words.free_action((), count)
        for seed in range(40):
            word = random_word(7, count, seed)
            other = words.shuffled(word, count, 12, generator) if seed % 2 else random_word(7, count, seed + 100)
            together = (*word, *words.inverse(other))
            same = words.free_action(together, count) == unit
            assert words.equal(word, other) == same
            trivial += same
        assert 20 <= trivial < 40

    @pytest.mark.parametrize("count", [3, 4, 5])
    def test_every_move_keeps_the_burau_matrix(self, count):
        word = (1, 2, 1, -2, *((3, -1) if count > 3 else (2, -1)), *random_word(5, count, count))
        matrix, kinds = invariants.burau(word, count), set()
        for kind, other in words.moves(word, count):
            kinds.add(kind)
            assert invariants.burau(other, count) == matrix
        assert kinds == ({"R2", "R3"} if count == 3 else {"R2", "R3", "far"})
        assert invariants.burau((2, *word[1:]), count) != matrix

    def test_a_free_reduction_is_not_enough(self):
        word = (1, 2, 1, -2, -1, -2)
        assert words.free_reduce(word) == word and words.handle_reduce(word) == ()
        assert words.free_reduce((1, 2, -2, -1, 2)) == (2,)
        assert words.handle_reduce((1, 2, -1, -2)) and not words.equal((1, 2), (2, 1))

    def test_permutation_and_components(self):
        assert words.permutation((1, 2)) == (2, 0, 1)
        assert [words.components(word) for word in ((1, 1, 1), (1, 1), (1, -2, 1, -2, 1, -2))] == [1, 2, 3]

    def test_words_of_users(self):
        assert words.parse("1 -2 1") == (1, -2, 1) and words.parse("") == ()
        with pytest.raises(ValueError, match="other than 0"):
            words.parse("1 0")


KNOTS = {
    "unknot": ("1 2", {0: 1}, {0: 1}),
    "3_1": ("1 1 1", {-1: 1, 0: -1, 1: 1}, {1: 1, 3: 1, 4: -1}),
    "4_1": ("1 -2 1 -2", {-1: -1, 0: 3, 1: -1}, {-2: 1, -1: -1, 0: 1, 1: -1, 2: 1}),
    "5_1": ("1 1 1 1 1", {-2: 1, -1: -1, 0: 1, 1: -1, 2: 1}, {2: 1, 4: 1, 5: -1, 6: 1, 7: -1}),
    "5_2": ("1 1 1 2 -1 2", {-1: 2, 0: -3, 1: 2}, {1: 1, 2: -1, 3: 2, 4: -1, 5: 1, 6: -1}),
    "6_1": ("1 1 2 -1 -3 2 -3", {-1: -2, 0: 5, 1: -2}, {-2: 1, -1: -1, 0: 2, 1: -2, 2: 1, 3: -1, 4: 1}),
    "6_2": (
        "1 1 1 -2 1 -2",
        {-2: -1, -1: 3, 0: -3, 1: 3, 2: -1},
        {-1: 1, 0: -1, 1: 2, 2: -2, 3: 2, 4: -2, 5: 1},
    ),
    "6_3": (
        "1 1 -2 1 -2 -2",
        {-2: 1, -1: -3, 0: 5, 1: -3, 2: 1},
        {-3: -1, -2: 2, -1: -2, 0: 3, 1: -2, 2: 2, 3: -1},
    ),
}
"""Braid, Alexander and Jones polynomial of the standard tables; of a chiral knot the mirror image that the braid is."""


class TestKnots:
    @pytest.mark.parametrize("name", KNOTS)
    def test_alexander_by_burau_and_jones_by_kauffman(self, name):
        text, delta, v = KNOTS[name]
        word = words.parse(text)
        assert alexander(word) == laurent(delta)
        assert over_t(jones(word)) == laurent(v)
        mirror = tuple(-letter for letter in word)
        assert alexander(mirror) == laurent(delta)
        assert over_t(jones(mirror)) == over_t(jones(word)).at_power(-1)

    def test_links(self):
        assert jones((1, 1)) == laurent({1: -1, 5: -1})  # in t^(1/2): the positive Hopf link
        assert jones((), 2) == laurent({-1: -1, 1: -1})
        with pytest.raises(ValueError, match="even"):
            over_t(jones((1, 1)))

    def test_markov_moves_keep_them_and_a_crossing_change_does_not(self):
        word = words.parse("1 -2 1 -2 -2 1")
        delta, v = alexander(word), jones(word)
        for other in ((*word, 3), (*word, -3), (2, *word, -2), (*word[2:], *word[:2])):
            assert alexander(other) == delta and jones(other) == v
        assert alexander((-1, *word[1:])) != delta and jones((-1, *word[1:])) != v

    def test_both_give_the_determinant(self):
        """|Delta(-1)| = |V(-1)|, and V(1) = (-2)^(components - 1), on random links."""
        for seed in range(30):
            count = 2 + seed % 3
            word = random_word(7, count, seed)
            assert abs(abs(alexander(word, count)(-1)) - abs(jones(word, count)(1j))) < 1e-9
            assert jones(word, count)(1) == (-2) ** (words.components(word, count) - 1)

    def test_artin_and_far_commutation_of_burau_in_exact_arithmetic(self):
        for count in (3, 4, 5):
            for i in range(1, count):
                assert invariants.burau((i, -i), count) == invariants.identity(count - 1)
                for j in range(1, count):
                    near = invariants.burau((i, j, i), count) == invariants.burau((j, i, j), count)
                    far = invariants.burau((i, j), count) == invariants.burau((j, i), count)
                    assert (near, far) == ((True, True) if i == j else (abs(i - j) == 1, abs(i - j) > 1))

    def test_division_refuses_a_remainder(self):
        with pytest.raises(ValueError, match="without a remainder"):
            (T + 2).over(1 - T)


COMBINATIONS = [
    {"mode": "discrete", "crossing_law": "restricted"},
    {"form": "crossing", "crossing_law": "restricted"},
    {"form": "crossing", "mode": "discrete"},
    {"form": "crossing", "mode": "discrete", "crossing_law": "restricted"},
]
"""Options together; one at a time the contract suite tries them."""


def model(options: dict, **others) -> GPT:
    sizes = {"n_layer": 2, "n_head": 4, "n_kv_head": 2, "n_embd": 32, "vocab_size": 50, "sequence_len": 33}
    found = GPT(GPTConfig(**sizes, attention_type="braid", knobs={"braid": BraidKnobs(**options)}, **others))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in found.parameters():
            if not parameter.any():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * parameter.shape[-1] ** -0.5)
    return found


def tokens(length: int = 33) -> Tensor:
    return torch.randint(50, (2, length), generator=torch.Generator().manual_seed(1))


class TestOptionsTogether:
    @pytest.mark.parametrize("options", COMBINATIONS, ids=str)
    def test_decoding_gradients_and_ledger(self, options):
        whole, idx = model(options).double(), tokens()
        cache = whole.init_cache(2, 33)
        with torch.no_grad():
            parts = torch.cat([whole(part, cache=cache) for part in idx.split([5, 1, 20, 7], 1)], 1)
            assert (parts - whole(idx)).abs().max() < 1e-10
        single = model(options)
        ledger = single.flops(33)
        with Counter() as forward:
            loss = single(idx, idx)
        with Counter() as backward:
            loss.backward()
        for counted, declared in ((forward.operations, ledger.forward), (backward.operations, ledger.backward)):
            assert counted.matmul == pytest.approx(66 * declared.matmul, rel=0.01)
            assert counted.elementwise == pytest.approx(66 * declared.elementwise, rel=0.05)
        assert all(parameter.grad.isfinite().all() and parameter.grad.any() for parameter in single.parameters())

    def test_every_option_changes_what_is_computed(self):
        with torch.no_grad():
            base = {form: model({"form": form})(tokens()) for form in ("transport", "crossing")}
            for form, before in base.items():
                for change in ({"mode": "discrete"}, {"tau": 0.7}, {"crossing_law": "restricted"}):
                    assert (model({"form": form, **change})(tokens()) - before).abs().max() > 1e-3, change
                for silent in ({"record_schedule": True}, {"verify": True}):
                    assert torch.equal(model({"form": form, **silent})(tokens()), before)

    def test_wrong_values_are_refused(self):
        for wrong in ({"form": "knot"}, {"mode": "hard"}, {"crossing_law": "yb"}, {"tau": math.nan}):
            with pytest.raises(ConfigError):
                BraidKnobs(**wrong)


WATCHED = {"record_schedule": True, "verify": True}


class TestRecord:
    @pytest.mark.parametrize("options", [{}, {"mode": "discrete"}, *COMBINATIONS], ids=str)
    def test_verified_passes_are_recorded_when_held_out_and_once(self, options):
        found = model(options | WATCHED)
        mixer = found.stack.blocks[1].mixer
        with torch.no_grad():
            found(tokens())
            assert mixer.diagnose() == {}, "training passes are not recorded"
            found.eval()(tokens())
        said = mixer.diagnose()
        assert said["execution"] < 1e-4
        assert (said["yang_baxter"] < 1e-6) == (options.get("crossing_law") != "restricted")
        assert 0 < said["crossed"] < 1 and words.parse(str(said["word"]))
        assert mixer.diagnose() == {}, "asking empties the record"

    def test_the_recorded_word_is_the_matrix_that_was_carried(self):
        """Executed by exact Burau arithmetic, also when the word was spelled token by token."""
        found = model({"mode": "discrete"} | WATCHED).double().eval()
        mixer = found.stack.blocks[0].mixer
        cache = found.init_cache(2, 33)
        with torch.no_grad():
            found(tokens())
            whole = mixer.diagnose()
            for part in tokens().split(11, 1):
                found(part, cache=cache)
            kept = cache.layers[0]
            state = schedule.unitary(kept.quaternions[0], kept.angles[0])[0, 0]
            said = mixer.diagnose()
            phase = mixer.table()[1][0, 0].item()
        assert said["word"] == whole["word"]
        word, t = words.parse(str(said["word"])), -complex(math.cos(2 * phase), math.sin(2 * phase))
        exact = invariants.burau(word, 3)
        assert abs(state.diagonal().sum().item() - (exact[0][0] + exact[1][1])(t)) < 1e-10
        shorter = invariants.burau(word[:-1], 3)
        assert abs(state.diagonal().sum().item() - (shorter[0][0] + shorter[1][1])(t)) > 1e-6

    def test_the_recorded_schedule_is_the_strand_of_the_query(self):
        found = model({"form": "crossing", "mode": "discrete"} | WATCHED).double().eval()
        mixer = found.stack.blocks[0].mixer
        with torch.no_grad():
            found(tokens())
            done = mixer._done
            said = mixer.diagnose()
        crossed = [int(token) for token in str(said["tokens"]).split()]
        strands = [torch.zeros(8, dtype=torch.float64), *done.values[0, crossed]]
        for letter in words.parse(str(said["word"])):
            strands[letter - 1 : letter + 1] = schedule.cross(*strands[letter - 1 : letter + 1], done.keep[0])
        assert (strands[-1] - done.output[0]).abs().max() < 1e-12

    @pytest.mark.parametrize("form", ["transport", "crossing"])
    def test_a_law_that_is_broken_stops_it(self, form, monkeypatch):
        found = model({"form": form, "mode": "discrete", "verify": True}).eval()
        mixer = found.stack.blocks[1].mixer
        if form == "transport":
            real = braid.operators.quaternion_prefix
            monkeypatch.setattr(
                braid.operators, "quaternion_prefix", lambda raw, start: real(raw.roll(1, 2), start)
            )  # every token moves the strands of the one after it
        else:
            monkeypatch.setattr(braid, "crossing_weights", lambda gate, keep: gate / gate.shape[-1])
        with torch.no_grad():
            found(tokens())
        with pytest.raises(LawBroken, match="--braid-verify: layer 1: execution is off by"):
            mixer.diagnose()

    def test_generators_that_are_no_braids_stop_it(self, monkeypatch):
        found = model({"verify": True}).eval()
        monkeypatch.setattr(braid, "generators", lambda angle, law: generators(angle, "restricted"))
        with torch.no_grad():
            found(tokens())
        with pytest.raises(LawBroken, match="yang_baxter is off by"):
            found.stack.blocks[0].mixer.diagnose()


def test_no_crossings_are_softmax_attention():
    assert braid.still_limit() < 1e-12
    q, k, v = (normal(1, 2, 17, 9, seed=seed) for seed in range(3))
    frame, _ = frames(choose(normal(1, 2, 17, 4, 2, seed=4)), generators(normal(2, 2, seed=5)))
    assert (braid.braid_attention(q, k, v, frame) - softmax_attention(q, k, v)).abs().max() > 0.1


def test_strands_stay_unitary_in_single_precision():
    """Of 2048 whole crossings; without the norm of each factor they would drift as fast."""
    scores = normal(1, 1, 2048, 4, 6).float()
    table = generators(normal(1, 6, seed=1).float())
    _, (got, _) = frames(choose(scores, mode="discrete"), table)
    exact = tuple(each.double() for each in table)
    _, (want, _) = frames(choose(scores.double(), mode="discrete"), exact)
    assert (got - want).abs().max() < 1e-3
