"""Heads of ultrametric attention."""

from __future__ import annotations

from nanochat.observe.registry import PROBES, Measure, Probe

PROBES.register(
    Probe(
        name="ultrametric",
        title="weights of the prefix kernel, and how long common prefixes are",
        source="doi:10.1103/RevModPhys.58.765",
        cls="look",
        measures=(Measure("prefix", "digits", "expected common prefix of a query and a key, weighted by attention"),),
    ),
    __name__,
)

import torch
from torch import Tensor

from nanochat.attention.heads import Rope
from nanochat.attention.ultrametric import Ultrametric, harden, soft_kernel
from nanochat.observe._seen import Seen


def look(mixer: Ultrametric, x: Tensor, rope: Rope | None) -> Seen:
    """The kernel, normalised; the prefix length is the same kernel with weight 1 at every level but the empty one."""
    q, k, _ = mixer.project(x, None)
    query, key = (mixer.scores(part).double().softmax(-1) for part in (q, k))
    if mixer.hard or mixer.mode == "trie":
        query, key = harden(query), harden(key)
    kernel = soft_kernel(query, key, mixer.levels(q).double()).flatten(1, 2)
    weights = kernel / kernel.sum(-1, keepdim=True)
    ones = torch.ones(q.shape[1], mixer.depth + 1, dtype=torch.float64)
    ones[:, 0] = 0
    return Seen(weights, {"prefix": (weights * soft_kernel(query, key, ones).flatten(1, 2)).sum(-1)})
