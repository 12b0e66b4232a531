"""Forward and backward of fractal attention between its projections, against causal SDPA of the same shape.

Run ``python benchmarks/fractal.py [--threads N] [--rounds N] [--lengths T,T] [--pairs-up-to T] [--clock wall|cpu]``.
Rounds are interleaved; the table shows medians, the last line the exponent fitted over lengths from 4096 on. Addresses,
softmax and the scan are part of what is timed. The processor's clock is the one to read on a machine that is not idle.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from nanochat.attention import build, fractal

HEADS, DIM, TOKENS = 4, 64, 1024
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def mixer(form: str) -> fractal.Fractal:
    """A mixer with its defaults."""
    knobs = {"fractal": fractal.FractalKnobs(form=form)}
    made = build("fractal", n_embd=HEADS * DIM, n_head=HEADS, knobs=knobs)
    assert isinstance(made, fractal.Fractal)
    return made


def contenders(length: int, pairs_up_to: int) -> dict[str, Callable[..., torch.Tensor]]:
    """Functions of (q, k, v) by name; quadratic forms only where they fit. The suffix form takes k as its steps."""
    suffix = mixer("suffix")
    found: dict[str, Callable[..., torch.Tensor]] = {"path": mixer("path").attend}
    if length <= pairs_up_to:
        found["sdpa"] = lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True)
    if length <= min(pairs_up_to, 2048):
        found["suffix"] = lambda q, k, v: suffix.follow(F.normalize(k, dim=-1), v)
    return found


def measure(length: int, rounds: int, pairs_up_to: int, clock: Callable[[], float]) -> dict[str, float]:
    """Median seconds of one forward and backward pass."""
    shape = (max(1, TOKENS // length), HEADS, length, DIM)
    inputs = [torch.randn(shape, requires_grad=True) for _ in range(3)]
    gradient, functions = torch.randn(shape), contenders(length, pairs_up_to)
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds + 1):
        for name, function in functions.items():
            start = clock()
            function(*inputs).backward(gradient)
            seconds[name].append(clock() - start)
    return {name: statistics.median(each[1:]) for name, each in seconds.items()}


def exponent(times: dict[int, float]) -> float:
    """Slope of log time over log length."""
    return statistics.linear_regression(
        [math.log(each) for each in times], [math.log(each) for each in times.values()]
    )[0]


def main() -> None:
    """Print one row per length."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--lengths", default="256,1024,4096,16384,65536")
    parser.add_argument("--pairs-up-to", type=int, default=8192)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    table = {}
    for length in map(int, options.lengths.split(",")):
        table[length] = found = measure(length, options.rounds, options.pairs_up_to, CLOCKS[options.clock])
        base = found.get("sdpa", math.nan)
        cells = (f"{name} {1e3 * each:9.2f} ms {each / base:7.3f}x" for name, each in found.items())
        print(f"T {length:6}  " + "   ".join(cells), flush=True)
    long = {length: found["path"] for length, found in table.items() if length >= 4096}
    if len(long) > 1:
        print(f"exponent of path from {min(long)} to {max(long)}: {exponent(long):.3f}")


if __name__ == "__main__":
    main()
