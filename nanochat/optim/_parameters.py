"""Which parameter is a matrix of the stack, which an embedding, the head, or another: what optimizers group by."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from nanochat.config import OptimConfig
    from nanochat.gpt import GPT


@dataclass(frozen=True, slots=True)
class Parameters:
    """Every trainable parameter of a model, once.

    Attributes:
        matrices: linear maps of the block stack, 2-D with both sides above 1.
        embedding: the token embedding (and the head, where they are tied).
        head: the output head, where it has its own weight.
        others: gains, biases, scalars, tables, higher tensors: whatever else the stack holds.
    """

    matrices: list[nn.Parameter] = field(default_factory=list)
    embedding: list[nn.Parameter] = field(default_factory=list)
    head: list[nn.Parameter] = field(default_factory=list)
    others: list[nn.Parameter] = field(default_factory=list)


def parameters_of(model: GPT) -> Parameters:
    """Sort the trainable parameters of a model."""
    parts = Parameters()
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        if parameter is model.embed.weight:
            parts.embedding.append(parameter)
        elif parameter is model.head.weight:
            parts.head.append(parameter)
        elif parameter.ndim == 2 and min(parameter.shape) > 1 and id(parameter) not in tables:
            parts.matrices.append(parameter)
        else:
            parts.others.append(parameter)
    return parts


def groups_of(model: GPT, optim: OptimConfig, rate: float) -> list[dict[str, Any]]:
    """Named groups with their peak rates, empty ones left out; only matrices of the stack decay.

    Args:
        model: whose parameters are grouped.
        optim: the scales of embedding and head, and the weight decay.
        rate: peak rate of matrices and others.
    """
    parts = parameters_of(model)
    named = (
        ("matrices", parts.matrices, rate, optim.weight_decay),
        ("embedding", parts.embedding, rate * optim.embedding_lr_scale, 0.0),
        ("head", parts.head, rate * optim.head_lr_scale, 0.0),
        ("others", parts.others, rate, 0.0),
    )
    return [
        {"name": name, "params": params, "lr": peak, "initial_lr": peak, "weight_decay": decay}
        for name, params, peak, decay in named
        if params
    ]
