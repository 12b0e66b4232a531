"""A training step with 2-simplicial attention against the same model with softmax attention.

Run: ``python benchmarks/simplicial.py [--threads N] [--rounds N] [--batch N] [--bf16] [--json PATH]``. Forward and
backward pass of the whole 4-layer, 256-wide model at 256 tokens, eager; arms take turns, the ratio is the median over
rounds.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from nanochat.attention.simplicial import SimplicialKnobs
from nanochat.gpt import GPT, GPTConfig

LENGTH, VOCABULARY = 256, 4096
BASE = "standard"


def models() -> dict[str, GPT]:
    """What is timed, the baseline first."""
    sizes: dict[str, Any] = {"n_layer": 4, "n_head": 4, "n_embd": 256, "vocab_size": VOCABULARY, "sequence_len": LENGTH}
    found = {BASE: GPT(GPTConfig(**sizes))}
    for form in ("trilinear", "determinant"):
        knobs = {"simplicial": SimplicialKnobs(form=form)}
        found[f"simplicial {form}"] = GPT(GPTConfig(**sizes, attention_type="simplicial", knobs=knobs))
    return found


def step(model: GPT, idx: torch.Tensor, low: bool) -> float:
    """Seconds of one forward and backward pass."""
    model.zero_grad()
    start = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16, enabled=low):
        loss = model(idx[:, :-1], idx[:, 1:])
    loss.backward()
    return time.perf_counter() - start


def measure(rounds: int, batch: int, low: bool) -> dict[str, list[float]]:
    """Seconds per round of every arm, after one round that is not kept."""
    idx = torch.randint(VOCABULARY, (batch, LENGTH + 1), generator=torch.Generator().manual_seed(0))
    arms = models()
    times = [{name: step(model, idx, low) for name, model in arms.items()} for _ in range(rounds + 1)]
    return {name: [each[name] for each in times[1:]] for name in arms}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--bf16", action="store_true", help="under autocast")
    parser.add_argument("--json", type=Path, help="write the figures there")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    times = measure(options.rounds, options.batch, options.bf16)
    ratios = {
        name: statistics.median(one / base for one, base in zip(each, times[BASE], strict=True))
        for name, each in times.items()
    }
    for name, ratio in ratios.items():
        print(f"{name:24}{1000 * statistics.median(times[name]):9.1f} ms{ratio:8.2f}")
    if options.json:
        found = {"machine": platform.processor(), "torch": torch.__version__, "seconds": times, "ratios": ratios}
        options.json.write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
