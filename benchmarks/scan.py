"""Prefix products, turns and gauge attention against causal SDPA: same shapes, interleaved rounds, medians.

Run: ``python benchmarks/scan.py [--threads N] [--rounds N] [--json PATH]``. Kernels are built before the clock runs.
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

from nanochat.attention.gauge import frames, gauge_attention
from nanochat.kernels.scan import cpu, operators

HEADS, DIM, TOKENS = 4, 64, 1024
BLOCKS = {"so3": 10, "u1": 16, "so4": 8}
NUMBERS = {"so3": 4, "u1": 1, "so4": 8}
LENGTHS = (256, 1024)
BASE = "causal SDPA"


def prefix(q: Tensor, k: Tensor, v: Tensor, raw: Tensor, backend: str) -> Tensor:
    """Frames alone, so3."""
    return operators.quaternion_prefix(raw.unflatten(-1, (4, -1)), None, backend)


def one_turn(q: Tensor, k: Tensor, v: Tensor, raw: Tensor, backend: str) -> Tensor:
    """Frames and one turn, so3."""
    return operators.turn(prefix(q, k, v, raw, backend), q, "so3", backend=backend)


def attention(q: Tensor, k: Tensor, v: Tensor, raw: Tensor, group: str) -> Tensor:
    """The mixer between its projections and the norm of its output, kernels as chosen automatically."""
    return gauge_attention(q, k, v, frames(raw, group)[0], group)


def contenders() -> dict[str, tuple[str, Callable[..., Tensor]]]:
    """What is timed and the group whose emissions it takes, the baseline first."""
    found: dict[str, tuple[str, Callable[..., Tensor]]] = {
        BASE: ("so3", lambda q, k, v, raw: F.scaled_dot_product_attention(q, k, v, is_causal=True))
    }
    for backend in ("cpp", "torch"):
        if backend == "cpp" and not cpu.available():
            print(f"no C++ kernel: {cpu.reason()}")
            continue
        found[f"prefix so3, {backend}"] = ("so3", partial(prefix, backend=backend))
        found[f"prefix and turn so3, {backend}"] = ("so3", partial(one_turn, backend=backend))
    found |= {f"gauge attention {group}": (group, partial(attention, group=group)) for group in BLOCKS}
    return found


def measure(length: int, rounds: int) -> dict[str, float]:
    """Milliseconds, forward and backward, of every contender at one length; B T = ``TOKENS``."""
    generator = torch.Generator().manual_seed(0)
    shape = (TOKENS // length, HEADS, length)
    q, k, v = (torch.randn(*shape, DIM, generator=generator).requires_grad_() for _ in range(3))
    raw = {
        group: torch.randn(*shape, NUMBERS[group] * blocks, generator=generator).requires_grad_()
        for group, blocks in BLOCKS.items()
    }
    times: dict[str, list[float]] = {name: [] for name in contenders()}
    for _ in range(rounds + 1):
        for name, (group, function) in contenders().items():
            start = time.perf_counter()
            y = function(q, k, v, raw[group])
            torch.autograd.grad(y.sum(), (q, k, v, raw[group]), allow_unused=True)
            times[name].append(time.perf_counter() - start)
    return {name: 1e3 * statistics.median(taken[1:]) for name, taken in times.items()}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, {platform.processor() or platform.machine()}, {options.threads} threads, fp32")
    print(f"{HEADS} heads, D={DIM}, B*T={TOKENS}, {options.rounds} interleaved rounds, forward and backward")
    results = {}
    for length in LENGTHS:
        results[length] = measure(length, options.rounds)
        print(f"\nT={length:<26}{'ms':>9}{'over SDPA':>12}")
        for name, milliseconds in results[length].items():
            print(f"{name:<28}{milliseconds:>9.2f}{milliseconds / results[length][BASE]:>12.2f}")
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
