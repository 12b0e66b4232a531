"""Mixers, one file each. ``MIXERS`` lists them; :func:`build` gives one as a module for any PyTorch model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanochat.attention.registry import MIXERS

if TYPE_CHECKING:
    from nanochat.attention.heads import rotary_table
    from nanochat.initialise import Mixer

MIXERS.discover(__name__, Path(__file__).parent)

__all__ = ["MIXERS", "build", "rotary_table"]


def build(name: str, *, n_embd: int, n_head: int, layer: int = 0, seed: int = 0, **options: Any) -> Mixer:
    """One initialised mixer: a causal sequence layer, (B, T, C) to (B, T, C), for any PyTorch model.

    It takes what a pre-norm block hands it and returns what the block adds. Its output map starts at zero, as the end
    of a residual branch should; ``mixer.out`` is that map, an ``nn.Linear``, for those who want it otherwise.

    Args:
        name: as in ``--attention-type``; ``MIXERS.names()`` lists them.
        n_embd: model width C.
        n_head: heads H; C must be divisible by it.
        layer: index that keys its initial weights.
        seed: seed of its initial weights.
        options: the other options of the command line, with underscores: ``n_kv_head`` (K heads of keys and values,
            grouped queries), ``qk_norm``, ``position``, ``sequence_len``, ``logit_scaling``, and those of the mixer
            itself, for instance ``tropical_score="maxplus"``.

    Returns:
        Module with ``forward(x, rope=None, cache=None)``:

        - ``x``: (B, T, C).
        - ``rope``: cosines and sines of the T positions, (T, C / H / 2) each, rows of :func:`rotary_table`. Mixers with
          positions of another kind read from it only that positions are wanted. None: no positions.
        - ``cache``: from ``mixer.init_cache(batch, length, device, dtype)``; x then continues the sequences that it
          holds, and it holds x afterwards. None: x is the whole sequence.

    Raises:
        ValueError: unknown name or option, or a broken requirement; all reported together, one line each.

    Example:
        >>> mixer = build("tropical", n_embd=64, n_head=4, tropical_score="maxplus")
        >>> cos, sin = rotary_table(16, 64 // 4)
        >>> mixer(torch.randn(2, 16, 64), (cos, sin)).shape
        torch.Size([2, 16, 64])
    """
    from nanochat.architecture import mixer_config
    from nanochat.initialise import Draw

    config = mixer_config(name, {"n_embd": n_embd, "n_head": n_head, **options})
    mixer = MIXERS.get(name).load()(config, layer)
    mixer.init_weights(Draw(seed, f"stack.blocks.{layer}.mixer"))
    return mixer


def __getattr__(name: str) -> Any:
    """The rotary table on first use, since it needs torch (PEP 562)."""
    if name == "rotary_table":
        from nanochat.attention.heads import rotary_table

        return rotary_table
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
