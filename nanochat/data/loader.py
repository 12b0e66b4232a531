"""Batches as a pure function of (seed, step).

In each epoch the documents are put into a new order and packed into one line of N tokens, every document opened by
BOS. The lines of all epochs follow one another without end; this *stream* is cut into windows of T tokens, window w
predicting stream positions wT+1 .. wT+T from the ones before them. So every token, BOS included (it says that the
document before it has ended), is a target exactly once per epoch.

Neighbouring windows mostly hold the same document. They are therefore dealt out in a random order within blocks of
K = max(1, N // T) windows, about one epoch, and a batch holds windows from all over the corpus.

Both orders come from Philox, a counter-based generator (Salmon et al. 2011, doi:10.1145/2063384.2063405), keyed by
(purpose, seed, epoch or block): any step can be computed without the ones before it. The raw stream of that
generator is fixed for ever, unlike what NumPy's higher-level functions make of it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np

from nanochat.config import ConfigError

KEPT = 8
"""Orders kept in memory; a batch rarely needs more than two."""


@dataclass(frozen=True)
class Epoch:
    """One order of the documents; the i-th ends at ``ends[i]`` of the packed line and at ``stops[i]`` of the tokens."""

    stops: np.ndarray
    ends: np.ndarray


@dataclass
class Loader:
    """Random access to batches.

    Args:
        tokens: all documents, each opened by BOS, one after the other.
        offsets: document d is ``tokens[offsets[d]:offsets[d + 1]]``.
        batch_size: B, windows per step, over all processes.
        sequence_len: T, tokens per window.
        seed: of the data order; weights have theirs.
    """

    tokens: np.ndarray
    offsets: np.ndarray
    batch_size: int
    sequence_len: int
    seed: int
    _epochs: dict[int, Epoch] = field(default_factory=dict, repr=False)
    _blocks: dict[int, np.ndarray] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        faults = [
            f"--{name}: got {value}, need at least {low}"
            for name, value, low in (
                ("batch-size", self.batch_size, 1),
                ("sequence-len", self.sequence_len, 1),
                ("seed", self.seed, 0),
            )
            if value < low
        ]
        if faults:
            raise ConfigError(faults)
        self.tokens = np.asarray(self.tokens)  # a plain array: slicing np.memmap costs ten times as much
        assert self.offsets[-1] == len(self.tokens) > 0

    @property
    def tokens_per_epoch(self) -> int:
        """N, every document's BOS included."""
        return len(self.tokens)

    @property
    def windows_per_block(self) -> int:
        """K, windows that are dealt out together."""
        return max(1, self.tokens_per_epoch // self.sequence_len)

    def batch(self, step: int, rank: int = 0, world: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets (B / world, T), int64, of one step; rank r takes rows r, r + world, ..."""
        if self.batch_size % world or not 0 <= rank < world:
            raise ConfigError([f"--batch-size: got {self.batch_size}, need a multiple of the {world} processes"])
        rows = range(step * self.batch_size + rank, (step + 1) * self.batch_size, world)
        out = np.empty((len(rows), self.sequence_len + 1), dtype=np.int64)
        for line, row in zip(out, rows, strict=True):
            self._fill(line, self.window(row) * self.sequence_len)
        return out[:, :-1], out[:, 1:]

    def window(self, row: int) -> int:
        """Which window the row-th row of the run is."""
        block, place = divmod(row, self.windows_per_block)
        if block not in self._blocks:
            _forget(self._blocks)
            self._blocks[block] = permutation(f"windows/{self.seed}/{block}", self.windows_per_block)
        return block * self.windows_per_block + int(self._blocks[block][place])

    def _fill(self, line: np.ndarray, position: int) -> None:
        """Copy the stream from ``position`` on, document by document."""
        number, place = divmod(position, self.tokens_per_epoch)
        epoch, filled, size = self._epoch(number), 0, len(line)
        index = int(np.searchsorted(epoch.ends, place, side="right"))
        while filled < size:
            if index == len(epoch.ends):
                number, index, place = number + 1, 0, 0
                epoch = self._epoch(number)
            left = int(epoch.ends[index]) - place
            begin = int(epoch.stops[index]) - left
            count = min(left, size - filled)
            line[filled : filled + count] = self.tokens[begin : begin + count]
            filled, place, index = filled + count, place + count, index + 1

    def _epoch(self, number: int) -> Epoch:
        if number not in self._epochs:
            _forget(self._epochs)
            order = permutation(f"documents/{self.seed}/{number}", len(self.offsets) - 1)
            self._epochs[number] = Epoch(self.offsets[1:][order], np.cumsum(np.diff(self.offsets)[order]))
        return self._epochs[number]


def _forget(kept: dict) -> None:
    if len(kept) >= KEPT:
        del kept[next(iter(kept))]


def permutation(purpose: str, count: int) -> np.ndarray:
    """An order of ``range(count)`` that depends on ``purpose`` alone, on every machine and NumPy version."""
    key = np.frombuffer(hashlib.sha256(purpose.encode()).digest()[:16], dtype="<u8").astype(np.uint64)
    return np.argsort(np.random.Philox(key=key).random_raw(count), kind="stable")
