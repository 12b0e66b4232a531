"""Laws of parallel transport, each with what must break them: wrong order, untransformed links, commuting groups."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from nanochat.architecture import check
from nanochat.attention import build, gauge
from nanochat.attention.gauge import GaugeKnobs, gauge_attention
from nanochat.attention.heads import rotary_table, rotate, softmax_attention
from nanochat.config import ConfigError, GPTConfig
from nanochat.kernels.scan import naive, operators

GROUPS = ("so3", "u1", "so4", "so")
T, D, BLOCKS, SIZE = 23, 10, 2, 5


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def heads(length: int = T, dim: int = D) -> list[Tensor]:
    return [normal(1, 4, length, dim, seed=1), normal(1, 2, length, dim, seed=2), normal(1, 2, length, dim, seed=3)]


def emission(group: str, seed: int = 4, length: int = T) -> Tensor:
    return normal(1, 2, length, BLOCKS * {"so3": 4, "u1": 1, "so4": 8, "so": 10}[group], seed=seed)


def frames(raw: Tensor, group: str, start: Tensor | None = None) -> tuple[Tensor, Tensor]:
    return gauge.frames(raw, group, start, SIZE)


def elements(raw: Tensor, group: str) -> Tensor:
    """The element that each token emits: a unit quaternion, or (cosine, sine)."""
    if group == "u1":
        return torch.stack((raw.cos(), raw.sin()), 3)
    if group == "so":
        return naive.cayley(raw.unflatten(-1, (10, -1)), SIZE).flatten(-3, -2)
    return naive.normalise(raw.unflatten(-1, (4, -1)))


def compose(a: Tensor, b: Tensor, group: str) -> Tensor:
    if group == "so":
        square = (x.unflatten(-2, (SIZE, SIZE)) for x in (a, b))
        return torch.einsum("...acl,...cbl->...abl", *square).flatten(-3, -2)
    if group != "u1":
        return naive.product(a, b)
    (c, s), (d, t) = a.unbind(-2), b.unbind(-2)
    return torch.stack((c * d - s * t, c * t + s * d), -2)


def emitting(element: Tensor, group: str) -> Tensor:
    """What a token must emit to mean this element; for ``so`` by Cayley's map, which is its own inverse."""
    if group == "so":
        matrix, one = element.unflatten(-2, (SIZE, SIZE)).movedim(-1, -3), torch.eye(SIZE, dtype=element.dtype)
        skew = torch.linalg.solve(one + matrix, matrix - one).movedim(-3, -1) * SIZE**0.5
        rows, columns = torch.triu_indices(SIZE, SIZE, 1)
        return skew[..., columns, rows, :].flatten(-2)
    return torch.atan2(element[..., 1, :], element[..., 0, :]) if group == "u1" else element.flatten(-2)


def one(like: Tensor, group: str) -> Tensor:
    """The identity of the group; a plane's is (1, 0)."""
    return naive.matrix_identity(like) if group == "so" else naive.identity(like)


def regauged(raw: Tensor, local: Tensor, group: str) -> Tensor:
    """Links g_t become h_{t-1} g_t h_t^-1, h_0 = 1."""
    first = one(local[:, :, :1], group)
    before = torch.cat((first, local[:, :, :-1]), 2)
    link = compose(compose(before, elements(raw, group), group), naive.inverse_frame(local, group), group)
    return emitting(link, group)


class TestGaugeInvariance:
    @pytest.mark.parametrize("group", GROUPS)
    def test_random_frames_per_token_change_nothing(self, group):
        (q, k, v), raw = heads(), emission(group)
        local = elements(emission(group, seed=9), group)
        y = gauge_attention(q, k, v, frames(raw, group)[0], group)
        moved = [operators.turn(local, x, group) for x in (q, k, v)]
        other = gauge_attention(*moved, frames(regauged(raw, local, group), group)[0], group)
        assert (operators.turn(local, other, group, inverse=True) - y).abs().max() < 1e-10
        assert (other - y).abs().max() > 0.1  # covariant: the components do change

    @pytest.mark.parametrize("group", GROUPS)
    def test_without_moving_the_links_it_falls(self, group):
        (q, k, v), raw = heads(), emission(group)
        local = elements(emission(group, seed=9), group)
        y = gauge_attention(q, k, v, frames(raw, group)[0], group)
        other = gauge_attention(*(operators.turn(local, x, group) for x in (q, k, v)), frames(raw, group)[0], group)
        assert (operators.turn(local, other, group, inverse=True) - y).abs().max() > 0.1

    @pytest.mark.parametrize("group", ["so3", "so4", "so"])
    def test_the_reversed_prefix_is_no_transport(self, group):
        """P_t = g_t ... g_1 is a product too, but P_i^-1 P_j is then not the way from j to i."""
        (q, k, v), raw = heads(), emission(group)
        local = elements(emission(group, seed=9), group)

        def reversed_frames(emitted: Tensor) -> Tensor:
            back = emitting(naive.inverse_frame(elements(emitted, group), group), group)
            return naive.inverse_frame(frames(back, group)[0], group)

        y = gauge_attention(q, k, v, reversed_frames(raw), group)
        moved = [operators.turn(local, x, group) for x in (q, k, v)]
        other = gauge_attention(*moved, reversed_frames(regauged(raw, local, group)), group)
        assert (operators.turn(local, other, group, inverse=True) - y).abs().max() > 0.1

    def test_rotary_pairs_inside_a_block_break_it(self):
        q = heads(dim=6)[0]
        local, rope = elements(emission("so3", seed=9), "so3"), tuple(x.double() for x in rotary_table(T, 6, 1e4))
        turned = operators.turn(local, rotate(q, rope), "so3")
        assert (turned - rotate(operators.turn(local, q, "so3"), rope)).abs().max() > 0.1

    @pytest.mark.parametrize("group", GROUPS)
    def test_only_the_way_between_two_tokens_matters(self, group):
        """Tokens from 8 on compare as if the sequence began there."""
        (q, k, _), raw = heads(), emission(group)
        frame = frames(raw, group)[0]
        turned = [operators.turn(frame, x, group) for x in (q[:, :2], k)]
        scores = turned[0] @ turned[1].mT
        late = frames(raw[:, :, 8:], group)[0]
        again = [operators.turn(late, x[:, :, 8:], group) for x in (q[:, :2], k)]
        assert (scores[:, :, 8:, 8:] - again[0] @ again[1].mT).abs().max() < 1e-10


class TestLimits:
    def test_constant_angles_are_rotary_positions(self):
        dim = 8
        frequencies = 100.0 ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
        q, k = normal(1, 2, T, dim, seed=1), normal(1, 2, T, dim, seed=2)
        frame = frames(frequencies.expand(1, 2, T, dim // 2), "u1")[0]
        angles = torch.arange(T, dtype=torch.float64)[:, None] * frequencies
        rope = (angles.cos(), angles.sin())
        rotary = [naive_rotate(x, rope) for x in (q, k)]
        turned = [operators.turn(frame, x, "u1") for x in (q, k)]
        assert (turned[0] @ turned[1].mT - rotary[0] @ rotary[1].mT).abs().max() < 1e-12

    def test_angles_that_depend_on_the_token_are_not(self):
        q = normal(1, 1, 1, 4, seed=1).expand(1, 1, T, 4)
        frame = frames(emission("u1")[:, :1], "u1")[0]
        turned = operators.turn(frame, q, "u1")
        scores = turned @ turned.mT
        diagonal = scores.diagonal(-1, -2, -1)
        assert (diagonal - diagonal[..., :1]).abs().max() > 0.1  # rotary positions would make it constant

    @pytest.mark.parametrize("group", GROUPS)
    def test_identity_transports_are_softmax_attention(self, group):
        q, k, v = heads()
        raw = emission(group)
        flat = gauge_attention(q, k, v, frames(torch.zeros_like(raw), group)[0], group)
        assert (flat - softmax_attention(q, k, v)).abs().max() < 1e-12
        curved = gauge_attention(q, k, v, frames(raw, group)[0], group)
        assert (curved - softmax_attention(q, k, v)).abs().max() > 0.1
        assert gauge.flat_limit() < 1e-12


class TestMatrices:
    """``so`` with blocks of 2 and 3 channels is ``u1`` and ``so3``, whose elements Cayley's map names."""

    def test_blocks_of_two_are_planes(self):
        (q, k, v), angles = heads(), emission("u1")
        numbers = 2**0.5 * (angles / 2).tan()
        matrix = gauge.frames(numbers, "so", None, 2)[0]
        y = gauge_attention(q, k, v, gauge.frames(angles, "u1")[0], "u1")
        assert (gauge_attention(q, k, v, matrix, "so") - y).abs().max() < 1e-12
        halved = gauge.frames(angles, "so", None, 2)[0]
        assert (gauge_attention(q, k, v, halved, "so") - y).abs().max() > 0.1

    def test_blocks_of_three_are_quaternions(self):
        """The rotation of 1 + x i + y j + z k is Cayley's of the matrix v -> (x, y, z) x v."""
        (q, k, v), vector = heads(), normal(1, 2, T, 3, BLOCKS, seed=4)
        quaternion = torch.cat((torch.ones_like(vector[..., :1, :]), vector), -2).flatten(-2)
        x, y, z = vector.unbind(-2)
        expected = gauge_attention(q, k, v, gauge.frames(quaternion, "so3")[0], "so3")
        for numbers, equal in ((torch.stack((z, -y, x), -2), True), (torch.stack((z, y, x), -2), False)):
            matrix = gauge.frames((3**0.5 * numbers).flatten(-2), "so", None, 3)[0]
            apart = (gauge_attention(q, k, v, matrix, "so") - expected).abs().max()
            assert apart < 1e-12 if equal else apart > 0.1

    def test_every_element_is_a_rotation(self):
        found = naive.cayley(3 * normal(50, 28, 4), 8).movedim(-1, 1)
        assert (found @ found.mT - torch.eye(8)).abs().max() < 1e-12
        assert (torch.linalg.det(found) - 1).abs().max() < 1e-12
        only_one = torch.linalg.solve(torch.eye(3) - torch.ones(3, 3) / 9, torch.eye(3) + torch.ones(3, 3) / 9)
        assert (only_one @ only_one.T - torch.eye(3)).abs().max() > 0.1  # of a matrix that is not skew


def naive_rotate(x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary positions as complex numbers, independent of what is tested."""
    first, second = x.chunk(2, -1)
    turned = torch.complex(first, second) * torch.complex(*rope)
    return torch.cat((turned.real, turned.imag), -1)


class TestHolonomy:
    """The square a b a^-1 b^-1 brings a frame back where rotations commute, and nowhere else."""

    @staticmethod
    def square(group: str, a: Tensor, b: Tensor) -> Tensor:
        word = torch.stack([emitting(x, group) for x in (a, b, *(naive.inverse_frame(y, group) for y in (a, b)))], 2)
        last = frames(word, group)[0][:, :, -1]
        return last - one(last, group)

    def test_zero_for_planes(self):
        a, b = (elements(emission("u1", seed), "u1")[:, :, 0] for seed in (1, 2))
        assert self.square("u1", a, b).abs().max() < 1e-12

    @pytest.mark.parametrize("group", ["so3", "so4", "so"])
    def test_not_zero_for_rotations(self, group):
        a, b = (elements(emission(group, seed), group)[:, :, 0] for seed in (1, 2))
        assert self.square(group, a, b).abs().max() > 0.1

    def test_zero_for_rotations_about_one_axis(self):
        turns = [torch.tensor([math.cos(s), 0, math.sin(s), 0], dtype=torch.float64) for s in (0.3, 1.1)]
        a, b = (x[None, None, :, None].expand(1, 2, 4, BLOCKS) for x in turns)
        assert self.square("so3", a, b).abs().max() < 1e-12

    @pytest.mark.parametrize(("group", "sees"), [("u1", False), ("so3", True), ("so4", True), ("so", True)])
    def test_who_sees_the_order_of_the_past(self, group, sees):
        raw = emission(group)
        swapped = raw[:, :, [0, 2, 1, *range(3, T)]]
        change = (frames(raw, group)[0] - frames(swapped, group)[0]).abs().amax((0, 1, 3, 4))
        assert (change[2:].max() > 0.1) == sees and change[0] == 0


class TestDrift:
    LENGTH = 2048

    def test_frames_stay_rotations_in_fp32(self):
        raw = normal(1, 1, self.LENGTH, 4, 6).float()
        found = operators.quaternion_prefix(raw)
        exact = operators.quaternion_prefix(raw.double())
        assert (found.square().sum(-2) - 1).abs().max() < 2e-4
        assert (found - exact).abs().max() < 2e-4

    def test_matrices_stay_rotations_in_fp32(self):
        """Chunk by chunk, and one token at a time; products that are never brought back drift on."""

        def off(found: Tensor) -> float:
            matrix = found.unflatten(-2, (8, 8)).movedim(-1, -3)
            return (matrix.mT @ matrix - torch.eye(8)).abs().max().item()

        raw = normal(1, 1, self.LENGTH, 28, 2).float()
        found = operators.matrix_prefix(raw, 8)
        assert off(found) < 2e-5
        assert (found - operators.matrix_prefix(raw.double(), 8)).abs().max() < 1e-3
        kept, bare = found[:, :, 0], naive.cayley(raw[:, :, 0], 8)
        for token in raw.split(1, 2)[1:257]:
            kept = operators.matrix_prefix(token, 8, kept)[:, :, 0]
            bare = torch.einsum("bkacl,bkcdl->bkadl", bare, naive.cayley(token[:, :, 0], 8))
        assert off(kept) < 2e-6
        assert off(bare.flatten(-3, -2)) > 3 * off(kept)

    def test_bf16_prefixes_do_not(self):
        factors, last = naive.normalise(normal(1, 1, self.LENGTH, 4, 6)).bfloat16(), torch.zeros(1, 1, 4, 6)
        last[:, :, 0] = 1
        last = last.bfloat16()
        for factor in factors[:, :, :512].unbind(2):
            last = naive.product(last, factor)
        assert (last.float().square().sum(-2) - 1).abs().max() > 1e-2

    def test_angles_add_up_without_loss(self):
        raw = 3 * normal(1, 1, self.LENGTH, 6).float()
        found, exact = frames(raw, "u1")[0], frames(raw.double(), "u1")[0]
        assert (found - exact).abs().max() < 1e-6
        naive_sum = raw.cumsum(2).cos()
        assert (naive_sum - exact[:, :, :, 0]).abs().max() > 1e-6


class TestIcosahedron:
    """The 120 units generated by phi/2 + i/2 + j/(2 phi) and (1 + i + j + k)/2; modulo sign they are the group A5."""

    PHI = (1 + 5**0.5) / 2
    GENERATORS = torch.tensor([[PHI / 2, 0.5, 0.5 / PHI, 0.0], [0.5, 0.5, 0.5, 0.5]], dtype=torch.float64)

    @staticmethod
    def product(a: Tensor, b: Tensor) -> Tensor:
        return naive.product(a[..., None], b[..., None])[..., 0]

    @pytest.fixture
    def icosians(self) -> Tensor:
        found: dict[tuple[float, ...], Tensor] = {}
        waiting = [torch.tensor([1.0, 0, 0, 0], dtype=torch.float64)]
        while waiting:
            one = waiting.pop()
            key = tuple(round(c, 6) + 0.0 for c in one.tolist())
            if key not in found:
                found[key] = one
                waiting += [self.product(one, generator) for generator in self.GENERATORS]
        return torch.stack(list(found.values()))

    def test_words_of_the_group_are_tracked_exactly(self, icosians):
        assert len(icosians) == 120
        letters = torch.randint(2, (512,), generator=torch.Generator().manual_seed(0))
        products = self.product(icosians[:, None].expand(120, 2, 4), self.GENERATORS.expand(120, 2, 4))
        table = (products @ icosians.T).argmax(-1)
        here = int(icosians[:, 0].argmax())  # the identity
        states = [here := int(table[here, letter]) for letter in letters.tolist()]
        word = self.GENERATORS[letters].float()[None, None, :, :, None]
        read = operators.quaternion_prefix(word)[0, 0, :, :, 0].double() @ icosians.T
        assert read.argmax(-1).tolist() == states

    def test_angles_cannot_tell_words_with_the_same_letters(self):
        ab, ba = (self.product(self.GENERATORS[i], self.GENERATORS[1 - i]) for i in (0, 1))
        assert (ab - ba).abs().max() > 0.1 and (ab + ba).abs().max() > 0.1
        angles = torch.tensor([0.7, 1.9], dtype=torch.float64)
        one, other = (frames(angles[order][None, None, :, None], "u1")[0][:, :, -1] for order in ([0, 1], [1, 0]))
        assert torch.equal(one, other)


class TestMixer:
    @pytest.mark.parametrize("group", GROUPS)
    def test_a_local_frame_is_invisible_to_the_norm_of_the_output(self, group):
        y, local = normal(1, 2, T, D), elements(emission(group, seed=9), group)
        turned = operators.turn(local, y, group)
        normed = torch.nn.functional.rms_norm
        assert (normed(turned, (D,)) - operators.turn(local, normed(y, (D,)), group)).abs().max() < 1e-12

    @pytest.mark.parametrize("group", GROUPS)
    def test_the_frame_kept_for_decoding_does_not_grow(self, group):
        mixer = build("gauge", n_embd=48, n_head=4, n_kv_head=2, knobs={"gauge": GaugeKnobs(group=group)})
        sizes = {mixer.init_cache(1, length, torch.device("cpu"), torch.float32).frame.numel() for length in (1, 999)}
        assert len(sizes) == 1

    def test_every_channel_can_be_transported(self):
        knobs = {"gauge": GaugeKnobs(transported=1.0)}
        config = GPTConfig(n_embd=48, n_head=4, attention_type="gauge", knobs=knobs)
        assert gauge.blocks(config) == 4 and gauge.rotary_width(config) == 0
        mixer = build("gauge", n_embd=48, n_head=4, knobs=knobs)
        x, rope = torch.randn(1, 9, 48), rotary_table(9, 12, 1e4)
        assert torch.equal(mixer(x, rope), mixer(x, None))

    def test_neutral_frequencies_are_those_of_a_narrower_head(self):
        knobs = {"gauge": GaugeKnobs(group="so4")}
        mixer = build("gauge", n_embd=32, n_head=2, knobs=knobs)
        x, rope = torch.randn(1, 2, 9, 16), rotary_table(9, 16, 1e4)
        expected = torch.cat((x[..., :8], rotate(x[..., 8:], rotary_table(9, 8, 1e4))), -1)
        assert torch.allclose(mixer.neutral_positions(x, rope), expected, atol=1e-6)

    @pytest.mark.parametrize("share", [0.0, -1.0, 1.5, float("nan")])
    def test_a_share_that_is_none_is_refused(self, share):
        with pytest.raises(ConfigError, match="transported"):
            GaugeKnobs(transported=share)

    def test_heads_too_small_for_a_block_are_refused(self):
        with pytest.raises(ConfigError, match="need at least one block"):
            check(GPTConfig(n_embd=8, n_head=4, attention_type="gauge"))
