"""Probes of trained heads, one file per mixer: adding a file is adding a probe; nothing else names it."""

from __future__ import annotations

from pathlib import Path

from nanochat.observe.registry import PROBES

PROBES.discover(__name__, Path(__file__).parent)

__all__ = ["PROBES"]
