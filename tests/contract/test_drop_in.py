"""A mixer by itself: `nanochat.attention.build` in a model that knows nothing else of this package."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanochat.attention import MIXERS, build, rotary_table
from nanochat.attention.gauge import GaugeKnobs
from nanochat.attention.heads import KeyValueCache
from nanochat.config import ConfigError

V, T, C, H = 16, 12, 32, 4
every_mixer = pytest.mark.parametrize("name", MIXERS.names())


class OwnModel(nn.Module):
    """What somebody else has: an embedding, one block, a head."""

    def __init__(self, name: str):
        super().__init__()
        self.embed, self.norm, self.head = nn.Embedding(V, C), nn.LayerNorm(C), nn.Linear(C, V)
        self.mixer = build(name, n_embd=C, n_head=H, n_kv_head=2)

    def forward(self, idx: Tensor) -> Tensor:
        x = self.embed(idx)
        return self.head(x + self.mixer(self.norm(x), rotary_table(idx.shape[1], C // H)))


def awake(name: str, **options: object) -> nn.Module:
    mixer = build(name, n_embd=C, n_head=H, **options)
    nn.init.normal_(mixer.out.weight, std=C**-0.5, generator=torch.Generator().manual_seed(0))
    return mixer.double()


def inputs(length: int = T) -> Tensor:
    return torch.randn(2, length, C, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@every_mixer
def test_it_learns_in_a_model_and_optimizer_of_the_users(name):
    torch.manual_seed(0)
    model = OwnModel(name)
    idx = torch.randint(V, (4, T + 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    start = {key: value.clone() for key, value in model.mixer.state_dict().items()}
    losses = []
    for _ in range(12):
        loss = F.cross_entropy(model(idx[:, :-1]).flatten(0, 1), idx[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.2
    assert all(not torch.equal(value, start[key]) for key, value in model.mixer.state_dict().items())
    other = OwnModel(name)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(idx), model(idx))


@every_mixer
def test_shapes_positions_and_cache_are_as_documented(name):
    mixer, x, (cos, sin) = awake(name), inputs(), rotary_table(T, C // H)
    with torch.no_grad():
        assert mixer(x).shape == (2, T, C)
        whole = mixer(x, (cos, sin))
        cache = mixer.init_cache(2, T, x.device, x.dtype)
        pieces = [mixer(x[:, a:b], (cos[a:b], sin[a:b]), cache) for a, b in ((0, 5), (5, 6), (6, T))]
        assert (torch.cat(pieces, 1) - whole).abs().max() < 1e-10
        low = mixer.bfloat16()(x.bfloat16(), (cos, sin))
    assert low.dtype == torch.bfloat16
    assert torch.cosine_similarity(low.double().flatten(), whole.flatten(), dim=0) > 0.99


@every_mixer
def test_keys_and_values_can_be_given_more_room(name):
    mixer, x = awake(name), inputs(40)
    with torch.no_grad():
        whole = mixer(x)
        cache = mixer.init_cache(2, 9, x.device, x.dtype)
        if not isinstance(cache, KeyValueCache):
            pytest.skip("its state has no row per token")
        first = mixer(x[:, :9], None, cache)
        with pytest.raises(ValueError, match=r"cache: got 9 \+ 31 tokens, need at most 9"):
            mixer(x[:, 9:], None, cache)
        cache.reserve(40)
        assert (torch.cat((first, mixer(x[:, 9:], None, cache)), 1) - whole).abs().max() < 1e-10


def test_options_are_those_of_the_command_line():
    by_word = build("gauge", n_embd=C, n_head=H, gauge_group="u1", qk_norm=False)
    by_class = build("gauge", n_embd=C, n_head=H, qk_norm=False, knobs={"gauge": GaugeKnobs(group="u1")})
    assert by_word.config == by_class.config
    assert all(torch.equal(*pair) for pair in zip(by_word.parameters(), by_class.parameters(), strict=True))
    assert build("standard", n_embd=C, n_head=H, use_flex_attention=True).config.knobs["standard"].use_flex_attention


@pytest.mark.parametrize(
    ("name", "options", "faults"),
    [
        ("tropcal", {}, ["unknown mixer 'tropcal': .*did you mean 'tropical'"]),
        ("reversible", {}, ["reversible: got a block stack, which replaces whole blocks, need a mixer: "]),
        ("gauge", {"gauge_grup": "u1"}, ["unknown option of gauge 'gauge_grup': .*did you mean 'gauge_group'"]),
        ("gauge", {"tropical_score": "maxplus"}, ["unknown option of gauge 'tropical_score': need one of n_embd"]),
        ("gauge", {"knobs": {"gauge": GaugeKnobs()}, "gauge_group": "u1"}, ["knobs: got gauge beside gauge_group"]),
        (
            "tropical",
            {"n_embd": 33, "tropical_score": "x", "oops": 1},
            ["unknown option of tropical 'oops'", "unknown --tropical-score 'x'", "--n-embd: got 33"],
        ),
        ("octonion", {"n_embd": 24}, ["octonion: got 6 channels per head, need a multiple of 8"]),
    ],
)
def test_faults_are_one_line_each_and_all_together(name, options, faults):
    with pytest.raises(ConfigError) as caught:
        build(name, **{"n_embd": C, "n_head": H, **options})
    assert len(caught.value.faults) == len(faults)
    for fault, pattern in zip(caught.value.faults, faults, strict=True):
        assert re.match(pattern, fault) and "\n" not in fault
