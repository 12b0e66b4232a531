"""Heads of 2-simplicial attention."""

from __future__ import annotations

from nanochat.observe.registry import PROBES, Probe

PROBES.register(
    Probe(
        name="simplicial", title="weights of first keys, over all second ones", source="arXiv:2507.02754", cls="look"
    ),
    __name__,
)

import torch
import torch.nn.functional as F
from torch import Tensor

from nanochat.attention.heads import Rope
from nanochat.attention.simplicial import Simplicial, rotate_triples
from nanochat.kernels.simplicial import operators
from nanochat.observe._seen import Seen


def look(mixer: Simplicial, x: Tensor, rope: Rope | None) -> Seen:
    """With v' = 1 and v = a unit vector per token, the mixer's output is its marginal: D tokens at a time."""
    q, k, v = mixer.project(x, None)
    dim, length = q.shape[-1], q.shape[2]
    second = mixer.second["key"](x).unflatten(-1, (-1, dim)).transpose(1, 2)
    second = F.rms_norm(second, (dim,)) if mixer.config.qk_norm else second
    if rope is not None and mixer.form == "determinant":
        q, k, second = (rotate_triples(part, rope) for part in (q, k, second))
    parts = []
    for start in range(0, length, dim):
        unit = torch.eye(length, dtype=v.dtype)[:, start : start + dim]
        unit = F.pad(unit, (0, dim - unit.shape[1])).expand(v.shape).contiguous()
        y = operators.attention(q, k, unit, second, torch.ones_like(v), mixer.window, mixer.form, mixer.slopes)
        parts.append(y[..., : min(dim, length - start)])
    return Seen(torch.cat(parts, -1).double())
