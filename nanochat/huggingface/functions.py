"""Mixers as attention functions of transformers: queries, keys and values in, one vector per query out."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

from nanochat.architecture import attention_types, mixer_config
from nanochat.attention import MIXERS
from nanochat.attention.heads import HeadMixer
from nanochat.config import ConfigError, GPTConfig
from nanochat.huggingface.demands import check_keywords, check_starts, groups_of, is_default_scale, starts_of
from nanochat.registry import unknown

PREFIX = "mgr_"
PROJECTIONS = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "out": "o_proj"}
"""Our names and those of Llama and its relatives."""

OWN_MAPS = "got {name} with projections of its own kind, need full matrices, for those of the model stay in use"
ANY_SIZE = {"n_head": 2, "n_embd": 64}

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


def register(name: str | None = None, label: str | None = None, **options: Any) -> list[str]:
    """Make mixers known to transformers as attention implementations.

    The model's own projections, positions, norms and cache stay in use, so that any model that follows transformers'
    attention interface takes them, with any weights. Positions are therefore rotary pairs in every mixer.

    Args:
        name: a mixer; all of them if not given.
        label: what ``attn_implementation`` will say; ``mgr_<name>`` if not given.
        options: of the mixer, as :func:`nanochat.attention.build` takes them, for instance ``tropical_score``.

    Returns:
        the labels that can be used. Mixers that need more than queries, keys and values get a label that raises and
        names :func:`nanochat.huggingface.replace_attention`.

    Raises:
        ConfigError: unknown name or option; a mixer that is no function of queries, keys and values.

    Example:
        >>> register("tropical", "mgr_maxplus", tropical_score="maxplus")
        ['mgr_maxplus']
        >>> model = AutoModelForCausalLM.from_config(config, attn_implementation="mgr_maxplus")
    """
    if name is None:
        return [found for each in attention_types() for found in _register(each, PREFIX + each, {})]
    label = label or PREFIX + name
    reason = _why_not(name)
    if reason:
        raise ConfigError([f"{label}: {reason}"])
    config = mixer_config(name, {**ANY_SIZE, **options})  # faults of the options now, of sizes at first use
    if not has_plain_projections(blank(config)):
        raise ConfigError([f"{label}: {OWN_MAPS.format(name=name)}"])
    return _register(name, label, options)


def _register(name: str, label: str, options: dict[str, Any]) -> list[str]:
    reason = _why_not(name)
    AttentionInterface.register(label, _refusal(label, reason) if reason else attention_function(label, name, options))
    AttentionMaskInterface.register(label, starts_of)
    return [] if reason else [label]


def _why_not(name: str) -> str:
    """Why a mixer cannot be an attention function; empty if it can."""
    if name not in attention_types():
        return unknown("mixer", name, MIXERS.names())
    if name not in MIXERS:
        return f"{name} is a block stack, which replaces whole blocks and not attention; need a mixer"
    if not is_function_of_heads(name):
        return f"{name} needs more than queries, keys and values; need replace_attention(model, {name!r})"
    return ""


def is_function_of_heads(name: str) -> bool:
    """Whether a mixer computes with queries, keys and values alone: no parameters or token inputs of its own."""
    mixer = blank(mixer_config(name, ANY_SIZE))
    own = {path for path, _ in mixer.named_parameters()} - {f"{each}.weight" for each in PROJECTIONS}
    return has_plain_projections(mixer) and not own and type(mixer).attend is not HeadMixer.attend


def blank(config: GPTConfig) -> Any:
    """A mixer that is not initialised, to be looked at or for what needs no weights."""
    return MIXERS.get(config.attention_type).load()(config, 0)


def has_plain_projections(mixer: Any) -> bool:
    """Whether the maps of a mixer are full matrices, as a model's own are."""
    return isinstance(mixer, HeadMixer) and all(type(getattr(mixer, each)) is nn.Linear for each in PROJECTIONS)


def _refusal(label: str, reason: str) -> Callable[..., Any]:
    def forward(*_: Any, **__: Any) -> Any:
        raise ValueError(f"{label}: {reason}")

    return forward


def attention_function(label: str, name: str, options: dict[str, Any]) -> Callable[..., tuple[Tensor, None]]:
    """The mixer as transformers' attention interface has it: (B, H, N, D) in, (B, N, H, D) out, no weights."""

    @cache
    def attend(heads: int, kv_heads: int, dim: int) -> Attend:
        sizes = {"n_head": heads, "n_kv_head": kv_heads, "n_embd": heads * dim, "position": "none", "qk_norm": False}
        config = mixer_config(name, {**sizes, **options})
        mixer = blank(config)
        for projection in PROJECTIONS:  # they take no part
            delattr(mixer, projection)
        return mixer.attend

    def forward(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Any,
        dropout: float = 0.0,
        scaling: float | None = None,
        **keywords: Any,
    ) -> tuple[Tensor, None]:
        heads, dim = query.shape[1], query.shape[3]
        check_keywords(label, keywords, dropout)
        if not is_default_scale(scaling, dim):
            raise ValueError(f"{label}: got scores times {scaling:g}, need 1 / sqrt({dim})")
        y = by_padding(attend(heads, key.shape[1], dim), query, key, value, check_starts(attention_mask))
        return y.transpose(1, 2).contiguous(), None

    return forward


def by_padding(attend: Attend, q: Tensor, k: Tensor, v: Tensor, starts: Tensor | None) -> Tensor:
    """Attention of each sequence from its first token on; what padding gets is 0."""
    if starts is None:
        return attend(q, k, v)
    y, before = torch.zeros_like(q), k.shape[2] - q.shape[2]
    for rows, start in groups_of(starts):
        skip = max(0, start - before)
        if skip < q.shape[2]:
            y[rows, :, skip:] = attend(q[rows, :, skip:], k[rows, :, start:], v[rows, :, start:]).to(y.dtype)
    return y
