"""Heads of fractal attention."""

from __future__ import annotations

from nanochat.observe.registry import PROBES, Measure, Probe

PROBES.register(
    Probe(
        name="fractal",
        title="weights of shared paths or near histories, and how deep addresses are shared",
        source="doi:10.1512/iumj.1981.30.30055",
        cls="look",
        measures=(Measure("depth", "levels", "path form: expected shared levels of two addresses, by attention"),),
    ),
    __name__,
)

import torch
from torch import Tensor

from nanochat.attention.fractal import Fractal, geometric_scan, squared_distances
from nanochat.attention.heads import Rope, repeat_heads
from nanochat.observe._seen import Seen, causal_softmax


def look(mixer: Fractal, x: Tensor, rope: Rope | None) -> Seen:
    """``path``: products of overlaps. ``suffix``: powers of distances between histories."""
    if mixer.form == "suffix":
        t, _ = (part.double() for part in mixer.steps(x))
        after = geometric_scan(t, mixer.contraction, t.new_zeros(*t.shape[:2], t.shape[3]))
        before = torch.cat((torch.zeros_like(after[:, :, :1]), after[:, :, :-1]), 2)
        power = -0.5 * (mixer.tau * mixer.power.double().exp()).view(after.shape[1], -1, 1, 1)
        return Seen(causal_softmax((squared_distances(after, before).log().unsqueeze(2) * power).flatten(1, 2)))
    q, k, _ = mixer.project(x, None)
    query, key = mixer.levels(q).double(), mixer.levels(k).double()
    key = repeat_heads(key.flatten(-2), q.shape[1] // k.shape[1]).unflatten(-1, key.shape[-2:])
    overlap = torch.einsum("bhnlm,bhslm->bhnsl", query, key)
    weights = causal_softmax(overlap.log().sum(-1))
    return Seen(weights, {"depth": (weights * overlap.cumprod(-1).sum(-1)).sum(-1)})
