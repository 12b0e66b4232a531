"""The registry of optimizers, and the learning rate that the options mean. No heavy import."""

from __future__ import annotations

from nanochat.config import OptimConfig
from nanochat.registry import OptimizerRecord, Registry

OPTIMIZERS: Registry[OptimizerRecord] = Registry("optimizer")

ADAMW_OPERATIONS = 14
"""Scalar operations of AdamW per weight: decay 1, first moment 3, second moment 4, denominator 3, update 3."""


def peak_rate(name: str, optim: OptimConfig) -> float:
    """The peak learning rate of matrices: as given, or the optimizer's prior."""
    return OPTIMIZERS.get(name).learning_rate if optim.learning_rate is None else optim.learning_rate
