"""Forward and backward of ultrametric attention between its projections, against causal SDPA of the same shape.

Run ``python benchmarks/ultrametric.py [--threads N] [--rounds N] [--lengths T,T] [--pairs-up-to T]``. Rounds are
interleaved; the table shows medians. Digits, softmax and routing are part of what is timed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import timing
import torch
import torch.nn.functional as F

from nanochat.attention import build, ultrametric

HEADS, DIM, TOKENS = 4, 64, 1024


def contenders(length: int, pairs_up_to: int) -> dict[str, Callable[..., torch.Tensor]]:
    """Functions of (q, k, v) by name; the quadratic form only where it fits."""

    def mixer(mode: str) -> ultrametric.Ultrametric:
        knobs = {"ultrametric": ultrametric.UltrametricKnobs(mode=mode)}
        made = build("ultrametric", n_embd=HEADS * DIM, n_head=HEADS, knobs=knobs)
        assert isinstance(made, ultrametric.Ultrametric)
        return made

    found: dict[str, Callable[..., torch.Tensor]] = {
        "sdpa": lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
        "trie": mixer("trie").route,
    }
    return found | ({"kernel": mixer("kernel").attend} if length <= pairs_up_to else {})


def measure(length: int, rounds: int, pairs_up_to: int) -> dict[str, float]:
    """Median seconds of one forward and backward pass."""
    shape = (max(1, TOKENS // length), HEADS, length, DIM)
    inputs = [torch.randn(shape, requires_grad=True) for _ in range(3)]
    gradient = torch.randn(shape)

    def step(function: Callable[..., torch.Tensor]) -> None:
        function(*inputs).backward(gradient)

    steps = {name: partial(step, function) for name, function in contenders(length, pairs_up_to).items()}
    return {name: timing.seconds(own) for name, own in timing.interleave(steps, rounds).items()}


def main() -> None:
    """Print one row per length and contender."""
    parser = timing.parser(str(__doc__), rounds=5)
    parser.add_argument("--lengths", default="256,1024,4096")
    parser.add_argument("--pairs-up-to", type=int, default=1024)
    options = parser.parse_args()
    report = timing.Report("ultrametric", options, f"fp32, {HEADS} heads, D={DIM}, forward and backward")
    lengths = [int(word) for word in options.lengths.split(",")]
    results = {length: measure(length, options.rounds, options.pairs_up_to) for length in lengths}
    rows = [
        [f"{name}, T={length}", f"{1e3 * own:.2f}", f"{own / found['sdpa']:.3f}"]
        for length, found in results.items()
        for name, own in found.items()
    ]
    report.say()
    report.table(["", "ms", "over SDPA"], rows)
    report.finish({"seconds": results})


if __name__ == "__main__":
    main()
