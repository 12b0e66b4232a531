"""From a configuration to a dataset: the one entry point of this package."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from nanochat.config import ConfigError, DataConfig
from nanochat.data import corpus as corpora
from nanochat.data import evaluation, sources, store
from nanochat.data.corpus import TRAIN, VAL, Corpus, Manifest
from nanochat.data.evaluation import EvalSet
from nanochat.data.loader import Loader
from nanochat.data.overlap import Overlap, overlap
from nanochat.data.tokenizer import MAX_VOCAB, MIN_VOCAB, Tokenizer

VERSION = "2"
"""Raised when the same input would be prepared differently; part of every cache key."""

TOKENIZER_BYTES = 1 << 28
"""Longest text that a tokenizer is trained on."""

BATCH = 64
"""Documents that are encoded at a time; bounds memory."""


@dataclass(frozen=True)
class Dataset:
    """Prepared text. ``train_tokens`` (uint16, memory-mapped) holds the training documents, each opened by BOS."""

    corpus: Corpus = field(repr=False)
    tokenizer: Tokenizer
    train_tokens: np.ndarray = field(repr=False)
    train_offsets: np.ndarray = field(repr=False)
    eval_set: EvalSet = field(repr=False)

    @property
    def manifest(self) -> Manifest:
        return self.corpus.manifest

    @cached_property
    def overlap(self) -> Overlap:
        """Of the evaluation set with the training text; ``manifest.overlap`` is of all held-out text."""
        return overlap(self.eval_set.passages, self.corpus.repeated, self.corpus.still_repeated)

    def loader(self, batch_size: int, sequence_len: int, seed: int) -> Loader:
        """Training batches as a function of (seed, step)."""
        return Loader(self.train_tokens, self.train_offsets, batch_size, sequence_len, seed)


def ignore(line: str) -> None:
    """Report nothing."""


def open_dataset(data: DataConfig, vocab_size: int, *, report: Callable[[str], None] = ignore) -> Dataset:
    """Prepare the corpus and its tokens, or take them from the cache; safe with several processes at once.

    Args:
        data: which text, and how.
        vocab_size: of a ``bpe`` tokenizer, BOS included; ``dataset.tokenizer.vocab_size`` tells what came of it.
        report: called with one line per step that takes time.

    Raises:
        ConfigError: the data or the vocabulary is not what it has to be.
        EnvironmentFault: no network for a corpus that has to be downloaded, no room for the cache.
    """
    if data.tokenizer == "bpe" and not MIN_VOCAB <= vocab_size <= MAX_VOCAB:
        raise ConfigError([f"--vocab-size: got {vocab_size}, need {MIN_VOCAB} to {MAX_VOCAB} for --tokenizer bpe"])
    root = store.cache_root(data.cache_dir)
    with store.storage(root):
        corpus = open_corpus(data, root, report)
        name = data.tokenizer if data.tokenizer == "byte" else f"bpe-{vocab_size}"
        folder = root / "tokens" / f"{_key(VERSION, corpus.manifest.hash, name)}"
        build = partial(_tokenise, corpus=corpus, kind=data.tokenizer, vocab_size=vocab_size, report=report)
        store.obtain(folder, build, report)
    tokenizer = Tokenizer.load(folder / "tokenizer.json")
    held_out = [corpus.document(index) for index in corpus.by_hash(VAL)[: data.eval_documents]]
    return Dataset(
        corpus=corpus,
        tokenizer=tokenizer,
        train_tokens=np.asarray(np.memmap(folder / "train.bin", dtype="<u2", mode="r")),
        train_offsets=np.load(folder / "offsets.npy"),
        eval_set=EvalSet(evaluation.passages(held_out, data.eval_documents, data.eval_bytes), tokenizer),
    )


def open_corpus(data: DataConfig, root: Path, report: Callable[[str], None]) -> Corpus:
    """The corpus of the files as they are now. An unchanged listing leads straight to the prepared folder."""
    if data.data in sources.REMOTE:
        from nanochat.data.download import download

        listing = download(data, root / "downloads", report)
    else:
        listing = sources.local_listing(data)
    pointer = root / "listings" / f"{_key(VERSION, listing.key, repr(data.val_fraction))}.json"
    folder = _known(pointer, root)
    if folder is None:
        with store.locked(pointer.with_suffix(".lock")):
            folder = _known(pointer, root)
            if folder is None:
                report(f"reading {listing.source}: {len(listing.files)} files")
                folder = _prepare(listing, data, root)
                store.write_json(pointer, {"corpus": folder.name})
    return corpora.load(folder, listing.source)


def _known(pointer: Path, root: Path) -> Path | None:
    """The intact corpus that a listing was found to hold before."""
    note = store.read_json(pointer)
    folder = root / "corpora" / str(note["corpus"]) if isinstance(note, dict) and "corpus" in note else None
    return folder if folder is not None and store.is_intact(folder) else None


def _prepare(listing: sources.Listing, data: DataConfig, root: Path) -> Path:
    """Build the corpus and move it to where its name, which is known only now, says."""
    waiting = root / "corpora" / f"unnamed-{_key(listing.key, repr(data.val_fraction))}"
    shutil.rmtree(waiting, ignore_errors=True)
    names: list[str] = []

    def build(folder: Path) -> None:
        pieces = sources.read(listing, data.text_field)
        names.append(_key(VERSION, corpora.build(folder, listing.source, pieces, data.val_fraction)))

    store.publish(waiting, build)
    final = root / "corpora" / names[0]
    with store.locked(final.with_suffix(".lock")):
        if store.is_intact(final):  # the same text under another listing
            shutil.rmtree(waiting)
        else:
            shutil.rmtree(final, ignore_errors=True)
            waiting.rename(final)
    return final


def _tokenise(folder: Path, *, corpus: Corpus, kind: str, vocab_size: int, report: Callable[[str], None]) -> None:
    members = corpus.members(TRAIN)
    tokenizer = Tokenizer.byte()
    if kind == "bpe":
        report(f"training a tokenizer of {vocab_size} on {corpus.manifest.train_bytes / 1e6:.1f} MB")
        tokenizer = Tokenizer.train(_texts(corpus), vocab_size)
    tokenizer.save(folder / "tokenizer.json")
    report(f"encoding {len(members)} documents")
    sizes: list[int] = []
    opening = np.array([tokenizer.bos], dtype="<u2").tobytes()
    with open(folder / "train.bin", "wb") as stream, ThreadPoolExecutor() as pool:  # encoding releases the GIL
        for begin in range(0, len(members), BATCH):
            documents = map(corpus.document, members[begin : begin + BATCH])
            for ids in pool.map(tokenizer.encode, documents):
                stream.write(opening + ids.astype("<u2").tobytes())
                sizes.append(len(ids) + 1)
    np.save(folder / "offsets.npy", np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64))


def _texts(corpus: Corpus) -> Iterator[str]:
    """Training text for the tokenizer: all of it, or enough of it by content hash where it is very long."""
    left = TOKENIZER_BYTES
    for index in corpus.by_hash(TRAIN):
        document = corpus.document(index)
        left -= len(document)
        if left < 0:
            return
        yield document.decode()


def _key(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()[:32]
