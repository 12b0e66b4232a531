"""Heads of surreal attention."""

from __future__ import annotations

from nanochat.observe.registry import PROBES, Measure, Probe

PROBES.register(
    Probe(
        name="surreal",
        title="softmax weights of monomials, and the orders of magnitude of keys",
        source="arXiv:1602.07868",
        cls="look",
        measures=(
            Measure("scale", "nats", "order of magnitude of a key, log of its root mean square"),
            Measure("spread", "nats", "standard deviation of that over the tokens of a sequence"),
        ),
    ),
    __name__,
)

import torch

from nanochat.attention.heads import Rope
from nanochat.attention.surreal import Surreal
from nanochat.observe._seen import Seen, per_query_head, softmax_weights


def look(mixer: Surreal, x: torch.Tensor, rope: Rope | None) -> Seen:
    """Weights X^r exp(m), normalised."""
    q, k, _, r = mixer.heads(x, rope)
    weights = softmax_weights(q, k, bias=(r / mixer.temperature).mT)
    exponents = per_query_head(r[..., 0].double(), q.shape[1])
    return Seen(weights, {"scale": exponents, "spread": exponents.std(-1).mean(0)})
