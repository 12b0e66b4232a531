"""A prepared corpus: documents without duplicates, split into training and held-out text, with their hashes.

Training text that repeats held-out text is removed, see :mod:`nanochat.data.overlap`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from nanochat.config import ConfigError
from nanochat.data import store
from nanochat.data.overlap import GRAM, Overlap, separate
from nanochat.data.sources import Piece

TRAIN, VAL, REMOVED = 0, 1, 2
SPLITS = ("train", "val", "removed")


@dataclass(frozen=True, slots=True)
class Document:
    """One document of the manifest; ``sha256`` is of its text, ``split`` is ``train``, ``val`` or ``removed``.

    A training document that repeats held-out text is listed in parts, ``name[begin:end]`` in bytes.
    """

    name: str
    sha256: str
    bytes: int
    split: str


@dataclass(frozen=True)
class Manifest:
    """What a corpus holds. ``hash`` is the SHA-256 over every document's (split, SHA-256), in order.

    ``overlapping`` training documents lost ``removed_bytes``; ``overlap`` is of the whole held-out text with training.
    """

    source: str
    hash: str
    train_bytes: int
    val_bytes: int
    train_documents: int
    val_documents: int
    duplicates: int
    overlapping: int
    removed_bytes: int
    overlap: Overlap
    path: Path = field(repr=False)

    @cached_property
    def documents(self) -> tuple[Document, ...]:
        """Every document; read when it is first asked for, a large corpus has millions."""
        with open(self.path, encoding="utf-8") as stream:
            return tuple(Document(**json.loads(line)) for line in stream)


@dataclass(frozen=True)
class Corpus:
    """A sealed corpus folder: ``text.bin`` holds document d in bytes ``offsets[d]:offsets[d + 1]``.

    ``digests`` are the first 64 bits of each document's SHA-256; ``repeated`` and ``still_repeated`` the held-out grams
    that the training text had, and has.
    """

    folder: Path
    manifest: Manifest
    text: np.ndarray
    offsets: np.ndarray
    split: np.ndarray
    digests: np.ndarray
    repeated: np.ndarray
    still_repeated: np.ndarray

    def members(self, split: int) -> np.ndarray:
        """Indices of the documents on one side."""
        return np.flatnonzero(self.split == split)

    def by_hash(self, split: int) -> np.ndarray:
        """The same in the order of their SHA-256, which is no order that any file or reader prefers."""
        members = self.members(split)
        return members[np.argsort(self.digests[members], kind="stable")]

    def document(self, index: int) -> bytes:
        return self.text[self.offsets[index] : self.offsets[index + 1]].tobytes()

    def documents(self, split: int) -> Iterator[bytes]:
        return (self.document(index) for index in self.members(split))


@dataclass
class _Group:
    """Consecutive pieces of one file while it is being read."""

    start: int
    names: list[str] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    whole: hashlib._Hash = field(default_factory=hashlib.sha256)


class _Writer:
    """Appends files to ``text.bin``; a file that was there before is taken back."""

    def __init__(self, folder: Path):
        self.stream = open(folder / "text.bin", "wb")
        self.seen: set[bytes] = set()
        self.groups: list[tuple[bytes, _Group]] = []
        self.duplicates = 0

    def add(self, pieces: Iterable[Piece]) -> None:
        group, current = _Group(0), None
        for piece in pieces:
            if not piece.text.strip():
                continue
            if piece.group != current:
                self._finish(group)
                group, current = _Group(self.stream.tell()), piece.group
            self.stream.write(piece.text)
            group.names.append(piece.name)
            group.digests.append(hashlib.sha256(piece.text).digest())
            group.sizes.append(len(piece.text))
            group.whole.update(piece.text)
        self._finish(group)

    def _finish(self, group: _Group) -> None:
        if not group.names:
            return
        digest = group.whole.digest()
        if digest in self.seen:
            self.duplicates += 1
            self.stream.seek(group.start)
            self.stream.truncate()
            return
        self.seen.add(digest)
        self.groups.append((digest, group))

    def close(self) -> None:
        self.stream.close()


@dataclass(frozen=True, slots=True)
class _Row:
    name: str
    digest: bytes
    size: int
    side: int


def build(folder: Path, source: str, pieces: Iterable[Piece], val_fraction: float) -> str:
    """Write a corpus folder and return the SHA-256 of its manifest, document names included.

    A file is held out when the first 64 bits of its content's SHA-256, as a fraction of 2^64, are below
    ``val_fraction``: the side depends on nothing but its text. What training documents repeat of it is removed.

    Raises:
        ConfigError: there is no text, or a single document, which leaves nothing to hold out; or no training text
            besides what the held-out text says too.
    """
    writer = _Writer(folder)
    try:
        writer.add(pieces)
    finally:
        writer.close()
    sides = _sides([digest for digest, _ in writer.groups], source, val_fraction)
    rows = [
        _Row(name, digest, size, side)
        for side, (_, group) in zip(sides, writer.groups, strict=True)
        for name, digest, size in zip(group.names, group.digests, group.sizes, strict=True)
    ]
    rows, audit = _without_overlap(folder, rows)
    split = np.array([row.side for row in rows], dtype=np.uint8)
    if TRAIN not in split:
        need = f"need training text that does not repeat held-out text ({GRAM} words in a row)"
        raise ConfigError([f"--data {source}: got nothing else, {need}"])
    sizes = np.array([row.size for row in rows], dtype=np.int64)
    whole = hashlib.sha256()
    with open(folder / "documents.jsonl", "w", encoding="utf-8") as stream:
        for row in rows:
            whole.update(bytes([row.side]) + row.digest)
            printable = row.name.encode("utf-8", "replace").decode()
            entry = {"name": printable, "sha256": row.digest.hex(), "bytes": row.size, "split": SPLITS[row.side]}
            stream.write(json.dumps(entry, ensure_ascii=False) + "\n")
    np.save(folder / "offsets.npy", np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64))
    np.save(folder / "split.npy", split)
    np.save(folder / "digests.npy", np.array([int.from_bytes(row.digest[:8], "big") for row in rows], np.uint64))
    head = {
        "hash": whole.hexdigest(),
        "train_bytes": int(sizes[split == TRAIN].sum()),
        "val_bytes": int(sizes[split == VAL].sum()),
        "train_documents": int((split == TRAIN).sum()),
        "val_documents": int((split == VAL).sum()),
        "duplicates": writer.duplicates,
        "removed_bytes": int(sizes[split == REMOVED].sum()),
        **audit,
    }
    store.write_json(folder / "manifest.json", head)
    whole.update("\n".join(row.name for row in rows).encode("utf-8", "replace"))
    return whole.hexdigest()


def _without_overlap(folder: Path, rows: list[_Row]) -> tuple[list[_Row], dict[str, Any]]:
    """The rows with training documents cut where they repeat held-out text, and what the manifest says of it."""
    text = np.asarray(np.memmap(folder / "text.bin", dtype=np.uint8, mode="r"))
    offsets = np.concatenate([[0], np.cumsum([row.size for row in rows])])
    split = np.array([row.side for row in rows])
    found = separate(text, offsets, np.flatnonzero(split == TRAIN), np.flatnonzero(split == VAL), folder)
    np.save(folder / "repeated.npy", found.repeated)
    np.save(folder / "still_repeated.npy", found.still_repeated)
    parts: list[_Row] = []
    seen: set[bytes] = set()
    for index, row in enumerate(rows):
        if index not in found.parts:
            parts.append(row)
        for begin, end, kept in found.parts.get(index, ()):
            piece = text[offsets[index] + begin : offsets[index] + end].tobytes()
            digest = hashlib.sha256(piece).digest()
            side = TRAIN if kept and digest not in seen else REMOVED  # what is left may be left twice
            seen.add(digest)
            parts.append(_Row(f"{row.name}[{begin}:{end}]", digest, end - begin, side))
    return parts, {"overlapping": len(found.parts), "overlap": asdict(found.overlap)}


def _sides(digests: list[bytes], source: str, val_fraction: float) -> list[int]:
    if len(digests) < 2:
        got = "one document" if digests else "no text"
        raise ConfigError([f"--data {source}: got {got}, need at least two, one to train on and one to hold out"])
    places = [int.from_bytes(digest[:8], "big") / 2**64 for digest in digests]
    sides = [VAL if place < val_fraction else TRAIN for place in places]
    if VAL not in sides:  # few documents: the one nearest to the threshold changes sides
        sides[places.index(min(places))] = VAL
    if TRAIN not in sides:
        sides[places.index(max(places))] = TRAIN
    return sides


def load(folder: Path, source: str) -> Corpus:
    """Open a sealed corpus; text stays on the disk until it is read. ``source`` is the name it goes by now."""
    head = json.loads((folder / "manifest.json").read_bytes())
    overlap = Overlap(**head.pop("overlap"))
    return Corpus(
        folder=folder,
        manifest=Manifest(source=source, path=folder / "documents.jsonl", overlap=overlap, **head),
        text=np.asarray(np.memmap(folder / "text.bin", dtype=np.uint8, mode="r")),
        offsets=np.load(folder / "offsets.npy"),
        split=np.load(folder / "split.npy"),
        digests=np.load(folder / "digests.npy"),
        repeated=np.load(folder / "repeated.npy"),
        still_repeated=np.load(folder / "still_repeated.npy"),
    )
