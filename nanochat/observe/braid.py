"""Heads of braid attention."""

from __future__ import annotations

from nanochat.observe.registry import PROBES, Measure, Probe

PROBES.register(
    Probe(
        name="braid",
        title="softmax weights between what braids carry, and how often strands cross",
        source="arXiv:math/0409205",
        cls="look",
        measures=(
            Measure("crossings", "per window", "crossings of a window, each choice as a whole one; mean of braids"),
        ),
    ),
    __name__,
)

import torch

from nanochat.attention.braid import SIZE, Braid, frames, gates, lanes, rotary_width
from nanochat.attention.heads import Rope, repeat_heads, rotate_neutral
from nanochat.kernels.scan import operators
from nanochat.observe._seen import Seen, per_query_head, softmax_weights


def crossings(choice: torch.Tensor) -> torch.Tensor:
    """Letters of the words that are no stay, (B, K, T, 5, n) -> (K,), the mean over sequences and braids."""
    return (choice.argmax(-2) != 0).double().sum(2).mean((0, 2))


def look(mixer: Braid, x: torch.Tensor, rope: Rope | None) -> Seen:
    """``transport``: weights and letters. ``crossing``: how many tokens the last query's strand crosses."""
    if not mixer.transports:
        q, k, _ = mixer.project(x, rope)
        gate = gates(q, repeat_heads(k, q.shape[1] // k.shape[1]), mixer.knobs.tau, mixer.knobs.mode)
        return Seen(own={"crossings": (gate[:, :, -1] > 0.5).double().sum(-1).mean(0)})
    q, k, _ = mixer.project(x, None)
    if rope is not None:
        first, width = lanes(mixer.config) * SIZE, rotary_width(mixer.config)
        q, k = (rotate_neutral(part, rope, first, width) for part in (q, k))
    choice = mixer.choice(x)
    frame, _ = frames(choice, mixer.table())
    q, k = (operators.turn(frame, part, "so4") for part in (q, k))
    counted = per_query_head(crossings(choice)[None], q.shape[1])[0]
    return Seen(softmax_weights(q, k), {"crossings": counted})
