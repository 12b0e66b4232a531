"""Max-plus kernels against causal SDPA, forward and backward, same shapes, interleaved rounds, median over rounds.

Run: ``python benchmarks/maxplus.py [--threads N] [--rounds N] [--json FILE]``. Kernels are built before the clock runs.
``maxplus`` appears in both forms: quadratic, and linear in T as the mixer takes it from two tokens per channel on. Its
exponent up to 64k tokens: ``long_context.py``. ``--beta`` says at which inverse temperature the soft forms are timed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import timing
import torch
import torch.nn.functional as F
from torch import Tensor

from nanochat.attention.tropical import gauge
from nanochat.kernels.maxplus import cpu, maslov, operators, recurrent

HEADS, DIM, TOKENS = 4, 64, 1024
LENGTHS = (256, 1024)
BASE = "causal SDPA"


def tropical(q: Tensor, k: Tensor, v: Tensor, score: str, backend: str) -> Tensor:
    """The mixer between its projections: kernel and gauge."""
    return gauge(operators.attention(q, k, v, score, backend))


def linear(q: Tensor, k: Tensor, v: Tensor, backend: str) -> Tensor:
    """The same with the maxplus score, from its state."""
    return gauge(recurrent.recurrence(q, k, v, None, backend)[0])


def soft(q: Tensor, k: Tensor, v: Tensor, score: str, beta: float) -> Tensor:
    """The same at finite beta."""
    return gauge(maslov.attention(q, k, v, score, beta), beta)


def contenders(beta: float) -> dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]]:
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
        found[f"tropical maxplus, linear, {backend}"] = partial(linear, backend=backend)
    for score in ("hilbert", "maxplus"):
        found[f"tropical {score}, beta {beta:g}"] = partial(soft, score=score, beta=beta)
    return found


def measure(length: int, rounds: int, beta: float) -> dict[str, tuple[float, float]]:
    """Milliseconds forward, and forward and backward, of every contender; batch so chosen that B T = ``TOKENS``."""
    generator = torch.Generator().manual_seed(0)
    shape = (TOKENS // length, HEADS, length, DIM)
    q, k, v, gradient = (torch.randn(shape, generator=generator) for _ in range(4))
    for x in (q, k, v):
        x.requires_grad_()

    def whole(function: Callable[..., Tensor]) -> None:
        torch.autograd.grad(function(q, k, v), (q, k, v), gradient)

    steps: dict[str, Callable[[], object]] = {}
    for name, function in contenders(beta).items():
        steps[f"{name}, forward"] = partial(function, q, k, v)
        steps[name] = partial(whole, function)
    laps = {name: 1e3 * timing.seconds(own) for name, own in timing.interleave(steps, rounds).items()}
    return {name: (laps[f"{name}, forward"], laps[name]) for name in contenders(beta)}


def main() -> None:
    """Print the table."""
    parser = timing.parser(str(__doc__), rounds=15)
    parser.add_argument("--beta", type=float, default=4.0)
    options = parser.parse_args()
    report = timing.Report("maxplus", options, f"fp32, {HEADS} heads, D={DIM}, B*T={TOKENS}")
    results = {length: measure(length, options.rounds, options.beta) for length in LENGTHS}
    for length, found in results.items():
        report.say()
        rows = [
            [name, f"{forward:.2f}", f"{whole - forward:.2f}", f"{whole / found[BASE][1]:.2f}"]
            for name, (forward, whole) in found.items()
        ]
        report.table([f"T={length}", "forward ms", "backward ms", "total / SDPA"], rows)
    report.finish({"milliseconds": results})


if __name__ == "__main__":
    main()
