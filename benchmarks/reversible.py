"""Memory and time of a training step against depth: residual blocks, activation checkpointing, reversible blocks.

Run from the repository, alone on the machine::

    python benchmarks/reversible.py [--rounds 7] [--threads N] [--json FILE]

``held`` is what the graph keeps between the passes (saved tensors, weights aside), ``peak`` the most that is alive at
once during a step above weights and their gradients, counted tensor by tensor. Times are medians over rounds in which
the contenders take turns, relative to the stored form of the same coupling.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import partial

import timing
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


def times(names: tuple[str, ...], idx: Tensor, rounds: int) -> dict[str, list[timing.Lap]]:
    """Laps of forward plus backward."""

    def step(model: GPT, loss: Callable[[Tensor], Tensor]) -> None:
        model.zero_grad()
        loss(idx).backward()

    return timing.interleave({name: partial(step, *build(name, TIMED_DEPTH)) for name in names}, rounds)


def cell(held: float | None) -> str:
    """A number of the table, or a dash."""
    return "-" if held is None else f"{held:.1f}"


def main() -> None:
    """Print both tables."""
    options = timing.parser(str(__doc__), rounds=7).parse_args()
    about = f"batch {BATCH}, length {LENGTH}, width {WIDTH}, vocabulary {VOCABULARY}, fp32"
    report = timing.Report("reversible", options, about)
    idx = torch.randint(VOCABULARY, (BATCH, LENGTH), generator=torch.Generator().manual_seed(0))
    table = memory(("residual", "checkpointing", "reversible", "exact"), idx)
    report.say()
    rows = [[name, *(f"{cell(held)}, {peak:.0f}" for held, peak in row.values())] for name, row in table.items()]
    report.table(["MiB held, at the peak, by layers", *map(str, DEPTHS)], rows)
    found = times(("stored", "reversible", "exact", "residual", "checkpointing"), idx, options.rounds)
    report.say()
    rows = [
        [name, f"{1e3 * timing.seconds(own):.0f}", f"{timing.ratio(own, found['stored']).median:.2f}"]
        for name, own in found.items()
    ]
    report.table([f"forward and backward, {TIMED_DEPTH} layers", "ms", "over stored"], rows)
    report.finish({"memory": table, "laps": timing.plain(found)})


if __name__ == "__main__":
    main()
