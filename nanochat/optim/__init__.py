"""Optimizers, one file each. ``OPTIMIZERS`` lists them; :func:`build` gives one for a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from nanochat.config import ConfigError, OptimConfig
from nanochat.optim.registry import OPTIMIZERS, peak_rate
from nanochat.registry import unknown

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from nanochat.gpt import GPT

OPTIMIZERS.discover(__name__, Path(__file__).parent)

__all__ = ["OPTIMIZERS", "build", "faults", "peak_rate"]


def faults(name: str, optim: OptimConfig) -> list[str]:
    """What is wrong with ``--optimizer-type`` and the optimizers' own options, one line each; torch is not imported."""
    found = []
    if name not in OPTIMIZERS:
        found.append(unknown("--optimizer-type", name, OPTIMIZERS.names()))
    for owner, knobs in optim.knobs.items():
        if owner in OPTIMIZERS and not isinstance(knobs, OPTIMIZERS.get(owner).knobs):
            need = OPTIMIZERS.get(owner).knobs.__name__
            found.append(f"knobs of {owner}: got {type(knobs).__name__}, need {need}")
    return found


def build(model: GPT, optim: OptimConfig) -> Optimizer:
    """The optimizer that ``model.config.optimizer_type`` names, over every parameter of the model.

    Each parameter group has ``initial_lr``, its peak, beside ``lr``: a schedule sets
    ``group["lr"] = group["initial_lr"] * factor``, so that the ratios between groups last.

    Raises:
        ConfigError: unknown name or options of another optimizer.

    Example:
        >>> optimizer = build(GPT(GPTConfig(optimizer_type="muon")), OptimConfig())
        >>> [(group["name"], round(group["initial_lr"], 4)) for group in optimizer.param_groups]
        [('matrices', 0.02), ('embedding', 0.003), ('head', 0.003)]
    """
    found = faults(model.config.optimizer_type, optim)
    if found:
        raise ConfigError(found)
    return OPTIMIZERS.get(model.config.optimizer_type).load()(model, optim)
