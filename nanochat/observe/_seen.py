"""What a probe hands over, and helpers that several share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor

from nanochat.attention.heads import causal_mask, repeat_heads


@dataclass(frozen=True, slots=True)
class Seen:
    """Of one mixer on one batch.

    Args:
        weights: (B, H, T, T), what each query takes from each token, rows sum to 1; None where a mean is no part of it.
        own: the probe's measures, (H,), or (B, H, T) to be averaged over sequences and tokens.
    """

    weights: Tensor | None = None
    own: Mapping[str, Tensor] = field(default_factory=dict)


def softmax_weights(
    q: Float[Tensor, "B H T D"], k: Float[Tensor, "B K T D"], scale: float | None = None, bias: Tensor | None = None
) -> Float[Tensor, "B H T T"]:
    """Causal softmax of scaled products, in float64; ``bias`` (B, K, 1, T) is added to the scores."""
    groups = q.shape[1] // k.shape[1]
    scores = q.double() @ repeat_heads(k.double(), groups).mT * (q.shape[-1] ** -0.5 if scale is None else scale)
    if bias is not None:
        scores = scores + repeat_heads(bias.double(), groups)
    return causal_softmax(scores)


def causal_softmax(scores: Float[Tensor, "B H T T"]) -> Float[Tensor, "B H T T"]:
    """Softmax over the tokens so far."""
    length = scores.shape[-1]
    mask = causal_mask(length, length, 0, scores.device)
    return scores.masked_fill(~mask, float("-inf")).softmax(-1)


def per_query_head(x: Tensor, heads: int) -> Tensor:
    """Values of key/value heads, given to each query head of theirs; (B, K, ...) -> (B, H, ...)."""
    return x.repeat_interleave(heads // x.shape[1], 1)
