"""Block stacks, one file each: how mixers and MLPs are joined into depth."""

from __future__ import annotations

from pathlib import Path

from nanochat.block.registry import BLOCKS

BLOCKS.discover(__name__, Path(__file__).parent)

__all__ = ["BLOCKS"]
