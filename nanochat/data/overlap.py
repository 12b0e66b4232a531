"""Held-out text that the training text repeats: found by runs of 13 words, and taken out of the training text.

A *word* is a run of ASCII letters, digits, underscores and bytes above 127, case of ASCII letters aside; a character
from U+3000 on (Chinese, Japanese, Korean: no blanks between words) begins a word. A *gram* is :data:`GRAM`
consecutive words of one document, whatever stands between them. It is compared by a 64-bit hash; beside 10^8
held-out grams one foreign gram in 10^11 is taken for one of them.

Every passage of a training document whose gram also occurs in a held-out document is removed. What is left between
passages becomes documents of their own, so that no text is joined which was not together; a rest of fewer than
:data:`LEFTOVER` bytes is removed too (both after Brown et al. 2020, arXiv:2005.14165, appendix C). Held-out documents
are never touched.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from nanochat.data.sources import PIECE_BYTES

GRAM = 13
"""Words of a gram."""

LEFTOVER = 200
"""Shortest rest of a cut document that is kept, bytes."""

CHUNK = 1 << 23
"""Grams that are sorted in memory at a time; more of them are kept as files."""

_FACTOR = 0x9E3779B97F4A7C15
_INVERSE = pow(_FACTOR, -1, 1 << 64)
_OPENS = 0xE3
"""First byte, in UTF-8, of the characters from U+3000 on."""


@dataclass(frozen=True, slots=True)
class Overlap:
    """Grams of some held-out text, and how many of them occur in the training text as it came and as it is kept."""

    grams: int
    before: int
    after: int


@dataclass(frozen=True, slots=True)
class Grams:
    """The grams of one text: gram i has ``hashes[i]`` and stands in bytes ``starts[i]:ends[i]``."""

    hashes: np.ndarray
    starts: np.ndarray
    ends: np.ndarray


@cache
def _letters() -> tuple[np.ndarray, np.ndarray]:
    """For every byte: is it part of a word, and its random number; the same for both cases of a letter."""
    inside = np.array([byte > 127 or chr(byte).isalnum() or byte == ord("_") for byte in range(256)])
    folded = [bytes([byte]).lower() for byte in range(256)]
    numbers = b"".join(hashlib.sha256(byte).digest()[:8] for byte in folded)
    return inside, np.frombuffer(numbers, dtype="<u8").astype(np.uint64)


@cache
def _powers(factor: int) -> np.ndarray:
    """factor^0, factor^1, ... modulo 2^64, enough for the longest document."""
    powers = np.full(PIECE_BYTES + 1, factor, dtype=np.uint64)
    powers[0] = 1
    return np.cumprod(powers, dtype=np.uint64)


def _mixed(values: np.ndarray) -> np.ndarray:
    """Every bit depends on every bit: the finalizer of SplitMix64 (Steele et al. 2014, doi:10.1145/2660193.2660195)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def grams(text: bytes | np.ndarray) -> Grams:
    """All grams of one text.

    The hash of a word with bytes b_0 .. b_n is the mixed sum of r(b_i) f^i modulo 2^64, from running sums over the
    text; that of a gram is the mixed sum of its words' hashes times powers of f. r: a number per byte; f: odd.
    """
    raw = np.frombuffer(text, dtype=np.uint8) if isinstance(text, bytes) else text
    inside, numbers = _letters()
    member = np.zeros(len(raw) + 2, dtype=bool)
    member[1:-1] = inside[raw]
    opens = np.ones(len(raw) + 1, dtype=bool)  # by itself, whatever stands before it
    opens[:-1] = raw >= _OPENS
    starts = np.flatnonzero(member[1:-1] & (~member[:-2] | opens[:-1]))
    ends = np.flatnonzero(member[1:-1] & (~member[2:] | opens[1:])) + 1
    count = len(starts) - GRAM + 1
    if count < 1:
        return Grams(np.empty(0, np.uint64), starts[:0], ends[:0])
    sums = np.zeros(len(raw) + 1, dtype=np.uint64)
    np.cumsum(numbers[raw] * _powers(_FACTOR)[: len(raw)], out=sums[1:])
    words = _mixed((sums[ends] - sums[starts]) * _powers(_INVERSE)[starts])
    hashes = np.zeros(count, dtype=np.uint64)
    for place in range(GRAM):
        hashes = hashes * np.uint64(_FACTOR) + words[place : place + count]
    return Grams(_mixed(hashes), starts[:count], ends[GRAM - 1 :])


@dataclass(frozen=True)
class HeldOut:
    """The distinct grams of the held-out text: sorted arrays, mapped from files, so that memory stays bounded."""

    chunks: tuple[np.ndarray, ...]

    @staticmethod
    def collect(texts: Iterable[np.ndarray], folder: Path) -> HeldOut:
        """All grams of ``texts``, in files of about :data:`CHUNK` of them."""
        chunks: list[np.ndarray] = []
        waiting: list[np.ndarray] = []
        size = 0

        def put() -> None:
            path = folder / f"{len(chunks)}.npy"
            np.save(path, np.unique(np.concatenate(waiting)))
            waiting.clear()
            chunks.append(np.load(path, mmap_mode="r"))

        for text in texts:
            waiting.append(grams(text).hashes)
            size += len(waiting[-1])
            if size >= CHUNK:
                put()
                size = 0
        if size:
            put()
        return HeldOut(tuple(chunks))

    def marks(self) -> list[np.ndarray]:
        """One flag per gram, for :meth:`find`."""
        return [np.zeros(len(chunk), dtype=bool) for chunk in self.chunks]

    def find(self, text: bytes | np.ndarray, marks: list[np.ndarray]) -> tuple[Grams, np.ndarray]:
        """The grams of a text and which of them are held out; these are marked."""
        found = grams(text)
        hit = np.zeros(len(found.hashes), dtype=bool)
        for chunk, mark in zip(self.chunks, marks, strict=True):
            place = np.minimum(np.searchsorted(chunk, found.hashes), len(chunk) - 1)
            here = chunk[place] == found.hashes
            mark[place[here]] = True
            hit |= here
        return found, hit

    def marked(self, marks: list[np.ndarray]) -> np.ndarray:
        """The marked grams' hashes, sorted."""
        kept = [chunk[mark] for chunk, mark in zip(self.chunks, marks, strict=True)]
        return np.unique(np.concatenate([np.empty(0, np.uint64), *kept]))


def overlap(texts: Iterable[bytes | np.ndarray], before: np.ndarray, after: np.ndarray) -> Overlap:
    """Grams of ``texts`` by occurrence, and those among the hashes ``before`` and ``after``."""
    counts = np.zeros(3, dtype=np.int64)
    for text in texts:
        hashes = grams(text).hashes
        counts += (len(hashes), np.isin(hashes, before).sum(), np.isin(hashes, after).sum())
    return Overlap(*counts.tolist())


def cuts(size: int, found: Grams, hit: np.ndarray) -> Iterator[tuple[int, int, bool]]:
    """A text of ``size`` bytes as consecutive (begin, end, kept): without its ``hit`` grams and short rests."""
    begin = removed = 0  # kept text begins at `begin`; `removed` is where the removed text before it does
    for start, end in (*zip(found.starts[hit].tolist(), found.ends[hit].tolist(), strict=True), (size, size)):
        if start - begin >= LEFTOVER:
            if begin > removed:
                yield removed, begin, False
            yield begin, start, True
            removed = start
        begin = max(begin, end)
    if size > removed:
        yield removed, size, False


@dataclass(frozen=True)
class Separation:
    """What :func:`separate` found.

    ``parts`` are those of the training documents that repeat held-out text, see :func:`cuts`; ``repeated`` and
    ``still_repeated`` the held-out grams in the training text before and after; ``overlap`` counts them in the
    held-out text.
    """

    parts: dict[int, list[tuple[int, int, bool]]]
    repeated: np.ndarray
    still_repeated: np.ndarray
    overlap: Overlap


def separate(text: np.ndarray, offsets: np.ndarray, train: np.ndarray, held: np.ndarray, folder: Path) -> Separation:
    """Compare the documents ``train`` with the documents ``held``; document d is ``text[offsets[d]:offsets[d + 1]]``.

    ``folder`` takes temporary files. Time grows with the text, memory with the number of held-out grams by one byte
    each.
    """

    def document(index: int) -> np.ndarray:
        return text[offsets[index] : offsets[index + 1]]

    parts = {}
    with TemporaryDirectory(dir=folder) as place:
        held_out = HeldOut.collect(map(document, held), Path(place))
        before, after = held_out.marks(), held_out.marks()
        for index in train.tolist():
            found, hit = held_out.find(document(index), before)
            if hit.any():
                parts[index] = list(cuts(len(document(index)), found, hit))
                for begin, end, kept in parts[index]:
                    if kept:
                        held_out.find(document(index)[begin:end], after)
        repeated, still = held_out.marked(before), held_out.marked(after)
    return Separation(parts, repeated, still, overlap(map(document, held), repeated, still))
