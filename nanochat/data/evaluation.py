"""The frozen evaluation set: passages of held-out documents, the same for every tokenizer, arm and step.

Documents are taken in the order of their SHA-256. Each gives its first ``eval_bytes`` bytes, cut between characters;
when documents are fewer than the passages asked for, they give their next bytes in further rounds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from nanochat.data.tokenizer import Tokenizer


@dataclass(frozen=True)
class Windows:
    """W windows of T tokens. ``targets`` is -1 where nothing is scored; ``document`` is the passage of each row."""

    inputs: np.ndarray
    targets: np.ndarray
    document: np.ndarray


@dataclass(frozen=True)
class EvalSet:
    """Passages to score. Bits per byte = sum of nats / (ln 2 * sum of ``document_bytes``); BOS is never a target."""

    passages: tuple[bytes, ...] = field(repr=False)
    tokenizer: Tokenizer = field(repr=False)

    @property
    def document_bytes(self) -> np.ndarray:
        """Scored bytes of each passage, int64."""
        return np.array([len(passage) for passage in self.passages], dtype=np.int64)

    @cached_property
    def document_ids(self) -> list[str]:
        """SHA-256 of each passage."""
        return [hashlib.sha256(passage).hexdigest() for passage in self.passages]

    @cached_property
    def hash(self) -> str:
        """SHA-256 over the passages, whichever the tokenizer; it tells both which documents and where they are cut."""
        return hashlib.sha256("\n".join(self.document_ids).encode()).hexdigest()

    def windows(self, sequence_len: int) -> Windows:
        """Every token of every passage as a target exactly once, in windows of T tokens.

        The first window of a passage opens with BOS; a later one opens with the token before its first target, as
        windows do in training.
        """
        rows = []
        for number, passage in enumerate(self.passages):
            ids = np.concatenate([[self.tokenizer.bos], self.tokenizer.encode(passage)]).astype(np.int64)
            rows += [(number, ids[at : at + sequence_len + 1]) for at in range(0, len(ids) - 1, sequence_len)]
        inputs = np.full((len(rows), sequence_len), self.tokenizer.bos, dtype=np.int64)
        targets = np.full((len(rows), sequence_len), -1, dtype=np.int64)
        for row, (_, ids) in enumerate(rows):
            inputs[row, : len(ids) - 1] = ids[:-1]
            targets[row, : len(ids) - 1] = ids[1:]
        return Windows(inputs, targets, np.array([number for number, _ in rows], dtype=np.int64))


def passages(documents: Sequence[bytes], count: int, size: int) -> tuple[bytes, ...]:
    """At most ``count`` passages of at most ``size`` bytes (or one character) of documents in their given order."""
    waiting = [_passages(text, size) for text in documents]
    chosen: list[bytes] = []
    while waiting and len(chosen) < count:
        given = [(source, next(source, None)) for source in waiting]
        waiting = [source for source, passage in given if passage is not None]
        chosen += [passage for _, passage in given if passage is not None]
    return tuple(chosen[:count])


def _passages(text: bytes, size: int) -> Iterator[bytes]:
    begin = 0
    while begin < len(text):
        end = min(begin + size, len(text))
        while end < len(text) and end > begin and _is_inside(text, end):
            end -= 1
        if end == begin:  # a single character is longer than `size`
            end += 1
            while end < len(text) and _is_inside(text, end):
                end += 1
        yield text[begin:end]
        begin = end


def _is_inside(text: bytes, place: int) -> bool:
    """Whether a UTF-8 character continues at this byte."""
    return text[place] & 0xC0 == 0x80
