"""Max-plus kernels against causal SDPA, forward and backward, same shapes, interleaved rounds, median over rounds.

Run: ``python benchmarks/maxplus.py [--threads N] [--rounds N] [--json PATH]``. Kernels are built before the clock runs.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from nanochat.attention.tropical import gauge
from nanochat.kernels.maxplus import cpu, operators

HEADS, DIM, TOKENS = 4, 64, 1024
LENGTHS = (256, 1024)
BASE = "causal SDPA"


def tropical(q: Tensor, k: Tensor, v: Tensor, score: str, backend: str) -> Tensor:
    """The mixer between its projections: kernel and gauge."""
    return gauge(operators.attention(q, k, v, score, backend))


def contenders() -> dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]]:
    """What is timed, the baseline first."""
    found: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
        BASE: partial(F.scaled_dot_product_attention, is_causal=True)
    }
    for backend in ("cpp", "torch"):
        if backend == "cpp" and not cpu.available():
            print(f"no C++ kernel: {cpu.reason()}")
            continue
        for score in ("hilbert", "maxplus"):
            found[f"tropical {score}, {backend}"] = partial(tropical, score=score, backend=backend)
    return found


def measure(length: int, rounds: int) -> dict[str, tuple[float, float]]:
    """Milliseconds forward and backward of every contender at one length, batch so chosen that B T = ``TOKENS``."""
    generator = torch.Generator().manual_seed(0)
    shape = (TOKENS // length, HEADS, length, DIM)
    q, k, v, gradient = (torch.randn(shape, generator=generator) for _ in range(4))
    for x in (q, k, v):
        x.requires_grad_()
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders()}
    for _ in range(rounds + 1):
        for name, function in contenders().items():
            start = time.perf_counter()
            y = function(q, k, v)
            middle = time.perf_counter()
            torch.autograd.grad(y, (q, k, v), gradient)
            times[name].append((middle - start, time.perf_counter() - middle))
    return {
        name: (
            1e3 * statistics.median(forward for forward, _ in taken[1:]),
            1e3 * statistics.median(backward for _, backward in taken[1:]),
        )
        for name, taken in times.items()
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, {platform.processor() or platform.machine()}, {options.threads} threads, fp32")
    print(f"{HEADS} heads, D={DIM}, B*T={TOKENS}, {options.rounds} interleaved rounds")
    results = {}
    for length in LENGTHS:
        results[length] = measure(length, options.rounds)
        base = sum(results[length][BASE])
        print(f"\nT={length:<22}{'forward ms':>12}{'backward ms':>13}{'total / SDPA':>14}")
        for name, (forward, backward) in results[length].items():
            print(f"{name:<24}{forward:>12.2f}{backward:>13.2f}{(forward + backward) / base:>14.2f}")
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
