"""Heads of tropical attention."""

from __future__ import annotations

from nanochat.observe.registry import PROBES, Measure, Probe

PROBES.register(
    Probe(
        name="tropical",
        title="how safe the winners of max-plus attention are",
        source="arXiv:2505.17190",
        cls="look",
        measures=(Measure("margin", "score", "winner minus runner-up, the least over a token's channels; median"),),
    ),
    __name__,
)

import torch

from nanochat.attention.heads import Rope
from nanochat.attention.tropical import Tropical, margins, translate
from nanochat.observe._seen import Seen


def look(mixer: Tropical, x: torch.Tensor, rope: Rope | None) -> Seen:
    """Margins as ``--tropical-record-margins`` has them; a deformed maximum has no winner."""
    if mixer.beta is not None:
        return Seen()
    q, k, v = mixer.project(x, rope if mixer.rotary else None)
    if rope is not None and not mixer.rotary:
        q, k = translate(q, k, mixer.score)
    found = margins(q, k, v.to(q.dtype), mixer.score).token[:, :, 1:]  # the first token has no runner-up
    return Seen(own={"margin": found.double().transpose(0, 1).flatten(1).median(-1).values})
