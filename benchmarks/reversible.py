"""Memory and time of a training step against depth: residual blocks, activation checkpointing, reversible blocks.

Run from the repository, alone on the machine::

    python benchmarks/reversible.py [--rounds 7] [--threads 1] [--json FILE]

``held`` is what the graph keeps between the passes (saved tensors, weights aside), ``peak`` the most that is alive at
once during a step above weights and their gradients, counted tensor by tensor. Times are medians over rounds in which
the contenders take turns, relative to the stored form of the same coupling.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import weakref
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

from nanochat.block.reversible import ReversibleKnobs
from nanochat.gpt import GPT, GPTConfig
from nanochat.trunk import norm

BATCH, LENGTH, WIDTH, VOCABULARY = 8, 256, 128, 1024
DEPTHS = (2, 4, 8, 16, 32, 64)
TIMED_DEPTH = 8


class PeakBytes(TorchDispatchMode):
    """Bytes of all tensors alive that were made inside, at the highest; views of weights take none."""

    def __init__(self, model: torch.nn.Module):
        super().__init__()
        self.alive = {parameter.untyped_storage()._cdata: 0 for parameter in model.parameters()}
        self.total = self.peak = 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **(options or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.untyped_storage()._cdata not in self.alive:
                self._watch(leaf.untyped_storage())
        return result

    def _watch(self, storage: torch.UntypedStorage) -> None:
        self.alive[storage._cdata] = storage.nbytes()
        self.total += storage.nbytes()
        self.peak = max(self.peak, self.total)
        weakref.finalize(storage, self._release, storage._cdata)

    def _release(self, key: int) -> None:
        self.total -= self.alive.pop(key, 0)


def build(name: str, layers: int) -> tuple[GPT, Callable[[Tensor], Tensor]]:
    """A model and its loss as a function of the tokens."""
    kind = "reversible" if name in ("reversible", "stored", "exact") else "standard"
    knobs = {"reversible": ReversibleKnobs(exact=name == "exact")} if kind == "reversible" else {}
    config = GPTConfig(
        n_layer=layers, n_embd=WIDTH, sequence_len=LENGTH, vocab_size=VOCABULARY, attention_type=kind, knobs=knobs
    )
    model = GPT(config)
    if name == "checkpointing":
        for block in model.stack.blocks:
            block.forward = checkpointed(block.forward)

    def stored(idx: Tensor) -> Tensor:
        hidden = model.stack.run(norm(model.embed(idx)), model.rope(0, idx.shape[1]))[1]
        return torch.nn.functional.cross_entropy(model.logits(norm(hidden)).flatten(0, 1), idx.flatten())

    return model, stored if name == "stored" else lambda idx: model(idx, idx)


def checkpointed(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The same block, its activations dropped and computed again in the backward pass."""
    return lambda *inputs: checkpoint(forward, *inputs, use_reentrant=False)


def held_bytes(model: GPT, loss: Callable[[Tensor], Tensor], idx: Tensor) -> int:
    """Bytes of the saved tensors that are alive after the forward pass, by storage, weights aside."""
    own = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    held: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            held[storage._cdata] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = loss(idx)
    assert output.requires_grad
    return sum(held.values())


def memory(names: tuple[str, ...], idx: Tensor) -> dict[str, dict[int, tuple[float | None, float]]]:
    """(held, peak) in MiB by contender and depth."""
    table: dict[str, dict[int, tuple[float | None, float]]] = {}
    for name in names:
        for layers in DEPTHS:
            model, loss = build(name, layers)
            # Checkpointing saves through hooks of its own, which hide what it keeps: its peak must speak for it.
            held = None if name == "checkpointing" else held_bytes(model, loss, idx) / 2**20
            with PeakBytes(model) as tracker:
                loss(idx).backward()
            gradients = sum(parameter.nbytes for parameter in model.parameters())
            table.setdefault(name, {})[layers] = (held, max(tracker.peak - gradients, 0) / 2**20)
    return table


def times(names: tuple[str, ...], idx: Tensor, rounds: int) -> dict[str, list[float]]:
    """Milliseconds of forward plus backward, the contenders taking turns."""
    contenders = {name: build(name, TIMED_DEPTH) for name in names}
    found: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds + 1):
        for name, (model, loss) in contenders.items():
            model.zero_grad()
            start = time.perf_counter()
            loss(idx).backward()
            if turn:
                found[name].append((time.perf_counter() - start) * 1000)
    return found


def cell(held: float | None) -> str:
    """A number of the table, or a dash."""
    return f"{'-':>8}" if held is None else f"{held:8.1f}"


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    idx = torch.randint(VOCABULARY, (BATCH, LENGTH), generator=torch.Generator().manual_seed(0))
    table = memory(("residual", "checkpointing", "reversible", "exact"), idx)
    print(f"batch {BATCH}, length {LENGTH}, width {WIDTH}, vocabulary {VOCABULARY}, fp32, torch {torch.__version__}\n")
    print("MiB held between the passes | at the peak")
    print(f"{'layers':14}" + "".join(f"{layers:>16}" for layers in DEPTHS))
    for name, row in table.items():
        print(f"{name:14}" + "".join(f"{cell(held)} |{peak:6.0f}" for held, peak in row.values()))
    found = times(("stored", "reversible", "exact", "residual", "checkpointing"), idx, options.rounds)
    print(f"\nmilliseconds of forward and backward, {TIMED_DEPTH} layers, {options.threads} thread(s)")
    for name, values in found.items():
        ratios = [one / other for one, other in zip(values, found["stored"], strict=True)]
        print(f"{name:14}{statistics.median(values):8.0f}  {statistics.median(ratios):.2f}x stored")
    if options.json:
        options.json.write_text(json.dumps({"memory": table, "milliseconds": found}, indent=1))


if __name__ == "__main__":
    main()
