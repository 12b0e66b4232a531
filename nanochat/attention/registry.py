"""The registry of mixers: modules that move information between tokens inside one block."""

from __future__ import annotations

from nanochat.registry import Mechanism, Registry

MIXERS: Registry[Mechanism] = Registry("attention type")
