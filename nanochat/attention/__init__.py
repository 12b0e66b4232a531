"""Mixers, one file each. ``MIXERS`` lists them; :func:`build` gives one as a module for any PyTorch model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanochat.attention.registry import MIXERS

if TYPE_CHECKING:
    from torch import nn

MIXERS.discover(__name__, Path(__file__).parent)

__all__ = ["MIXERS", "build"]


def build(name: str, *, n_embd: int, n_head: int, layer: int = 0, seed: int = 0, **options: Any) -> nn.Module:
    """One initialised mixer.

    Args:
        name: as in ``--attention-type``.
        n_embd: model width C.
        n_head: heads H; C must be divisible by it.
        layer: index that keys its initial weights.
        seed: seed of its initial weights.
        options: any other field of :class:`nanochat.config.GPTConfig`, ``knobs`` included.

    Returns:
        Module with ``forward(x: (B, T, C), rope=None, cache=None) -> (B, T, C)``.

    Raises:
        ValueError: unknown name or a broken requirement, all reported together.

    Example:
        >>> mixer = build("standard", n_embd=64, n_head=4)
        >>> mixer(torch.randn(2, 16, 64), None).shape
        torch.Size([2, 16, 64])
    """
    from nanochat.architecture import check
    from nanochat.config import GPTConfig
    from nanochat.initialise import Draw

    config = GPTConfig(n_embd=n_embd, n_head=n_head, attention_type=name, **options)
    check(config)
    mixer = MIXERS.get(name).load()(config, layer)
    mixer.init_weights(Draw(seed, f"stack.blocks.{layer}.mixer"))
    return mixer
