"""What a model asks of its attention beside the sum itself: masks, which padding alone may differ, and keywords."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor
from transformers.masking_utils import causal_mask_function

HARMLESS = {
    "cache_position", "is_causal", "labels", "logits_to_keep", "num_items_in_batch", "output_hidden_states",
    "output_router_logits", "position_ids", "return_dict", "use_cache",
}  # fmt: skip
"""Keywords that models hand down to attention and that ask nothing of it."""


def starts_of(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: Any = 0,
    kv_offset: Any = 0,
    mask_function: Callable[..., Any] = causal_mask_function,
    attention_mask: Tensor | None = None,
    **_: Any,
) -> Tensor | None:
    """What takes the place of a mask: the first token of each sequence after its padding, (B,) on the CPU.

    Padding on the right needs no mask, for nothing that is causal sees it. None: no sequence is padded on the left.

    Raises:
        ValueError: the mask is another than causal with padding, or the cache holds more than the tokens seen.
    """
    if mask_function is not causal_mask_function:
        raise ValueError("attention mask: got packed, windowed or custom masking, need a causal mask with padding only")
    if int(kv_offset) != 0 or kv_length != int(q_offset) + q_length:
        raise ValueError(
            f"cache: got {kv_length} keys from {int(kv_offset)} on for tokens up to {int(q_offset) + q_length}, "
            "need the default (dynamic) cache"
        )
    if attention_mask is None or bool(attention_mask.all()):
        return None
    if attention_mask.shape[1] != kv_length:
        raise ValueError(f"attention mask: got {attention_mask.shape[1]} columns, need {kv_length}, one for each token")
    real = attention_mask.bool().cpu()
    first = real.int().argmax(1)
    after = kv_length - real.flip(1).int().argmax(1)
    if bool((real.sum(1) != after - first).any()):
        raise ValueError("attention mask: got a gap between tokens, need padding at the ends only")
    return first if bool(first.any()) else None


def check_starts(mask: Any) -> Tensor | None:
    """The mask as :func:`starts_of` makes it; one that a user made by hand is refused."""
    if mask is None or (isinstance(mask, Tensor) and mask.ndim == 1):
        return mask
    raise ValueError(f"attention mask: got {type(mask).__name__} of another kind, need (batch, tokens), 0 for padding")


def check_keywords(label: str, keywords: dict[str, Any], dropout: float = 0.0) -> None:
    """Refuse what would change the attention and is not honoured."""
    if dropout:
        raise ValueError(f"{label}: got dropout {dropout:g}, need attention_dropout 0")
    if keywords.get("is_causal") is False:
        raise ValueError(f"{label}: got is_causal False, need causal attention")
    asked = [name for name, value in keywords.items() if name not in HARMLESS and not (value is None or value is False)]
    if asked:
        raise ValueError(f"{label}: got {', '.join(sorted(asked))}, which it does not support, need none")


def groups_of(starts: Tensor | None) -> Iterator[tuple[Any, int]]:
    """Sequences with the same padding are computed together: their rows, and where they start."""
    if starts is None:
        yield slice(None), 0
        return
    for start in starts.unique().tolist():
        yield (starts == start).nonzero()[:, 0], start


def is_default_scale(scale: float | None, dim: int) -> bool:
    """Whether scores are divided by the root of the channels of a head, as ours are."""
    return scale is None or abs(scale * dim**0.5 - 1) < 1e-6
