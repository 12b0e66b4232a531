"""Heads of softmax attention."""

from __future__ import annotations

from nanochat.observe.registry import PROBES, Probe

PROBES.register(Probe(name="standard", title="softmax weights", source="arXiv:1706.03762", cls="look"), __name__)

import torch

from nanochat.attention.heads import Rope, causal_mask
from nanochat.attention.standard import Standard
from nanochat.observe._seen import Seen, softmax_weights


def look(mixer: Standard, x: torch.Tensor, rope: Rope | None) -> Seen:
    """The weights, within the window if there is one."""
    q, k, _ = mixer.project(x, rope)
    weights = softmax_weights(q, k)
    seen = weights * causal_mask(x.shape[1], x.shape[1], mixer.window, x.device)
    return Seen(seen / seen.sum(-1, keepdim=True))
