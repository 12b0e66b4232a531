r"""Held-out score in bits per byte on the frozen set, with what each document contributed.

.. math:: \mathrm{bpb} = \frac{\sum_d n_d}{\ln 2 \sum_d b_d},

n_d nats and b_d bytes of document d. The bytes are those of the text, so that tokenizers can be compared.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from nanochat.distributed import World
from nanochat.precision import Precision

if TYPE_CHECKING:
    from nanochat.data import EvalSet
    from nanochat.gpt import GPT

TOKENS_AT_A_TIME = 8192
"""Tokens per forward pass of an evaluation."""


@dataclass(frozen=True, slots=True)
class Score:
    """A held-out evaluation.

    Args:
        document_nats: -ln p of each document's scored bytes, float64.
        document_bytes: how many those are.
    """

    document_nats: np.ndarray
    document_bytes: np.ndarray

    @property
    def nats(self) -> float:
        return float(self.document_nats.sum())

    @property
    def bits_per_byte(self) -> float:
        return bits_per_byte(self.nats, int(self.document_bytes.sum()))


def bits_per_byte(nats: float, size: int) -> float:
    """nats / (ln 2 * bytes)."""
    return nats / (math.log(2) * size)


@torch.no_grad()
def evaluate(model: GPT, eval_set: EvalSet, precision: Precision, world: World | None = None) -> Score:
    """Score the frozen set; the processes of a run share its windows out."""
    place = world or World()
    windows = eval_set.windows(model.config.sequence_len)
    rows = max(1, TOKENS_AT_A_TIME // model.config.sequence_len)
    device = precision.torch_device
    nats = torch.zeros(len(eval_set.document_bytes), dtype=torch.float64, device=device)
    model.eval()
    for start in range(rows * place.rank, len(windows.inputs), rows * place.size):
        part = slice(start, start + rows)
        inputs, targets, document = (
            torch.from_numpy(array[part]).to(device) for array in (windows.inputs, windows.targets, windows.document)
        )
        with precision.autocast():
            loss = model(inputs, targets, reduction="none")
        nats.index_add_(0, document, loss.double().sum(1))
    model.train()
    return Score(place.sum(nats).cpu().numpy(), np.asarray(eval_set.document_bytes))
