"""Laws of quaternions and octonions, and of attention built on them, each with what must break them."""

from __future__ import annotations

import jax
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from demos.octonion import maths
from nanochat.attention import build, octonion, quaternion
from nanochat.attention.heads import Rope, rotary_table, rotate
from nanochat.attention.quaternion import QuaternionKnobs
from nanochat.kernels.hypercomplex import fast, naive
from nanochat.kernels.hypercomplex.linear import HamiltonLinear
from nanochat.kernels.hypercomplex.linear import matrix as real_matrix
from nanochat.kernels.hypercomplex.table import generators, planes, signs

multiply, bar = naive.multiply, naive.conjugate
ATTENTION = {4: quaternion.rotor_attention, 8: octonion.octonion_attention}
T, D = 11, 16


def integers(n: int):
    """Numbers whose products of three are exact in float64: laws hold to the bit."""
    return arrays(np.float64, (n,), elements=st.integers(-64, 64).map(float)).map(torch.from_numpy)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def one(n: int, *units: int) -> torch.Tensor:
    """The sum of the named units."""
    return torch.eye(n, dtype=torch.float64)[list(units)].sum(0)


def unit(n: int, seed: int) -> torch.Tensor:
    return naive.unit(normal(n, seed=seed))


def witness(law, n: int) -> bool:
    """Whether some of a few integer triples break the law."""
    draws = (torch.randint(-9, 10, (3, n), generator=torch.Generator().manual_seed(s)).double() for s in range(5))
    return not all(law(*triple) for triple in draws)


def vanishing(n: int):
    """Units with (e_a + e_b)(e_c - e_d) = 0, by the table."""
    s = signs(n)
    for a, b in planes(n):
        for c in range(n):
            d = a ^ b ^ c
            if s[a][c] == s[b][d] and s[a][d] == s[b][c]:
                yield a, b, c, d


def composes(x, y, _):
    return multiply(x, y).square().sum() == x.square().sum() * y.square().sum()


def associates(x, y, z):
    return torch.equal(multiply(multiply(x, y), z), multiply(x, multiply(y, z)))


def alternates(x, y, _):
    left = torch.equal(multiply(x, multiply(x, y)), multiply(multiply(x, x), y))
    return left and torch.equal(multiply(multiply(y, x), x), multiply(y, multiply(x, x)))


def moufang(x, y, z):
    first = multiply(z, multiply(x, multiply(z, y))), multiply(multiply(multiply(z, x), z), y)
    second = multiply(x, multiply(z, multiply(y, z))), multiply(multiply(multiply(x, z), y), z)
    third = multiply(multiply(z, x), multiply(y, z)), multiply(multiply(z, multiply(x, y)), z)
    return all(torch.equal(*pair) for pair in (first, second, third))


class TestAlgebra:
    @settings(max_examples=25)
    @given(integers(4), integers(4), integers(4))
    def test_quaternions_compose_and_associate(self, x, y, z):
        assert composes(x, y, z) and associates(x, y, z)

    @settings(max_examples=25)
    @given(integers(8), integers(8), integers(8))
    def test_octonions_compose_alternate_and_satisfy_moufang(self, x, y, z):
        assert composes(x, y, z) and alternates(x, y, z) and moufang(x, y, z)

    def test_octonions_do_not_associate(self):
        x, y, z = one(8, 1), one(8, 2), one(8, 4)
        assert torch.equal(multiply(multiply(x, y), z), -multiply(x, multiply(y, z)))
        assert witness(associates, 8) and not witness(associates, 4)

    @pytest.mark.parametrize("law", [composes, alternates, moufang])
    def test_the_next_doubling_loses_the_law(self, law):
        assert witness(law, 16) and not witness(law, 8)

    def test_sedenions_have_zero_divisors(self):
        x, y = next((one(16, a, b), one(16, c) - one(16, d)) for a, b, c, d in vanishing(16))
        assert x.any() and y.any() and not multiply(x, y).any()
        assert not list(vanishing(8))

    @settings(max_examples=25)
    @given(integers(8), integers(8))
    def test_conjugation_reverses_products_and_gives_the_inverse(self, x, y):
        assert torch.equal(bar(multiply(x, y)), multiply(bar(y), bar(x)))
        assert torch.equal(multiply(x, bar(x)), one(8, 0) * x.square().sum())

    @pytest.mark.parametrize("n", [1, 2, 4, 8, 16])
    def test_the_generated_table_is_the_recursion(self, n):
        units = torch.eye(n, dtype=torch.float64)
        products = multiply(units[:, None].expand(n, n, n), units[None].expand(n, n, n))
        for a in range(n):
            for b in range(n):
                assert torch.equal(products[a, b], signs(n)[a][b] * units[a ^ b])

    @pytest.mark.parametrize("n", [4, 8])
    def test_a_table_with_one_wrong_sign_does_not_compose(self, n):
        def norm(table, x, y):
            product = torch.zeros(n, dtype=torch.float64)
            for a in range(n):
                for b in range(n):
                    product[a ^ b] += table[a][b] * x[a] * y[b]
            return product.norm() - x.norm() * y.norm()

        x, y = normal(2, n)
        wrong = [list(row) for row in signs(n)]
        wrong[1][2] *= -1
        assert abs(norm(signs(n), x, y)) < 1e-12 and abs(norm(wrong, x, y)) > 1e-3

    def test_a_dimension_that_is_no_power_of_two_is_refused(self):
        with pytest.raises(ValueError, match="got dimension 6, need a power of two"):
            signs(6)


class TestMaps:
    def test_octonion_maps_span_29_dimensions(self):
        maps = torch.stack(
            [multiply(multiply(torch.eye(8).double(), bar(k)), v).flatten() for k, v in normal(80, 2, 8)]
        )
        assert torch.linalg.matrix_rank(maps) == 29 == len(generators(8))
        assert torch.linalg.matrix_rank(torch.tensor(generators(8), dtype=torch.float64).flatten(1)) == 29

    def test_the_other_bracketing_is_another_map(self):
        k, v, x = normal(3, 8)
        assert (multiply(multiply(x, bar(k)), v) - multiply(x, multiply(bar(k), v))).abs().max() > 0.1

    @pytest.mark.parametrize("n", [4, 8])
    def test_generators_but_the_first_are_antisymmetric_rotations(self, n):
        for matrix in torch.tensor(generators(n))[1:]:
            assert torch.equal(matrix, -matrix.T) and torch.equal(matrix @ matrix.T, torch.eye(n, dtype=torch.long))


def heads(seed: int = 0) -> list[torch.Tensor]:
    return [normal(2, 3, T, D, seed=seed + place) for place in range(3)]


def act(x: torch.Tensor, n: int, left: torch.Tensor | None = None, right: torch.Tensor | None = None) -> torch.Tensor:
    """Multiply every number of every head by ``left`` and then by ``right``."""
    found = naive.numbers(x, n)
    found = found if left is None else multiply(left.to(x.dtype).expand_as(found), found)
    return naive.channels(found if right is None else multiply(found, right.to(x.dtype).expand_as(found)))


def positions(start: int = 0) -> Rope:
    """The rotary table of T positions in float64: the trunk's is rounded to fp32."""
    angles = torch.arange(start, start + T).double()[:, None] * 10000.0 ** (-torch.arange(0, D, 2).double() / D)
    return angles.cos(), angles.sin()


def placed(x: torch.Tensor, n: int, start: int = 0) -> torch.Tensor:
    """Every number times the rotor of its position."""
    return fast.turn(fast.split(x, n), positions(start)).flatten(-2)


def with_positions(n: int, start: int = 0):
    """The mixer's core, positions as the mixer gives them: to quaternions before turning, to octonions in scores."""
    if n == 8:
        return lambda q, k, v: octonion.octonion_attention(q, k, v, rope=positions(start))
    return lambda q, k, v: quaternion.rotor_attention(placed(q, 4, start), placed(k, 4, start), v)


def away(one: torch.Tensor, other: torch.Tensor) -> float:
    return (one - other).abs().max().item()


@pytest.mark.parametrize("n", [4, 8])
class TestAttention:
    def test_bracketing_matters_for_octonions_only(self, n):
        left, right = (naive.attention(*heads(), n, left=side) for side in (True, False))
        assert away(left, right) < 1e-12 if n == 4 else away(left, right) > 0.1
        assert away(ATTENTION[n](*heads()), left) < 1e-12

    def test_turning_keeps_norms_and_averages_do_not_raise_them(self, n):
        q, k, v = heads()
        y, sizes = naive.numbers(ATTENTION[n](q, k, v), n).norm(dim=-1), naive.numbers(v, n).norm(dim=-1)
        assert away(y[:, :, 0], sizes[:, :, 0]) < 1e-12  # the first token has itself to read
        assert (y <= sizes.cummax(2).values + 1e-12).all()
        assert (y[:, :, -1] < sizes.amax(2) - 1e-3).any()

    def test_strictly_causal(self, n):
        inputs = heads()
        y = ATTENTION[n](*inputs)
        moved = [torch.cat((x[:, :, :6], 2 * x[:, :, 6:] + 1), 2) for x in inputs]
        assert torch.equal(ATTENTION[n](*moved)[:, :, :6], y[:, :, :6])
        assert away(ATTENTION[n](*moved)[:, :, 6:], y[:, :, 6:]) > 0.1

    def test_only_the_difference_of_positions_is_seen(self, n):
        q, k, v = heads()
        near, far = (with_positions(n, at)(q, k, v) for at in (0, 7))
        assert away(near, far) < 1e-12
        assert away(near, ATTENTION[n](q, k, v)) > 0.1
        pairs = [ATTENTION[n](rotate(q, positions(at)), rotate(k, positions(at)), v) for at in (0, 7)]
        assert away(*pairs) > 0.1  # rotary pairs of unequal frequencies are no rotors
        rotors = [ATTENTION[n](placed(q, n, at), placed(k, n, at), v) for at in (0, 7)]
        assert away(*rotors) < 1e-12 if n == 4 else away(*rotors) > 0.01  # (u p)(conj(p) w) is not u w for octonions

    def test_scores_have_variance_one_for_random_units(self, n):
        u, w = (naive.channels(naive.unit(normal(20000, 8, n, seed=seed))) for seed in (0, 1))
        assert (n * (u * w).sum(-1) / (8 * n) ** 0.5).var().item() == pytest.approx(1, rel=0.05)


class TestQuaternionEquivariance:
    """Definition: y(g q, g k, g v h) = g y(q, k, v) h for unit g, h acting on every quaternion of every token."""

    @pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
    def test_a_common_rotation_passes_through_with_positions(self, dtype, tolerance):
        q, k, v = (x.to(dtype) for x in heads())
        g, h = unit(4, 1), unit(4, 2)
        y = quaternion.rotor_attention(placed(q, 4).to(dtype), placed(k, 4).to(dtype), v)
        turned_q, turned_k = (placed(act(x, 4, g), 4).to(dtype) for x in (q, k))
        assert away(quaternion.rotor_attention(turned_q, turned_k, act(v, 4, g, h)), act(y, 4, g, h)) < tolerance
        assert away(act(y, 4, g, h), y) > 0.1

    def test_without_positions_both_sides_turn_freely(self):
        g, h = unit(4, 1), unit(4, 2)
        y = quaternion.rotor_attention(*heads())
        assert away(quaternion.rotor_attention(*(act(x, 4, g, h) for x in heads())), act(y, 4, g, h)) < 1e-12

    def test_what_breaks_it(self):
        (q, k, v), g = heads(), unit(4, 1)

        def error(function):
            return away(function(*(act(x, 4, g) for x in (q, k, v))), act(function(q, k, v), 4, g))

        table = positions()
        assert error(lambda q, k, v: quaternion.rotor_attention(placed(q, 4), placed(k, 4), v)) < 1e-12
        assert error(lambda q, k, v: quaternion.rotor_attention(rotate(q, table), rotate(k, table), v)) > 0.1
        assert error(lambda q, k, v: quaternion.rotor_attention(q, act_bar(k), v)) > 0.1  # the conjugate forgotten
        assert (
            away(
                quaternion.rotor_attention(*(2 * act(x, 4, g) for x in (q, k, v))),
                act(quaternion.rotor_attention(q, k, v), 4, g),
            )
            > 0.1
        )  # fmt: skip - not a unit

    @pytest.mark.parametrize("projections", ["hamilton", "full"])
    def test_the_whole_mixer_where_its_projections_multiply_quaternions(self, projections):
        mixer = build("quaternion", n_embd=32, n_head=2, knobs={"quaternion": QuaternionKnobs(projections=projections)})
        for seed, layer in enumerate((mixer.query, mixer.key, mixer.value, mixer.out)):
            layer.weight.data = (normal(*layer.weight.shape, seed=seed) / 32**0.5).float()
        x, g, rope = normal(1, T, 32).float(), unit(4, 1), rotary_table(T, 16, 1e4)
        turned = act(x.unflatten(-1, (2, 16)), 4, g).flatten(-2)
        with torch.no_grad():
            error = away(mixer(turned, rope), act(mixer(x, rope).unflatten(-1, (2, 16)), 4, g).flatten(-2))
        assert error < 1e-6 if projections == "hamilton" else error > 0.1


class TestHamiltonProjections:
    """Definition: y_o = sum_i x_i w_oi, quaternion by quaternion, weights from the right."""

    @staticmethod
    def layer(seed: int = 0) -> HamiltonLinear:
        found = HamiltonLinear(24, 32, 3, 4).double()
        found.weight.data = normal(32, 6, seed=seed)
        return found

    def test_it_is_the_sum_of_products(self):
        layer, x = self.layer(), normal(5, 24)
        given = naive.numbers(x.unflatten(-1, (3, 8)), 4).flatten(1, 2)
        weights = layer.weight.detach().view(4, 4, 2, 6).movedim(1, -1).flatten(0, 1)  # (output, input, component)
        for left, same in ((False, True), (True, False)):
            pairs = [given[:, None].expand(5, 8, 6, 4), weights[None].expand(5, 8, 6, 4)]
            products = multiply(*(pairs[::-1] if left else pairs)).sum(2)
            wanted = naive.channels(products.unflatten(1, (4, 2))).flatten(1)
            assert (away(layer(x), wanted) < 1e-12) == same

    def test_it_commutes_with_multiplying_from_the_left_only(self):
        layer, x, g = self.layer(), normal(5, 24), normal(4, seed=1)
        for sides, same in (({"left": g}, True), ({"right": g}, False)):
            turned = layer(act(x.unflatten(-1, (3, 8)), 4, **sides).flatten(1))
            assert (away(turned, act(layer(x).unflatten(-1, (4, 8)), 4, **sides).flatten(1)) < 1e-12) == same

    def test_a_quarter_of_the_weights_at_the_same_variance(self):
        config = {"n_embd": 256, "n_head": 4}
        mixers = [
            build("quaternion", **config, knobs={"quaternion": QuaternionKnobs(projections=kind)})
            for kind in ("full", "hamilton")
        ]
        sizes = [sum(parameter.numel() for parameter in mixer.parameters()) for mixer in mixers]
        assert sizes[0] == 4 * sizes[1]
        x = normal(512, 256).float()
        with torch.no_grad():
            spread = [mixer.query(x).var().item() for mixer in mixers]
        assert spread == pytest.approx([1, 1], rel=0.05)
        assert mixers[1].query.in_features == 256 == 4 * mixers[1].query.weight.shape[1]

    def test_it_has_second_derivatives(self):
        weight = normal(4, 2).requires_grad_()
        assert torch.autograd.gradgradcheck(lambda weight: real_matrix(weight, 1, 1).tanh() @ normal(8), (weight,))


def act_bar(x: torch.Tensor) -> torch.Tensor:
    return naive.channels(bar(naive.numbers(x, 4)))


class TestOctonionEquivariance:
    """Definition: y(f q, f k, f v) = f y(q, k, v) for automorphisms f, such as x -> g x conj(g) with g^3 = +-1."""

    def error(self, real: float, axis: torch.Tensor, positioned: bool, sandwich: bool = True) -> float:
        g = torch.cat((torch.tensor([real]).double(), (1 - real**2) ** 0.5 * axis / axis.norm()))
        function = with_positions(8) if positioned else octonion.octonion_attention

        def turn(x):
            return act(x, 8, g, bar(g) if sandwich else None)

        q, k, v = heads()
        return away(function(turn(q), turn(k), turn(v)), turn(function(q, k, v)))

    def test_automorphisms_pass_through(self):
        assert self.error(0.5, normal(7), False) < 1e-12
        assert self.error(-0.5, normal(7, seed=3), False) < 1e-12
        assert self.error(0.5, one(7, 3), True) < 1e-12  # fixes e_4, along which positions turn

    def test_other_rotations_do_not(self):
        assert self.error(0.9, normal(7), False) > 0.01
        assert self.error(0.5, normal(7), False, sandwich=False) > 0.01
        assert self.error(0.5, normal(7), True) > 0.01


class TestQuaternionsInsideOctonions:
    def test_quaternion_inputs_give_quaternion_attention(self):
        assert octonion.quaternion_limit() < 1e-12

    def test_four_units_that_do_not_close_are_no_quaternions(self):
        small = [normal(1, 2, T, 8, seed=seed) for seed in range(3)]
        places = [0, 1, 2, 4]
        wide = []
        for x in small:
            numbers = torch.zeros(1, 2, T, 2, 8, dtype=torch.float64)
            numbers[..., places] = naive.numbers(x, 4)
            wide.append(naive.channels(numbers))
        y = naive.numbers(octonion.octonion_attention(*wide, unit_scores=False), 8)
        assert y[..., [3, 5, 6, 7]].abs().max() > 0.1


class TestReals:
    def test_positive_real_queries_and_keys_give_softmax_attention(self):
        assert quaternion.real_limit() < 1e-12

    def test_turned_ones_do_not(self):
        q, k, v = heads()
        known = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        assert away(quaternion.rotor_attention(q, k, v, unit_scores=False), known) > 0.1


@pytest.mark.parametrize("n", [4, 8])
def test_the_demos_averaged_maps_equal_the_sum_over_pairs(n):
    q, k, v = np.random.default_rng(n).normal(size=(3, 7, 16))
    with jax.enable_x64(True):
        pairs, maps = (f(q, k, v, n) for f in (maths.rotor_attention, maths.averaged_maps))
        assert np.abs(pairs - maps).max() < 1e-12
        assert np.abs(pairs - maths.averaged_maps(q, k, v, 12 - n)).max() > 1e-2  # the other algebra


@pytest.mark.parametrize("n", [4, 8])
def test_logarithm_slerp_and_chain_of_the_demo(n):
    random = np.random.default_rng(n)
    with jax.enable_x64(True):
        v = random.normal(size=n) * np.r_[0.0, np.ones(n - 1)]
        v *= 2.0 / np.linalg.norm(v)
        assert np.abs(maths.logarithm(maths.exponential(v)) - v).max() < 1e-14
        assert np.abs(maths.logarithm(maths.exponential(2 * v)) - 2 * v).max() > 0.1  # beyond pi: another branch
        assert np.abs(maths.logarithm(np.eye(n)[0])).max() == 0
        x, y = maths.unit(random.normal(size=(2, n)))
        path = maths.slerp(x, y, np.array([0.0, 0.5, 1.0]))
        assert np.abs(path - np.stack([x, maths.unit(x + y), y])).max() < 1e-14
        a, b, c = random.normal(size=(3, n))
        left = maths.multiply(maths.multiply(a, b), c)
        assert np.abs(maths.chain(np.stack([a, b, c]))[-1] - left).max() < 1e-14
        other = maths.multiply(a, maths.multiply(b, c))
        assert (np.abs(left - other).max() > 1e-2) == (n == 8)
