"""What probes see is what the mixers do: against naive forms, with controls whose answers are known."""

import math

import numpy as np
import pytest
import torch

from nanochat.architecture import mixer_config
from nanochat.attention import MIXERS
from nanochat.attention.heads import rotary_table
from nanochat.initialise import Draw
from nanochat.observe import PROBES
from nanochat.observed import divergence, entropy, measured, unlikeness

T, WIDTH, HEADS = 21, 48, 2
VARIANTS = [
    *((name, {}) for name in ("standard", "quaternion", "octonion", "surreal", "gauge", "braid", "tropical")),
    *((name, {}) for name in ("ultrametric", "fractal", "simplicial")),
    *(("gauge", {"gauge_group": group}) for group in ("u1", "so4", "so")),
    ("standard", {"standard_window": 5}),
    ("ultrametric", {"ultrametric_mode": "trie"}),
    ("fractal", {"fractal_form": "suffix"}),
    ("simplicial", {"simplicial_form": "determinant"}),
    ("braid", {"braid_form": "crossing"}),
    ("tropical", {"tropical_score": "maxplus"}),
]


def mixer_of(name, knobs, seed=0):
    config = mixer_config(name, {"n_embd": WIDTH, "n_head": HEADS, "n_kv_head": 1, "sequence_len": T, **knobs})
    mixer = MIXERS.get(name).load()(config, 0).double()
    mixer.init_weights(Draw(seed, "mixer"))
    return mixer.double()


def inputs(seed=1):
    return torch.randn(3, T, WIDTH, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rope():
    return tuple(table.double() for table in rotary_table(T, WIDTH // HEADS))


def seen_by(mixer, x):
    caught = []
    hook = mixer.out.register_forward_pre_hook(lambda module, given: caught.append(given[0]))
    with torch.no_grad():
        mixer(x, rope())
        hook.remove()
        name = next(record.name for record in MIXERS if record.cls == type(mixer).__name__)
        return PROBES.get(name).load()(mixer, x, rope()), caught[0].unflatten(-1, (HEADS, -1)).transpose(1, 2)


def test_every_mixer_has_a_probe():
    assert sorted(PROBES.names()) == sorted(MIXERS.names())


@pytest.mark.parametrize(("name", "knobs"), VARIANTS)
def test_weights_are_causal_means_and_measures_are_as_declared(name, knobs):
    x = inputs()
    seen, output = seen_by(mixer_of(name, knobs), x)
    declared = {measure.name for measure in PROBES.get(name).measures}
    assert set(seen.own) <= declared
    found = measured(seen, output)
    assert all(value.shape == (HEADS,) and np.isfinite(value).all() for value in found.values()), found
    if seen.weights is not None:
        assert seen.weights.shape == (3, HEADS, T, T)
        torch.testing.assert_close(
            seen.weights.sum(-1), torch.ones(3, HEADS, T, dtype=torch.float64), atol=1e-6, rtol=0
        )
        assert float(seen.weights.triu(1).abs().max()) == 0


MEANS = [each for each in VARIANTS if each[0] in ("standard", "surreal", "ultrametric", "fractal")]


@pytest.mark.parametrize(("name", "knobs"), MEANS)
def test_the_weights_are_those_that_the_mixer_used(name, knobs):
    mixer, x = mixer_of(name, knobs), inputs()
    seen, output = seen_by(mixer, x)
    v = mixer.value(x).unflatten(-1, (1, -1)).transpose(1, 2)
    torch.testing.assert_close(seen.weights @ v, output, atol=1e-9, rtol=0)


def test_gauge_weights_are_those_that_the_mixer_used():
    from nanochat.attention.gauge import frames
    from nanochat.kernels.scan import operators

    mixer, x = mixer_of("gauge", {}), inputs()
    seen, output = seen_by(mixer, x)
    v = mixer.value(x).unflatten(-1, (1, -1)).transpose(1, 2)
    frame, _ = frames(mixer.connection(x), "so3")
    mixed = operators.turn(frame, seen.weights @ operators.turn(frame, v, "so3"), "so3", inverse=True)
    torch.testing.assert_close(torch.nn.functional.rms_norm(mixed, (WIDTH // HEADS,)), output, atol=1e-7, rtol=0)


@pytest.mark.parametrize("group", ["so3", "u1", "so4", "so"])
def test_identity_transport_has_no_holonomy(group):
    mixer = mixer_of("gauge", {"gauge_group": group})
    assert seen_by(mixer, inputs())[0].own["holonomy"].min() > 0.01
    torch.nn.init.zeros_(mixer.transport.weight)
    own = seen_by(mixer, inputs())[0].own
    assert float(own["holonomy"].max()) < 1e-6 and float(own["turn"].max()) < 1e-6


def test_holonomy_of_planes_is_the_sum_of_their_angles():
    mixer = mixer_of("gauge", {"gauge_group": "u1"})
    with torch.no_grad():
        mixer.transport.weight *= 0.02  # so that no sum wraps around
    x = inputs()
    raw = mixer.connection(x).detach()
    own = seen_by(mixer, x)[0].own
    naive = raw[:, :, 1:].sum(2).abs().mean()
    assert float(own["holonomy"][0]) == pytest.approx(float(naive), abs=1e-9)
    assert float(own["turn"][0]) == pytest.approx(float(raw[:, :, 1:].abs().mean()), abs=1e-9)


def test_crossings_of_a_known_braid():
    from nanochat.observe.braid import crossings

    word = torch.tensor([0, 1, 2, 0, 3, 4, 4, 0])
    choice = torch.nn.functional.one_hot(word, 5).double()[None, None, :, :, None]
    assert crossings(choice).tolist() == [5.0]
    assert crossings(choice[:, :, :1]).tolist() == [0.0]


def test_prefixes_are_counted_digit_by_digit():
    mixer, x = mixer_of("ultrametric", {"ultrametric_mode": "trie"}), inputs()
    seen, _ = seen_by(mixer, x)
    q, k, _ = mixer.project(x, None)
    codes = [mixer.scores(part).argmax(-1) for part in (q, k)]
    expected = torch.zeros(3, HEADS, T, dtype=torch.float64)
    for batch, head, i in np.ndindex(3, HEADS, T):
        for j in range(i + 1):
            same = (codes[0][batch, head, i] == codes[1][batch, 0, j]).long()
            expected[batch, head, i] += float(seen.weights[batch, head, i, j]) * int(same.cumprod(0).sum())
    torch.testing.assert_close(seen.own["prefix"], expected, atol=1e-9, rtol=0)


def rotation(u):
    """The rotation v -> u v conj(u) of a unit quaternion, column by column."""
    w, x, y, z = u
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def test_turns_are_angles_between_rotations():
    mixer, x = mixer_of("quaternion", {}), inputs()
    seen, _ = seen_by(mixer, x)
    q, k, _ = (part.detach().numpy() for part in mixer.project(x, rope()))
    for batch, head, i in [(0, 0, 0), (1, 1, 5), (2, 0, T - 1)]:
        turn = 0.0
        for j in range(i + 1):
            pairs = zip(q[batch, head, i].reshape(4, -1).T, k[batch, 0, j].reshape(4, -1).T, strict=True)
            angles = [
                math.acos((np.trace(rotation(a / np.linalg.norm(a)) @ rotation(b / np.linalg.norm(b)).T) - 1) / 2)
                for a, b in pairs
            ]
            turn += float(seen.weights[batch, head, i, j]) * sum(angles) / len(angles)
        assert float(seen.own["turn"][batch, head, i]) == pytest.approx(turn, abs=1e-6)


def test_depth_is_the_expected_common_beginning_of_two_drawn_addresses():
    mixer, x = mixer_of("fractal", {"fractal_depth": 3, "fractal_arity": 2}), inputs()
    seen, _ = seen_by(mixer, x)
    q, k, _ = mixer.project(x, None)
    query, key = (mixer.levels(part).detach().numpy() for part in (q, k))
    words = list(np.ndindex(2, 2, 2))

    def chance(levels, word):
        return math.prod(levels[level, symbol] for level, symbol in enumerate(word))

    def common(one, other):
        return next((level for level in range(3) if one[level] != other[level]), 3)

    for batch, head, i in [(0, 0, 0), (1, 1, 5), (2, 0, T - 1)]:
        depth = sum(
            float(seen.weights[batch, head, i, j])
            * chance(query[batch, head, i], one)
            * chance(key[batch, 0, j], other)
            * common(one, other)
            for j in range(i + 1)
            for one in words
            for other in words
        )
        assert float(seen.own["depth"][batch, head, i]) == pytest.approx(depth, abs=1e-9)


def test_margins_are_winner_minus_runner_up():
    from nanochat.attention.tropical import translate

    mixer, x = mixer_of("tropical", {"tropical_score": "maxplus"}), inputs()
    own = seen_by(mixer, x)[0].own["margin"]
    q, k, v = (part.detach() for part in mixer.project(x, None))
    q, k = translate(q, k, "maxplus")
    gaps = [[] for _ in range(HEADS)]
    for batch, head, i in np.ndindex(3, HEADS, T):
        if i:
            score = (q[batch, head, i] + k[batch, 0, : i + 1]).amax(-1)
            best = (score[:, None] + v[batch, 0, : i + 1]).sort(0).values
            gaps[head].append(float((best[-1] - best[-2]).min()))
    for head in range(HEADS):
        assert float(own[head]) == pytest.approx(sorted(gaps[head])[(len(gaps[head]) - 1) // 2], abs=1e-9)


def test_scales_are_logs_of_key_sizes():
    mixer, x = mixer_of("surreal", {}), inputs()
    before = seen_by(mixer, x)[0].own["scale"]
    with torch.no_grad():
        mixer.scales.weight += math.log(3)
    torch.testing.assert_close(seen_by(mixer, x)[0].own["scale"], before + math.log(3))


def test_entropy_and_divergence_of_known_weights():
    uniform, one_hot = torch.full((1, 8), 1 / 8, dtype=torch.float64), torch.eye(8, dtype=torch.float64)
    assert float(entropy(uniform)) == pytest.approx(math.log(8)) and float(entropy(one_hot).abs().max()) == 0
    assert divergence(one_hot, one_hot.roll(1, 0)) == pytest.approx(1) and divergence(one_hot, one_hot) == 0
    p, q = (torch.rand(5, 7, dtype=torch.float64).softmax(-1) for _ in range(2))
    middle = (p + q) / 2
    naive = sum(float((a * (a / middle).log2()).sum(-1).mean()) for a in (p, q)) / 2
    assert divergence(p, q) == pytest.approx(naive)


def test_outputs_are_alike_up_to_rotation_and_scale_only():
    x = torch.randn(50, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    turned = 3 * x @ torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64))[0] + 5
    assert unlikeness(x, turned) == pytest.approx(0, abs=1e-12)
    other = torch.randn(50, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert unlikeness(x, other) > 0.5
