"""Builds and loads the C++ max-plus kernel on first use (placeholder body follows in the next commit)."""

from __future__ import annotations


def reason() -> str:
    """Why the C++ kernel cannot be used; empty where it can."""
    return "not built"


def available() -> bool:
    """Whether the C++ kernel can be used."""
    return False
