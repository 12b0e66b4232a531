"""Text in, batches out: sources, tokenizers, the loader, the frozen evaluation set. No torch here.

Example::

    dataset = open_dataset(DataConfig(), vocab_size=1024)
    inputs, targets = dataset.loader(batch_size=16, sequence_len=256, seed=0).batch(step=0)

Names are imported when they are first used, so that ``import nanochat.data`` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nanochat.data.corpus import Document, Manifest
    from nanochat.data.dataset import Dataset, open_dataset
    from nanochat.data.evaluation import EvalSet, Windows
    from nanochat.data.loader import Loader
    from nanochat.data.tokenizer import Tokenizer

_HOMES = {
    "Dataset": "dataset",
    "Document": "corpus",
    "EvalSet": "evaluation",
    "Loader": "loader",
    "Manifest": "corpus",
    "Tokenizer": "tokenizer",
    "Windows": "evaluation",
    "open_dataset": "dataset",
}

__all__ = ["Dataset", "Document", "EvalSet", "Loader", "Manifest", "Tokenizer", "Windows", "open_dataset"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
