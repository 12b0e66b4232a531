"""Long contexts: time and peak memory of one mixer, forward and backward, from one thousand to 64 thousand tokens.

Part of ``mechanisms.py``; alone: ``python benchmarks/long_context.py [--rounds N] [--threads N] [--json FILE]``. The
mixer is the whole module with its projections (256 wide, 4 heads, one sequence); ``standard`` is the same around
PyTorch's ``scaled_dot_product_attention``. Peak memory is what the resident size of a fresh process grows by.

Times are taken in a process whose allocator keeps what is freed. glibc gives tensors over 32 MiB back and faults them
in again at every use: at 64 thousand tokens that took a third of the time and added 0.14 to every linear exponent.
"""

from __future__ import annotations

import ast
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import timing
import torch

from nanochat.architecture import attention_types, mechanism
from nanochat.attention import build
from nanochat.record import peak_memory

BASE = "standard"
WIDTH, HEADS = 256, 4
TIMED = ("ultrametric-mode=trie", "fractal", "tropical-score=maxplus")
"""Claimed to be linear in time; each is also weighed."""
WEIGHED = ("tropical",)
"""Quadratic in time, claimed to be linear in memory."""
EXPONENTS = {"ultrametric-mode=trie": 1.15, "fractal": 1.15, "tropical-score=maxplus": 1.1}
LENGTHS = (1024, 2048, 4096, 8192, 16384, 32768, 65536)
FITTED_FROM = 4096
PATIENCE = 4.0
"""A contender whose step took more seconds of processor time than this is not taken to greater lengths."""
KEEP = {"MALLOC_MMAP_THRESHOLD_": str(2**33), "MALLOC_TRIM_THRESHOLD_": str(2**34), "MALLOC_TOP_PAD_": str(2**28)}
"""For glibc's allocator; others do not read it."""
QUADRATIC_UP_TO = 16384
"""Memory is taken up to this many tokens where time is quadratic."""


def parse(label: str) -> tuple[str, dict[str, Any]]:
    """Attention type and knobs of ``type-knob=value-knob=value``.

    Raises:
        TypeError, ValueError: an option or a value that the type does not have.
    """
    kind, *words = label.split("-")
    options = {name: _value(text) for name, _, text in (word.partition("=") for word in words)}
    return kind, {kind: mechanism(kind).knobs(**options)} if options else {}


def _value(text: str) -> Any:
    """A number or truth value where it reads as one."""
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text


def step(label: str, length: int) -> Callable[[], None]:
    """Forward and backward pass of one mixer on one sequence."""
    kind, knobs = parse(label)
    mixer = build(kind, n_embd=WIDTH, n_head=HEADS, sequence_len=length, knobs=knobs)
    generator = torch.Generator().manual_seed(0)
    x, gradient = (torch.randn(1, length, WIDTH, generator=generator) for _ in range(2))
    x.requires_grad_()

    def run() -> None:
        mixer(x, None).backward(gradient)
        mixer.zero_grad(set_to_none=True)
        x.grad = None

    return run


def exponent(sizes: Mapping[int, float], start: int) -> float | None:
    """Least squares slope of log size over log length, from ``start`` on; None for fewer than two lengths."""
    points = [(math.log(length), math.log(size)) for length, size in sizes.items() if length >= start]
    if len(points) < 2:
        return None
    x, y = (sum(each) / len(points) for each in zip(*points, strict=True))
    return sum((a - x) * (b - y) for a, b in points) / sum((a - x) ** 2 for a, _ in points)


def crossing(sizes: Mapping[int, float], base: Mapping[int, float]) -> int | None:
    """The first length from which on it is faster than the base at every length measured for both."""
    both = sorted(sizes.keys() & base.keys())
    slower = [length for length in both if sizes[length] >= base[length]]
    return next((length for length in both if not slower or length > slower[-1]), None)


def times_here(labels: list[str], lengths: list[int], rounds: int) -> dict[str, dict[int, timing.Lap]]:
    """Median lap by contender and length; whoever is slow is not taken further."""
    found: dict[str, dict[int, timing.Lap]] = {label: {} for label in labels}
    for length in lengths:
        running = [name for name, own in found.items() if all(lap.processor < PATIENCE for lap in own.values())]
        laps = timing.interleave({name: step(name, length) for name in running}, rounds)
        for name, own in laps.items():
            found[name][length] = sorted(own, key=lambda lap: lap.seconds)[len(own) // 2]
    return found


def child(*words: str, **environment: str) -> Any:
    """What this script says in a fresh process."""
    command, own = [sys.executable, __file__, *words], {**os.environ, **environment}
    return json.loads(subprocess.run(command, env=own, stdout=subprocess.PIPE, text=True, check=True).stdout)


def times(labels: list[str], lengths: list[int], rounds: int, threads: int) -> dict[str, dict[int, timing.Lap]]:
    """:func:`times_here` in a process whose allocator keeps what is freed."""
    words = ("--time", ",".join(labels), "--lengths", ",".join(map(str, lengths)))
    found = child(*words, "--rounds", str(rounds), "--threads", str(threads), **KEEP)
    return {name: {int(length): timing.Lap(**lap) for length, lap in own.items()} for name, own in found.items()}


def weigh(label: str, lengths: list[int], threads: int) -> dict[int, float]:
    """MiB by length: growth of the resident size of a fresh process over what a short step needed."""
    words = ("--weigh", label, "--lengths", ",".join(map(str, lengths)))
    return {int(length): size for length, size in child(*words, "--threads", str(threads)).items()}


def weigh_here(label: str, lengths: list[int]) -> dict[int, float]:
    """The same in this process, which must be fresh; lengths ascend, for a peak never falls."""
    step(label, 128)()
    start, found = peak_memory(), {}
    for length in sorted(lengths):
        step(label, length)()
        found[length] = (peak_memory() - start) / 2**20
    return found


def study(report: timing.Report, wanted: list[str], quick: bool) -> dict[str, Any]:
    """Say both tables; returns their figures."""
    lengths = (64, 128, 256) if quick else LENGTHS
    start = lengths[1] if quick else FITTED_FROM
    rounds = max(1, report.options.rounds // 2)
    labels = [label for label in TIMED if label in wanted and label.partition("-")[0] in attention_types()]
    if not labels and not set(WEIGHED) & set(wanted):
        return {}
    laps = times([BASE, *labels], list(lengths), rounds, report.options.threads)
    seconds = {name: {length: lap.seconds for length, lap in own.items()} for name, own in laps.items()}
    computed = {name: {length: lap.processor for length, lap in own.items()} for name, own in laps.items()}
    rows, figures = [], {}
    for name, own in seconds.items():
        slopes = exponent(own, start), exponent(computed[name], start)
        first = crossing(own, seconds[BASE]) if name != BASE else None
        bar = EXPONENTS.get(name)
        good = "" if bar is None or slopes[0] is None else "pass" if slopes[0] <= bar else "MISSED"
        rows.append(
            [name, *(f"{1e3 * own[length]:.0f}" if length in own else "-" for length in lengths)]
            + ["-" if slope is None else f"{slope:.2f}" for slope in slopes]
            + ["-" if bar is None else f"{bar:.2f}", good, "-" if first is None else f"{first}"]
        )
        figures[name] = {"seconds": own, "exponent": slopes[0], "crossing": first, "bar": bar}
    head = [f"one mixer, ms, by tokens ({rounds} rounds)", *map(str, lengths)]
    report.table([*head, "exponent", "by processor", "bar", "", f"beats {BASE} from"], rows)
    report.say()
    ends = list(lengths[2::2])  # 4096, 16384, 65536
    weighed = weights(report, labels, [name for name in WEIGHED if name in wanted], ends)
    return {"time": figures, "memory": weighed}


def weights(report: timing.Report, labels: list[str], quadratic: list[str], lengths: list[int]) -> dict[str, Any]:
    """Say the table of peak memory; returns its figures."""
    rows, figures = [], {}
    for name in (BASE, *quadratic, *labels):
        sizes = weigh(name, [n for n in lengths if name in labels or n <= QUADRATIC_UP_TO], report.options.threads)
        slope = exponent({length: max(size, 1e-3) for length, size in sizes.items()}, 0)
        cells = [f"{sizes[n]:.0f}" if n in sizes else "-" for n in lengths]
        rows.append([name, *cells, "-" if slope is None else f"{slope:.2f}"])
        figures[name] = {"mib": sizes, "exponent": slope}
    report.table(["peak memory, MiB, by tokens", *map(str, lengths), "exponent"], rows)
    return figures


def main() -> None:
    """Alone, or as the fresh process of :func:`weigh`."""
    parser = timing.parser(str(__doc__), rounds=7)
    parser.add_argument("--time", help="only print the laps of these labels, as JSON")
    parser.add_argument("--weigh", help="only print the peak memory of this label, as JSON")
    parser.add_argument("--lengths", default="4096,16384", help="for --time and --weigh")
    options = parser.parse_args()
    lengths = [int(word) for word in options.lengths.split(",")]
    if options.time or options.weigh:
        torch.set_num_threads(options.threads)
    if options.weigh:
        print(json.dumps(weigh_here(options.weigh, lengths)))
        return
    if options.time:
        laps = times_here(options.time.split(","), lengths, options.rounds)
        print(json.dumps({name: {length: asdict(lap) for length, lap in own.items()} for name, own in laps.items()}))
        return
    report = timing.Report("long_context", options, f"one mixer, {WIDTH} wide, {HEADS} heads, fp32")
    report.say()
    report.finish({"long": study(report, [*TIMED, *WEIGHED], quick=False)})


if __name__ == "__main__":
    main()
