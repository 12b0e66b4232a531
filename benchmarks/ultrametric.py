"""Forward and backward of ultrametric attention between its projections, against causal SDPA of the same shape.

Run ``python benchmarks/ultrametric.py [--threads N] [--rounds N] [--lengths T,T] [--pairs-up-to T]``. Rounds are
interleaved; the table shows medians. Digits, softmax and routing are part of what is timed.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

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
    gradient, functions = torch.randn(shape), contenders(length, pairs_up_to)
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            function(*inputs).backward(gradient)
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(each[1:]) for name, each in seconds.items()}


def main() -> None:
    """Print one row per length."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--lengths", default="256,1024,4096")
    parser.add_argument("--pairs-up-to", type=int, default=1024)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for length in map(int, options.lengths.split(",")):
        found = measure(length, options.rounds, options.pairs_up_to)
        cells = (f"{name} {1e3 * each:9.2f} ms {each / found['sdpa']:7.3f}x" for name, each in found.items())
        print(f"T {length:6}  " + "   ".join(cells), flush=True)


if __name__ == "__main__":
    main()
