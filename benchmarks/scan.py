"""Prefix products, turns and gauge attention against causal SDPA: same shapes, interleaved rounds, medians.

Run: ``python benchmarks/scan.py [--threads N] [--rounds N] [--json FILE]``. Kernels are built before the clock runs.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import timing
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

    def step(group: str, function: Callable[..., Tensor]) -> None:
        y = function(q, k, v, raw[group])
        torch.autograd.grad(y.sum(), (q, k, v, raw[group]), allow_unused=True)

    steps = {name: partial(step, group, function) for name, (group, function) in contenders().items()}
    return {name: 1e3 * timing.seconds(own) for name, own in timing.interleave(steps, rounds).items()}


def main() -> None:
    """Print the table."""
    options = timing.parser(str(__doc__), rounds=15).parse_args()
    report = timing.Report("scan", options, f"fp32, {HEADS} heads, D={DIM}, B*T={TOKENS}, forward and backward")
    results = {length: measure(length, options.rounds) for length in LENGTHS}
    for length, found in results.items():
        report.say()
        rows = [[name, f"{own:.2f}", f"{own / found[BASE]:.2f}"] for name, own in found.items()]
        report.table([f"T={length}", "ms", "over SDPA"], rows)
    report.finish({"milliseconds": results})


if __name__ == "__main__":
    main()
