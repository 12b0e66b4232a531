"""The trunk: the Python API as the user's document writes it, its knobs, its initial weights, its cache."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nanochat.attention import build
from nanochat.config import ConfigError
from nanochat.initialise import Draw, generator_for

V = 64


def model_of(**options):
    from nanochat.gpt import GPT, GPTConfig

    sizes = {"n_layer": 2, "n_head": 4, "n_embd": 32, "vocab_size": V, "sequence_len": 16}
    return GPT(GPTConfig(**{**sizes, **options}))


def awake(model):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * parameter.shape[-1] ** -0.5)
    return model


def tokens(length: int = 16, batch: int = 2) -> Tensor:
    return torch.randint(V, (batch, length), generator=torch.Generator().manual_seed(1))


def test_the_api_of_the_users_document():
    from nanochat.gpt import GPT, GPTConfig

    model = GPT(
        GPTConfig(
            n_layer=4,
            n_head=4,
            n_kv_head=4,
            n_embd=128,
            sequence_len=256,
            attention_type="tropical",
            optimizer_type="adamw",
        )
    )
    idx = torch.randint(model.config.vocab_size, (2, 16))
    assert model(idx).shape == (2, 16, model.config.vocab_size)
    loss = model(idx, idx)
    assert loss.shape == () and loss.item() == pytest.approx(math.log(model.config.vocab_size), abs=1e-5)
    cache = model.init_cache(2, 16)
    parts = [model(idx[:, :7], cache=cache), model(idx[:, 7:], cache=cache)]
    assert cache.position == 16
    assert (torch.cat(parts, 1) - model(idx)).abs().max() < 1e-5
    ledger = model.flops()
    assert ledger.length == 256 and ledger.training.semiring > 0
    assert ledger.parameters == sum(parameter.numel() for parameter in model.parameters())


def test_one_mixer_for_any_model():
    mixer = build("standard", n_embd=32, n_head=4, layer=1, n_kv_head=2)
    assert mixer(torch.randn(2, 5, 32), None).shape == (2, 5, 32)
    inside = model_of(n_kv_head=2).stack.blocks[1].mixer
    assert all(torch.equal(one, other) for one, other in zip(mixer.parameters(), inside.parameters(), strict=True))
    with pytest.raises(ValueError, match="did you mean 'standard'"):
        build("standrad", n_embd=32, n_head=4)


def test_loss_is_the_mean_over_scored_targets():
    model, idx = awake(model_of()), tokens()
    targets = idx.roll(-1, 1)
    targets[:, -3:] = -1
    each = model(idx, targets, reduction="none")
    assert each.shape == (2, 16) and not each[:, -3:].any()
    by_hand = -model(idx).log_softmax(-1).gather(2, targets.clamp(min=0)[..., None])[:, :-3, 0]
    assert torch.allclose(each[:, :-3], by_hand, atol=1e-6)
    assert model(idx, targets).item() == pytest.approx(by_hand.mean().item(), abs=1e-6)


@pytest.mark.parametrize("kind", ["relu2", "gelu", "swiglu"])
def test_feed_forward_kinds(kind):
    model = awake(model_of(mlp=kind)).double()
    part, x = model.stack.blocks[0].mlp, torch.randn(3, 32, dtype=torch.float64)
    up, down = part.up.weight, part.down.weight
    expected = {
        "relu2": lambda: F.relu(x @ up.T) ** 2 @ down.T,
        "gelu": lambda: F.gelu(x @ up.T) @ down.T,
        "swiglu": lambda: (F.silu(x @ part.gate.weight.T) * (x @ up.T)) @ down.T,
    }[kind]()
    assert torch.allclose(part(x), expected, atol=1e-12)
    sizes = sum(parameter.numel() for parameter in part.parameters())
    assert sizes == pytest.approx(8 * 32 * 32, rel=0.02), "kinds are compared at equal size"


def test_a_tied_head_is_the_embedding():
    model = model_of(tie_embeddings=True)
    assert model.head.weight is model.embed.weight
    assert {name for name, _ in model.named_parameters()} & {"head.weight", "embed.weight"} == {"embed.weight"}
    assert model(tokens(), tokens().roll(-1, 1)).item() == pytest.approx(math.log(V), rel=0.02)


def test_the_soft_cap_bounds_logits_and_leaves_small_ones():
    plain, capped = awake(model_of()), awake(model_of(logit_softcap=2.0))
    with torch.no_grad():
        for model in (plain, capped):
            model.head.weight.mul_(5)
        free, bound = plain(tokens()), capped(tokens())
    assert free.abs().max() > 4 and bound.abs().max() <= 2
    assert torch.allclose(bound, 2 * torch.tanh(free / 2))


def test_output_projections_start_silent():
    model = model_of()
    silent = {name for name, parameter in model.named_parameters() if not parameter.any()}
    parts = [f"stack.blocks.{layer}.{part}.weight" for layer in range(2) for part in ("mixer.out", "mlp.down")]
    assert silent == {"head.weight", *parts}


def test_another_layer_moves_no_other_weight():
    short, long = dict(model_of(n_layer=2).named_parameters()), dict(model_of(n_layer=3).named_parameters())
    assert short.keys() < long.keys()
    assert all(torch.equal(short[name], long[name]) for name in short)


def test_initial_weights_depend_on_seed_name_and_shape_only():
    def draw(*key) -> Tensor:
        return torch.randn(4, generator=generator_for(*key))

    base = draw(0, "a.weight", (2, 2))
    torch.manual_seed(123)
    assert torch.equal(base, draw(0, "a.weight", (2, 2)))
    for other in [(1, "a.weight", (2, 2)), (0, "b.weight", (2, 2)), (0, "a.weight", (4, 1))]:
        assert not torch.equal(base, draw(*other))
    first = model_of().get_parameter("stack.blocks.0.mixer.query.weight")
    assert first.std().item() == pytest.approx(32**-0.5, rel=0.1)


def test_a_parameter_drawn_twice_is_a_bug_of_ours():
    draw, weight = Draw(0), torch.zeros(2)
    draw.constant("a", weight, 1.0)
    with pytest.raises(AssertionError, match="a is initialised twice"):
        draw.constant("a", weight, 1.0)


@pytest.mark.parametrize("kind", ["standard", "tropical", "reversible"])
def test_sequences_may_outgrow_the_trained_length(kind):
    model = awake(model_of(attention_type=kind)).double()
    idx = tokens(50)
    with torch.no_grad():
        long = model(idx)
        assert (model(idx[:, :16]) - long[:, :16]).abs().max() < 1e-10
        cache = model.init_cache(2, 50)
        steps = torch.cat([model(part, cache=cache) for part in idx.split(20, 1)], 1)
    assert (steps - long).abs().max() < 1e-10


def test_positions_matter_unless_switched_off():
    idx = tokens()
    swapped = idx[:, [1, 0, *range(2, 16)]]
    for position, differs in (("rope", True), ("none", False)):
        model = awake(model_of(position=position, n_layer=1)).double()
        with torch.no_grad():
            gap = (model(idx)[:, -1] - model(swapped)[:, -1]).abs().max()
        assert (gap > 1e-6) == differs


def test_the_cache_refuses_what_does_not_fit():
    model = model_of()
    cache = model.init_cache(2, 8)
    model(tokens(6), cache=cache)
    with pytest.raises(ValueError, match=r"cache: got 6 \+ 3 tokens, need at most 8 as in init_cache"):
        model(tokens(3), cache=cache)
    with pytest.raises(ValueError, match="cache: got a batch of 1, need 2 as in init_cache"):
        model(tokens(2, batch=1), cache=cache)
    assert cache.position == 6
    model(tokens(2), cache=cache)
    for batch, length in ((0, 8), (2, 0)):
        with pytest.raises(ValueError, match=f"init_cache: got batch {batch} and length {length}"):
            model.init_cache(batch, length)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_embd": 30}, "--n-embd: got 30, need a multiple of --n-head 4"),
        ({"n_kv_head": 3}, "--n-kv-head: got 3, need a divisor of --n-head 4"),
        ({"attention_type": "tropicl"}, "did you mean 'tropical'"),
        ({"n_embd": 12}, "need an even number for rotary positions"),
        ({"mlp": "relu"}, "unknown --mlp 'relu'"),
        ({"logit_softcap": float("nan")}, "--logit-softcap: got nan, need a finite number"),
        ({"attention_type": "residual"}, "unknown --attention-type 'residual'"),
    ],
)
def test_bad_sizes_say_what_got_need(options, message):
    with pytest.raises(ConfigError, match=message) as caught:
        model_of(**options)
    assert all("\n" not in fault for fault in caught.value.faults)


def test_an_unknown_inner_mixer_is_refused():
    from nanochat.block.reversible import ReversibleKnobs

    for inner in ("tropicl", "reversible"):
        knobs = {"reversible": ReversibleKnobs(inner=inner)}
        with pytest.raises(ConfigError, match=f"unknown --reversible-inner '{inner}'"):
            model_of(attention_type="reversible", knobs=knobs)


def test_all_faults_are_reported_together():
    with pytest.raises(ConfigError) as caught:
        model_of(n_layer=0, mlp="relu", rope_base=-1.0, ca_init_alpha=2.0)
    assert len(caught.value.faults) == 4


@pytest.mark.parametrize("rule", ["rule30", "rule116"])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_automaton_keeps_the_size_of_weights(rule, alpha):
    plain, mixed = model_of(), model_of(ca_init_rule=rule, ca_init_alpha=alpha)
    for (name, one), (_, other) in zip(plain.named_parameters(), mixed.named_parameters(), strict=True):
        assert other.square().mean().item() == pytest.approx(one.square().mean().item(), rel=1e-4), name
        assert torch.allclose(one, other, atol=1e-6) == (alpha == 0 or not one.any()), name
    other_seed = model_of(ca_init_rule=rule, ca_init_alpha=alpha, ca_init_seed=1)
    same = torch.equal(other_seed.embed.weight, mixed.embed.weight)
    assert same == (alpha == 0)


def test_float64_models_score_in_float64():
    model = awake(model_of()).double()
    assert model(tokens(), tokens()).dtype == torch.float64
    assert model.to(torch.bfloat16)(tokens(), tokens()).dtype == torch.float32
