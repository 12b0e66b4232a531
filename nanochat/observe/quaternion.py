"""Heads of quaternion attention."""

from __future__ import annotations

from nanochat.observe.registry import PROBES, Measure, Probe

PROBES.register(
    Probe(
        name="quaternion",
        title="softmax weights, and how far values are turned",
        source="arXiv:1906.04393",
        cls="look",
        measures=(Measure("turn", "rad", "angle between a query's rotor and those it reads, weighted by attention"),),
    ),
    __name__,
)

import torch
from torch import Tensor

from nanochat.attention.heads import Rope, repeat_heads
from nanochat.attention.quaternion import N, Quaternion
from nanochat.kernels.hypercomplex import fast
from nanochat.observe._seen import Seen, softmax_weights


def rotors(x: Tensor) -> Tensor:
    """Unit quaternions of a head, as the mixer makes them."""
    return fast.unit(fast.split(x, N)).flatten(-2)


def look(mixer: Quaternion, x: Tensor, rope: Rope | None) -> Seen:
    """Weights as the mixer's; the angle of u_i conj(w_j) is 2 arccos |Re|, the mean over a head's numbers."""
    q, k, _ = mixer.project(x, rope)
    u, w = rotors(q), rotors(k)
    scale = q.shape[-1] ** -0.5
    weights = softmax_weights(u, w, N * scale) if mixer.unit_scores else softmax_weights(q, k, scale)
    blocks = q.shape[-1] // N
    one, other = (part.double().unflatten(-1, (N, blocks)) for part in (u, repeat_heads(w, u.shape[1] // w.shape[1])))
    real = torch.einsum("bhicn,bhjcn->bhijn", one, other).abs().clamp_max(1)
    return Seen(weights, {"turn": (weights * 2 * real.acos().mean(-1)).sum(-1)})
