"""Hessian products and Ritz values of a language model against curvlinops and a dense eigensolver.

Needs the extra `verify`: pip install -e ".[verify]" -c constraints.txt
"""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from nanochat.config import GPTConfig
from nanochat.curvature import Curvature
from nanochat.gpt import GPT
from nanochat.optim._krylov import lanczos

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its dependencies warn about PyTorch's own names
    curvlinops = pytest.importorskip("curvlinops", reason='needs the extra "verify"')

WIDE = torch.float64
SIZES = {"n_layer": 1, "n_head": 2, "n_embd": 4, "sequence_len": 6, "vocab_size": 7}


def language_model(attention: str) -> tuple[GPT, Tensor, Tensor]:
    model = GPT(GPTConfig(**SIZES, attention_type=attention)).double()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3, generator=generator)
    drawn = torch.randint(7, (3, 7), generator=generator)
    return model, drawn[:, :-1], drawn[:, 1:]


class Predictions(nn.Module):
    """The logits of all tokens, one after another, which is how curvlinops wants them."""

    def __init__(self, model: GPT):
        super().__init__()
        self.model = model

    def forward(self, idx: Tensor) -> Tensor:
        return self.model(idx).flatten(0, 1)


def theirs(model: GPT, idx: Tensor, targets: Tensor) -> Tensor:
    """The dense Hessian that curvlinops computes, product by product."""
    parameters = list(model.parameters())
    data = [(idx, targets.flatten())]
    with sdpa_kernel(SDPBackend.MATH), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        operator = curvlinops.HessianLinearOperator(
            Predictions(model),
            nn.CrossEntropyLoss(),
            parameters,
            data,
            check_deterministic=False,
            num_data=len(idx),
        )
        return operator @ torch.eye(sum(parameter.numel() for parameter in parameters), dtype=WIDE)


@pytest.mark.parametrize("attention", ["standard", "surreal"])
def test_ritz_values_are_those_of_the_hessian_of_curvlinops(attention):
    model, idx, targets = language_model(attention)
    curvature = Curvature(lambda: model(idx, targets), list(model.parameters()))
    dense = theirs(model, idx, targets)
    start = torch.randn(len(dense), generator=torch.Generator().manual_seed(1), dtype=WIDE)
    assert (curvature(start) - dense @ start).abs().max() < 1e-10
    exact = torch.linalg.eigvalsh(dense)
    assert exact[0] < -1e-3 < 1e-3 < exact[-1], "an indefinite Hessian, or this shows little"
    ritz = torch.linalg.eigvalsh(lanczos(curvature, start, 60).projected)
    assert (ritz[-4:] - exact[-4:]).abs().max() < 1e-8
    assert (ritz[:2] - exact[:2]).abs().max() < 1e-6
    assert exact[0] - 1e-9 <= ritz[0] and ritz[-1] <= exact[-1] + 1e-9
    few = torch.linalg.eigvalsh(lanczos(curvature, start, 2).projected)
    assert (few[-1] - exact[-1]).abs() > 1e-3, "two products do not know the spectrum"
