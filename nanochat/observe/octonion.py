"""Heads of octonion attention."""

from __future__ import annotations

from nanochat.observe.registry import PROBES, Probe

PROBES.register(Probe(name="octonion", title="softmax weights", source="arXiv:math/0105155", cls="look"), __name__)

import torch

from nanochat.attention.heads import Rope
from nanochat.attention.octonion import N, Octonion, _scored
from nanochat.observe._seen import Seen, softmax_weights


def look(mixer: Octonion, x: torch.Tensor, rope: Rope | None) -> Seen:
    """Weights as the mixer's; positions enter the scores."""
    q, k, _ = mixer.project(x, None)
    q, k = (_scored(part, mixer.unit_scores, rope)[0] for part in (q, k))
    return Seen(softmax_weights(q, k, (N if mixer.unit_scores else 1) * q.shape[-1] ** -0.5))
