"""Mixers as modules in the place of a model's attention, with parameters, positions and decoding state of their own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from nanochat.architecture import mixer_config
from nanochat.attention import MIXERS
from nanochat.attention.heads import HeadMixer, Rope, rotary_table
from nanochat.config import ConfigError, GPTConfig
from nanochat.huggingface.demands import check_keywords, check_starts, groups_of, is_default_scale
from nanochat.huggingface.functions import OWN_MAPS, PREFIX, PROJECTIONS, blank, has_plain_projections, register
from nanochat.huggingface.state import Group, MixerLayer
from nanochat.initialise import Draw

BASELINE, REST = GPTConfig().attention_type, PREFIX + "rest"
"""What layers that are not replaced compute, the softmax attention that they had, and its label."""

TABLE = 2048
"""Longest ``sequence_len`` that is taken from a model: mixers make tables of that length at once, and let them grow."""

SIZES = ("n_embd", "n_head", "n_kv_head")


class MixerAttention(nn.Module):
    """A mixer with the face of transformers' ``LlamaAttention``.

    Args:
        mixer: ours; its maps ``query``, ``key``, ``value`` and ``out`` may be the model's.
        layer_idx: which layer of a cache is its own.
        longest: positions of the model.
    """

    is_causal = True

    def __init__(self, mixer: HeadMixer, layer_idx: int, longest: int):
        super().__init__()
        self.mixer = mixer
        self.layer_idx = layer_idx
        self.longest = longest

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: Sequence[Tensor] | None = None,
        attention_mask: Any = None,
        past_key_values: Cache | None = None,
        **keywords: Any,
    ) -> tuple[Tensor, None]:
        check_keywords(self.mixer.config.attention_type, keywords)
        starts = check_starts(attention_mask)
        batch, tokens = hidden_states.shape[:2]
        layer = None if past_key_values is None else self.layer_of(past_key_values)
        before = 0 if layer is None else layer.position
        groups = [Group(*each) for each in groups_of(starts)] if layer is None else layer.advance(starts, batch, tokens)
        if starts is None and len(groups) == 1:
            return self.mix(hidden_states, position_embeddings, groups[0], layer), None
        y = torch.zeros_like(hidden_states)
        for group in groups:
            skip = max(0, group.start - before)
            if skip < tokens:
                tables = position_embeddings and tuple(
                    _rows(each, group.rows)[:, skip:] for each in position_embeddings
                )
                part = self.mix(hidden_states[group.rows, skip:], tables, group, layer)
                y[group.rows, skip:] = part.to(y.dtype)
        return y, None

    def mix(self, x: Tensor, tables: Sequence[Tensor] | None, group: Group, layer: MixerLayer | None) -> Tensor:
        """One group of sequences, from their first tokens or continued."""
        state = None if layer is None else layer.state_of(group, self.mixer, x)
        return self.mixer(x, self.rope(tables), state)

    def rope(self, tables: Sequence[Tensor] | None) -> Rope | None:
        """Our form of a model's rotary tables, (1 or B, N, D) with both halves alike; sequences of a group agree."""
        config = self.mixer.config
        if tables is None or config.position == "none":
            return None
        cos, sin = tables
        if cos.shape[-1] != config.head_dim:
            raise ValueError(f"rotary positions: got {cos.shape[-1]} channels, need all {config.head_dim} of a head")
        if cos.shape[0] > 1 and not bool((cos == cos[:1]).all()):
            raise ValueError("rotary positions: got sequences at other positions than their neighbours, need the same")
        return cos[0, :, : config.head_dim // 2], sin[0, :, : config.head_dim // 2]

    def layer_of(self, past: Cache) -> MixerLayer:
        """Our layer of a model's cache, put there while the cache is new."""
        layers, index = past.layers, self.layer_idx
        while len(layers) <= index and past.layer_class_to_replicate is DynamicLayer:
            layers.append(DynamicLayer())
        layer = layers[index] if index < len(layers) else None
        if type(layer) is DynamicLayer and not layer.is_initialized:
            layer = layers[index] = MixerLayer(self.longest)
        if not isinstance(layer, MixerLayer) or past.offloading:
            raise ValueError(f"cache: got {type(past).__name__} with {layer}, need a new default (dynamic) cache")
        return layer


def _rows(table: Tensor, rows: Any) -> Tensor:
    return table if table.shape[0] == 1 else table[rows]


def replace_attention(
    model: PreTrainedModel, name: str, *, layers: Iterable[int] | None = None, seed: int = 0, **options: Any
) -> PreTrainedModel:
    """Put a mixer in the place of a model's attention modules, in the model itself.

    The projections stay those of the model, with their weights. What else a mixer has is initialised here and becomes
    part of ``model.state_dict()``. Layers that are not replaced keep softmax attention.

    Args:
        model: a Llama or a relative: ``q_proj``, ``k_proj``, ``v_proj``, ``o_proj`` and nothing else in its attention,
            which is tried on a few tokens to see that it is softmax attention between rotary pairs.
        name: a mixer.
        layers: which layers; all if not given.
        seed: keys the initial weights.
        options: as :func:`nanochat.attention.build` takes them; sizes come from the model. ``qk_norm`` is on by default
            here as there; ``replace_attention(model, "standard", qk_norm=False)`` changes no output of a Llama.

    Returns:
        the model.

    Raises:
        ConfigError: everything that does not fit, one line each; the model is then as it was.

    Example:
        >>> model = replace_attention(LlamaForCausalLM(config), "gauge", gauge_group="u1")
        >>> model.generate(prompt, max_new_tokens=20)
    """
    found = _attention_modules(model)
    if not found:
        need = ", ".join(PROJECTIONS.values())
        raise ConfigError(
            [f"model: got {type(model).__name__} without attention that we know, need modules with {need}"]
        )
    chosen = {module.layer_idx for module in found.values()} if layers is None else set(layers)
    register(BASELINE, REST)
    faults = _faults(found, chosen, options)
    try:
        config = mixer_config(name, {"sequence_len": min(_longest(model), TABLE), **options, **_sizes(found)})
    except ConfigError as error:
        raise ConfigError([*faults, *error.faults]) from None
    if not has_plain_projections(blank(config)):
        faults.append(OWN_MAPS.format(name=name))
    if faults:
        raise ConfigError(faults)
    for path, module in found.items():
        if module.layer_idx in chosen:
            model.set_submodule(path, _built(config, module, _longest(model), seed))
    model.set_attn_implementation(REST)  # its masks are ours
    return model


def _attention_modules(model: nn.Module) -> dict[str, Any]:
    """Attention modules by path."""
    names = {*PROJECTIONS.values(), "layer_idx"}
    return {path: module for path, module in model.named_modules() if all(hasattr(module, name) for name in names)}


def _faults(found: dict[str, Any], chosen: set[int], options: dict[str, Any]) -> list[str]:
    faults = [f"{key}: got {options[key]}, need none: the model has it" for key in SIZES if key in options]
    absent = sorted(chosen - {module.layer_idx for module in found.values()})
    if absent:
        faults.append(f"layers: got {', '.join(map(str, absent))}, need 0 to {len(found) - 1}")
    return faults + [
        fault for path, each in found.items() if each.layer_idx in chosen for fault in _misfits(path, each)
    ]


def _misfits(path: str, module: Any) -> list[str]:
    """What an attention module does that a mixer in its place would not."""
    found = []
    extra = {name.split(".")[0] for name, _ in module.named_parameters()} - set(PROJECTIONS.values())
    width, heads = module.q_proj.in_features, module.q_proj.out_features
    if extra:
        found.append(f"{path}: got {', '.join(sorted(extra))} in it, need the four projections only")
    if width != heads:
        found.append(f"{path}: got {heads} channels in all heads, need the model's width {width}")
    if not is_default_scale(module.scaling, module.head_dim):
        found.append(f"{path}: got scores times {module.scaling:g}, need 1 / sqrt({module.head_dim})")
    if module.attention_dropout:
        found.append(f"{path}: got attention_dropout {module.attention_dropout:g}, need 0")
    if not module.is_causal:
        found.append(f"{path}: got attention that is not causal, need causal")
    reason = "" if found else _not_plain(module)
    return [*found, f"{path}: {reason}"] if reason else found


@torch.no_grad()
def _not_plain(module: Any) -> str:
    """What shows that an attention module is not just softmax attention between rotary pairs; it is tried and compared.

    Five tokens, so large that scores differ by some units: else all that acts on scores would be hard to see.
    """
    x = torch.randn(1, 5, module.q_proj.in_features, generator=torch.Generator().manual_seed(0)).to(
        module.q_proj.weight
    )
    size = (module.q_proj(x).std() * module.k_proj(x).std()).item()
    x = x * (3 / size) ** 0.5 if size else x
    tables = [torch.cat((half, half), -1)[None].to(x) for half in rotary_table(5, module.head_dim)]
    config = mixer_config(BASELINE, {"qk_norm": False, **_sizes({"": module})})
    ours, _ = _built(config, module, 5, 0)(x, tables)
    before = module.config._attn_implementation
    module.config._attn_implementation = REST
    try:
        theirs = module(hidden_states=x, position_embeddings=tables, attention_mask=None)[0]
    except (TypeError, ValueError) as error:
        return str(error)
    finally:
        module.config._attn_implementation = before
    if (ours - theirs).norm() <= 0.05 * theirs.norm():
        return ""
    return f"got {type(module).__name__} that is not softmax attention between rotary pairs, need that alone"


def _longest(model: PreTrainedModel) -> int:
    return model.config.get_text_config().max_position_embeddings


def _sizes(found: dict[str, Any]) -> dict[str, int]:
    """Those of a mixer that fits the model."""
    module = next(iter(found.values()))
    return {
        "n_embd": module.q_proj.out_features,
        "n_head": module.q_proj.out_features // module.head_dim,
        "n_kv_head": module.k_proj.out_features // module.head_dim,
    }


def _built(config: GPTConfig, module: Any, longest: int, seed: int) -> MixerAttention:
    """The mixer that takes the place of one attention module, with its projections."""
    mixer = MIXERS.get(config.attention_type).load()(config, module.layer_idx)
    mixer.init_weights(Draw(seed, f"layers.{module.layer_idx}.mixer"))
    mixer.to(module.q_proj.weight.device, module.q_proj.weight.dtype)
    for ours, theirs in PROJECTIONS.items():
        setattr(mixer, ours, getattr(module, theirs))
    return MixerAttention(mixer, module.layer_idx, longest).train(module.training)
