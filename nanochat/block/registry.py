"""The registry of block stacks: what the trunk runs between the embedding and the head."""

from __future__ import annotations

from nanochat.registry import Mechanism, Registry

BLOCKS: Registry[Mechanism] = Registry("block stack")
