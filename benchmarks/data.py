"""Batches of our loader against windows drawn at random from one file of tokens; and opening a prepared corpus.

Run: ``python benchmarks/data.py [--rounds N] [--json FILE]``; seconds. The peer is what nanoGPT's training script does:
B random positions of a ``np.memmap``, whose windows are copied. It knows no epoch, no document and no step. Documents
are random bytes of 50 to 10,000 tokens.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import timing

from nanochat.config import DataConfig
from nanochat.data import open_dataset
from nanochat.data.loader import Loader

BATCH, LENGTH, STEPS, DOCUMENTS = 16, 256, 200, 800
OURS, PEER = "our loader", "random windows of a memmap"


def contenders(folder: Path) -> dict[str, Callable[[], object]]:
    """``STEPS`` batches of each."""
    rng = np.random.default_rng(0)
    offsets = np.concatenate([[0], np.cumsum(rng.integers(50, 10_000, DOCUMENTS))])
    tokens = rng.integers(0, 256, offsets[-1]).astype(np.uint16)
    tokens.tofile(folder / "tokens.bin")
    ours = Loader(tokens, offsets, BATCH, LENGTH, 0)

    def dealt() -> None:
        for step in range(STEPS):
            ours.batch(step)

    def drawn() -> None:
        for _ in range(STEPS):
            data = np.memmap(folder / "tokens.bin", dtype=np.uint16, mode="r")
            begins = rng.integers(len(data) - LENGTH, size=BATCH)
            np.stack([data[begin : begin + LENGTH].astype(np.int64) for begin in begins])
            np.stack([data[begin + 1 : begin + 1 + LENGTH].astype(np.int64) for begin in begins])

    return {PEER: drawn, OURS: dealt}


def main() -> None:
    """Print both tables."""
    options = timing.parser(str(__doc__), rounds=15).parse_args()
    report = timing.Report("data", options, f"{STEPS} batches of {BATCH} x {LENGTH} tokens")
    with tempfile.TemporaryDirectory() as folder:
        laps = timing.interleave(contenders(Path(folder)), options.rounds)
        config = DataConfig(data="python", cache_dir=folder)
        open_dataset(config, 1024)
        warm = timing.interleave({"open": lambda: open_dataset(config, 1024)}, options.rounds)["open"]
    found = {}
    rows = []
    for name, own in laps.items():
        against = timing.ratio(own, laps[PEER])
        found[name] = {
            "seconds": timing.seconds(own),
            "ratio": against.median,
            "low": against.low,
            "high": against.high,
        }
        speed = STEPS * BATCH * LENGTH / found[name]["seconds"]
        rows.append((name, f"{speed / 1e6:.1f}", f"{against.median:.2f} [{against.low:.2f}, {against.high:.2f}]"))
    report.table(("batches", "M tokens/s", "time against the peer"), rows)
    report.say()
    report.say(f"a prepared corpus of this Python's documentation opens in {timing.seconds(warm) * 1e3:.0f} ms")
    report.finish({"contenders": found, "open_seconds": timing.seconds(warm), "laps": timing.plain(laps)})


if __name__ == "__main__":
    main()
