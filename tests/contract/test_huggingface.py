"""Every mixer inside a Hugging Face Llama, built offline: trains, generates with its cache, pads, or says why not."""

from __future__ import annotations

import copy
import subprocess
import sys
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, StaticCache

from nanochat.architecture import attention_types
from nanochat.attention import MIXERS
from nanochat.config import ConfigError
from nanochat.huggingface import register, replace_attention

V, LAYERS, PAD = 24, 2, 0
NAMED = ["octonion", "quaternion", "standard", "tropical"]
WAYS = [(name, "module") for name in MIXERS.names()] + [(name, "name") for name in NAMED]
every_way = pytest.mark.parametrize(("name", "way"), WAYS, ids=[f"{name}-by-{way}" for name, way in WAYS])


@pytest.fixture(autouse=True)
def _registered() -> None:
    register()


def llama(**others: Any) -> LlamaForCausalLM:
    """Two layers; weights large enough that tokens differ in what they generate."""
    sizes = {"vocab_size": V, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": LAYERS}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128}
    tokens = {"bos_token_id": 1, "eos_token_id": None, "pad_token_id": PAD, "initializer_range": 0.2}
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**{**sizes, **heads, **tokens, **others})).eval()


def model_with(name: str, way: str, **others: Any) -> LlamaForCausalLM:
    if way == "module":
        return replace_attention(llama(**others), name)
    model = llama(**others)
    model.set_attn_implementation(f"mgr_{name}")
    return model


def tokens(length: int, batch: int = 2, seed: int = 1) -> Tensor:
    return torch.randint(2, V, (batch, length), generator=torch.Generator().manual_seed(seed))


def generate(model: LlamaForCausalLM, prompt: Tensor, count: int = 20, **options: Any) -> Tensor:
    made = model.generate(prompt, max_new_tokens=count, do_sample=False, **options)
    assert made.shape[1] == prompt.shape[1] + count
    return made[:, prompt.shape[1] :]


@every_way
def test_it_trains_and_then_generates_the_same_with_and_without_a_cache(name, way, monkeypatch):
    monkeypatch.setattr("nanochat.huggingface.state.ROOM", 8)  # so that caches must grow
    model, idx = model_with(name, way), tokens(17)
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=1e-2)
    losses = []
    for _ in range(5):
        loss = model(input_ids=idx, labels=idx, use_cache=False).loss
        optimizer.zero_grad()
        loss.backward()
        assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.3
    model.eval()
    cached = generate(model, idx[:, :5], 40 if name == "simplicial" else 16, use_cache=True)  # beyond its windows
    assert torch.equal(cached, generate(model, idx[:, :5], cached.shape[1], use_cache=False))
    assert len(cached.unique()) > 2


@every_way
def test_padding_changes_nothing(name, way):
    """Sequences of three lengths, padded on the left, against each alone; and padded on the right."""
    model, idx, starts = model_with(name, way).double(), tokens(12, 3), (0, 4, 7)
    padded, mask = idx.clone(), torch.ones_like(idx)
    for row, start in enumerate(starts):
        padded[row, :start], mask[row, :start] = PAD, 0
    with torch.no_grad():
        positions = (mask.cumsum(1) - 1).clamp_min(0)
        together = model(padded, attention_mask=mask, position_ids=positions).logits
        for row, start in enumerate(starts):
            alone = model(idx[row : row + 1, start:]).logits[0]
            assert (together[row, start:] - alone).abs().max() < 1e-10
        flipped = model(idx, attention_mask=mask.flip(1)).logits  # nothing that is causal sees what comes after
        assert (flipped - model(idx).logits).abs().max() < 1e-10
    made = generate(model, padded, 6, attention_mask=mask)
    for row, start in enumerate(starts):
        assert torch.equal(made[row], generate(model, idx[row : row + 1, start:], 6)[0])


@every_way
def test_beams_are_the_same_with_and_without_a_cache(name, way):
    model, idx = model_with(name, way), tokens(6, 3)
    idx[1, :2] = PAD
    given = {"attention_mask": (idx != PAD).long(), "num_beams": 3, "num_return_sequences": 2}
    assert torch.equal(
        generate(model, idx, 8, use_cache=True, **given), generate(model, idx, 8, use_cache=False, **given)
    )


@every_way
def test_training_with_the_default_cache_on_has_the_same_gradients(name, way):
    model, idx = model_with(name, way).double(), tokens(9)
    found = []
    for cached in (False, True):
        loss = model(input_ids=idx, labels=idx, use_cache=cached).loss
        found.append(torch.autograd.grad(loss, list(model.parameters())))
    assert all((one - other).abs().max() < 1e-10 for one, other in zip(*found, strict=True))


@pytest.mark.parametrize("way", ["module", "name"])
def test_softmax_attention_is_that_of_the_model_to_rounding(way):
    """The oracle is transformers' own; another mixer is the negative control."""
    idx, mask = tokens(11), torch.ones(2, 11, dtype=torch.long)
    mask[0, :3] = 0
    real = mask.bool()
    model = llama().double()
    with torch.no_grad():
        wanted = model(idx, attention_mask=mask).logits[real]
        ours = model_with("standard", "name").double() if way == "name" else None
        ours = ours or replace_attention(llama(), "standard", qk_norm=False).double()
        assert (ours(idx, attention_mask=mask).logits[real] - wanted).abs().max() < 1e-6  # its rotary tables are fp32
        other = model_with("tropical", way).double()(idx, attention_mask=mask).logits[real]
    assert (other - wanted).abs().max() > 1e-2
    assert torch.equal(generate(ours, idx, 8, attention_mask=mask), generate(model, idx, 8, attention_mask=mask))


def test_some_layers_only_and_several_kinds():
    idx = tokens(9)
    model = replace_attention(replace_attention(llama(num_hidden_layers=3), "gauge", layers=[0]), "surreal", layers=[2])
    kinds = [type(getattr(layer.self_attn, "mixer", layer.self_attn)).__name__ for layer in model.model.layers]
    assert kinds == ["Gauge", "LlamaAttention", "Surreal"]
    assert torch.equal(generate(model, idx, 8), generate(model, idx, 8, use_cache=False))
    half = replace_attention(llama(), "standard", layers=[1], qk_norm=False)
    with torch.no_grad():
        assert (half(idx).logits - llama()(idx).logits).abs().max() < 1e-4


def test_weights_come_back():
    model, other = (replace_attention(llama(), "gauge", seed=seed, gauge_group="u1") for seed in (0, 1))
    idx = tokens(9)
    with torch.no_grad():
        assert not torch.equal(other(idx).logits, model(idx).logits)
        other.load_state_dict(model.state_dict())
        assert torch.equal(other(idx).logits, model(idx).logits)
    kept = llama().state_dict()["model.layers.0.self_attn.k_proj.weight"]
    assert torch.equal(model.state_dict()["model.layers.0.self_attn.mixer.key.weight"], kept)


def test_a_cache_can_be_copied_and_continued():
    """The pattern of a shared prefix: one prompt, several continuations."""
    model, idx = replace_attention(llama(), "gauge"), tokens(10)
    with torch.no_grad():
        prefix = model(idx[:, :6], use_cache=True).past_key_values
        assert prefix.get_seq_length() == 6
        for tail in (idx[:, 6:], idx[:, 6:].flip(1)):
            whole = model(torch.cat((idx[:, :6], tail), 1)).logits[:, 6:]
            part = model(tail, past_key_values=copy.deepcopy(prefix)).logits
            assert (part - whole).abs().max() < 1e-4
        prefix.batch_repeat_interleave(2)
        twice = model(idx[:, 6:].repeat_interleave(2, 0), past_key_values=prefix).logits
        assert (twice[::2] - model(idx).logits[:, 6:]).abs().max() < 1e-4


def test_options_reach_the_mixer():
    assert register("tropical", "mgr_maxplus", tropical_score="maxplus") == ["mgr_maxplus"]
    assert set(register()) >= {f"mgr_{name}" for name in NAMED}
    logits = []
    for label in ("mgr_tropical", "mgr_maxplus"):
        model = LlamaForCausalLM._from_config(llama().config, attn_implementation=label)
        model.load_state_dict(llama().state_dict())
        logits.append(model(tokens(9)).logits)
    assert not torch.equal(*logits)
    assert replace_attention(llama(), "gauge", gauge_group="u1").model.layers[1].self_attn.mixer.group == "u1"


def test_activations_can_be_recomputed():
    model, idx = replace_attention(llama(), "gauge").train(), tokens(9)
    wanted = torch.autograd.grad(model(idx, labels=idx, use_cache=False).loss, list(model.parameters()))
    model.activation_checkpointing_enable()
    got = torch.autograd.grad(model(idx, labels=idx, use_cache=False).loss, list(model.parameters()))
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in zip(got, wanted, strict=True))


@pytest.mark.parametrize("way", ["module", "name"])
@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"attention_mask": torch.tensor([[1, 0, 1, 1]])}, "attention mask: got a gap between tokens"),
        ({"attention_mask": torch.ones(1, 1, 4, 4)}, "attention mask: got Tensor of another kind"),
        ({"position_ids": torch.tensor([[0, 1, 0, 1]])}, "attention mask: got packed, windowed or custom masking"),
        ({"output_attentions": True}, "got output_attentions, which it does not support"),
        ({"is_causal": False}, "got packed, windowed or custom masking|got is_causal False, need causal attention"),
        ({"softcap": 30.0}, "got softcap, which it does not support"),
    ],
)
def test_what_it_cannot_honour_is_refused_in_one_line(way, given, words):
    model = model_with("tropical", way)
    with pytest.raises(ValueError, match=words) as caught:
        model(tokens(4, 1), use_cache=False, **given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("way", ["module", "name"])
def test_other_caches_and_changed_padding_are_refused(way):
    model, idx = model_with("tropical", way), tokens(6)
    with pytest.raises(ValueError, match=r"cache: got .*, need (a new|the) default \(dynamic\) cache"):
        model(idx, past_key_values=StaticCache(config=model.config, max_cache_len=32))
    if way == "module":
        past = model(idx, use_cache=True).past_key_values
        mask = torch.ones(2, 7, dtype=torch.long)
        mask[0, :2] = 0
        with pytest.raises(ValueError, match="cache: got another batch or padding"):
            model(idx[:, :1], past_key_values=past, attention_mask=mask)
        with pytest.raises(ValueError, match="cache: got crop"):
            past.crop(-1)
        with pytest.raises(ValueError, match="need a new default"):
            model(idx, past_key_values=llama()(idx, use_cache=True).past_key_values)


@pytest.mark.parametrize(
    ("others", "name", "options", "words"),
    [
        ({}, "reversible", {}, ["reversible: got a block stack, which replaces whole blocks"]),
        ({}, "gauge", {"layers": [5], "n_head": 3}, ["n_head: got 3, need none", "layers: got 5, need 0 to 1"]),
        ({}, "quaternion", {"quaternion_projections": "hamilton"}, ["got quaternion with projections of its own kind"]),
        ({}, "gauge", {"gauge_group": "so9"}, ["unknown --gauge-group 'so9'"]),
        ({"head_dim": 16}, "gauge", {}, ["model.layers.0.self_attn: got 64 channels in all heads, need .* 32", "1"]),
        ({"attention_dropout": 0.1}, "gauge", {}, ["model.layers.0.self_attn: got attention_dropout 0.1", "layers.1"]),
        ({"hidden_size": 24}, "octonion", {}, ["octonion: got 6 channels per head, need a multiple of 8"]),
    ],
)
def test_what_does_not_fit_leaves_the_model_as_it_was(others, name, options, words):
    model = llama(**others)
    before = {path: type(module) for path, module in model.named_modules()}
    with pytest.raises(ConfigError, match=words[0]) as caught:
        replace_attention(model, name, **options)
    assert len(caught.value.faults) == len(words)
    assert {path: type(module) for path, module in model.named_modules()} == before


def relative(kind: str, **others: Any) -> Any:
    """A small model of another family, by the prefix of its classes."""
    sizes = {"vocab_size": V, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
    tokens = {"bos_token_id": 1, "eos_token_id": None, "pad_token_id": PAD}
    config = getattr(transformers, f"{kind}Config")(**sizes, **heads, **tokens, **others)
    return getattr(transformers, f"{kind}ForCausalLM")(config).eval()


@pytest.mark.parametrize(("kind", "others"), [("Mistral", {"sliding_window": None}), ("Qwen2", {})])
def test_relatives_of_llama_take_both_ways(kind, others):
    idx = tokens(7)
    model = relative(kind, **others)
    model.set_attn_implementation("mgr_tropical")
    assert torch.equal(generate(model, idx, 6), generate(model, idx, 6, use_cache=False))
    replace_attention(model, "surreal")
    assert torch.equal(generate(model, idx, 6), generate(model, idx, 6, use_cache=False))


@pytest.mark.parametrize(
    ("kind", "others", "words"),
    [
        ("Mistral", {"sliding_window": 4}, "got sliding_window, which it does not support"),
        ("Qwen3", {"head_dim": 8}, "got k_norm, q_norm in it, need the four projections only"),
        ("Granite", {}, r"got scores times 1, need 1 / sqrt\(8\)"),
        ("SmolLM3", {}, "layers.3.self_attn: got SmolLM3Attention that is not softmax attention between rotary pairs"),
        ("Cohere", {}, "got CohereAttention that is not softmax attention between rotary pairs"),
    ],
)
def test_attention_that_does_more_is_not_replaced(kind, others, words):
    """The last two look like Llama's: one does not rotate in every fourth layer, the other pairs other channels."""
    model = relative(kind, **others)
    before = model.config._attn_implementation
    with pytest.raises(ConfigError, match=words):
        replace_attention(model, "gauge")
    assert model.config._attn_implementation == before and not hasattr(model.model.layers[0].self_attn, "mixer")


def test_without_transformers_one_line_says_what_to_install():
    program = "import sys; sys.modules['transformers'] = None; import nanochat.huggingface"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.splitlines()[-1].endswith(
        "need the extra hf: pip install 'model-guided-research[hf]'"
    )


def test_every_attention_type_has_a_label_that_works_or_says_why_not():
    usable = register()
    for name in attention_types():
        model = llama()
        model.set_attn_implementation(f"mgr_{name}")
        if f"mgr_{name}" in usable:
            model(tokens(4, 1))
            continue
        need = "need a mixer" if name not in MIXERS else rf"need replace_attention\(model, '{name}'\)"
        with pytest.raises(ValueError, match=need):
            model(tokens(4, 1))
        with pytest.raises(ConfigError, match=need):
            register(name)
    with pytest.raises(ConfigError, match="mgr_quaternion: got quaternion with projections of its own kind"):
        register("quaternion", quaternion_projections="hamilton")
    with pytest.raises(ConfigError, match="unknown mixer 'nope'"):
        register("nope")
    with pytest.raises(ConfigError, match="model: got LlamaRMSNorm without attention that we know"):
        replace_attention(llama().model.norm, "gauge")
