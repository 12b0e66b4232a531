"""Bytes or byte pairs. Every byte has a token, so any input survives the round trip exactly.

Ids 0..255 are the bytes, merges follow, and the last id is BOS, the only special: it opens every document, is
never produced by text, and decodes to nothing.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nanochat.config import ConfigError

if TYPE_CHECKING:
    import tiktoken

PATTERN = r"[^\r\n\p{L}\p{N}]?\p{L}{1,48}|\p{N}{1,3}| ?[^\s\p{L}\p{N}]{1,24}|\s{1,48}(?!\S)|\s{1,48}"
"""Words with the sign before them, numbers by threes, signs, blanks. Every run is bounded: merging a piece takes time
quadratic in its length, so a megabyte without a blank would otherwise never end."""

FORMAT = "mgr.tokenizer.v1"
MIN_VOCAB, MAX_VOCAB = 512, 65536
_UNDECODABLE = re.compile("([\udc80-\udcff]+)")


@dataclass(frozen=True)
class Tokenizer:
    """A vocabulary. ``tokens[i]`` are the bytes of id ``i``; ``bos`` is one past the last of them.

    Example::

        tokenizer = Tokenizer.byte()
        tokenizer.decode(tokenizer.encode("né"))  # b"n\\xc3\\xa9"
    """

    kind: str
    tokens: tuple[bytes, ...] = field(repr=False)
    pattern: str = ""

    @staticmethod
    def byte() -> Tokenizer:
        """The 256 bytes and BOS."""
        return Tokenizer("byte", tuple(bytes([value]) for value in range(256)))

    @staticmethod
    def train(texts: Iterable[str], vocab_size: int) -> Tokenizer:
        """Byte pairs by frequency (Sennrich et al. 2016, arXiv:1508.07909); the same texts give the same vocabulary.

        Args:
            texts: the training split, nothing else.
            vocab_size: 512 to 65536, BOS included; fewer come out where the texts have no more pairs to merge.
        """
        if not MIN_VOCAB <= vocab_size <= MAX_VOCAB:
            raise ConfigError([f"--vocab-size: got {vocab_size}, need {MIN_VOCAB} to {MAX_VOCAB} for --tokenizer bpe"])
        import rustbpe

        trainer = rustbpe.Tokenizer()  # pyright: ignore[reportAttributeAccessIssue] - compiled, without stubs
        trainer.train_from_iterator(iter(texts), vocab_size - 1, buffer_size=64, pattern=PATTERN)
        ranks = sorted(trainer.get_mergeable_ranks(), key=lambda entry: entry[1])
        assert [rank for _, rank in ranks] == list(range(len(ranks)))
        return Tokenizer("bpe", tuple(token for token, _ in ranks), PATTERN)

    @property
    def bos(self) -> int:
        return len(self.tokens)

    @property
    def vocab_size(self) -> int:
        return len(self.tokens) + 1

    def encode(self, text: str | bytes) -> np.ndarray:
        """Ids (uint16) of the text, without BOS. Bytes that are not UTF-8 become one token each."""
        raw = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
        if self.kind == "byte":
            return np.frombuffer(raw, dtype=np.uint8).astype(np.uint16)
        parts = _UNDECODABLE.split(raw.decode("utf-8", "surrogateescape"))
        ids = [self._single(part) if place % 2 else self._merged(part) for place, part in enumerate(parts)]
        return ids[0] if len(ids) == 1 else np.concatenate(ids)

    def _single(self, text: str) -> np.ndarray:
        return np.frombuffer(text.encode("utf-8", "surrogateescape"), dtype=np.uint8).astype(np.uint16)

    def _merged(self, text: str) -> np.ndarray:
        return self._encoding.encode_to_numpy(text, disallowed_special=()).astype(np.uint16)

    def decode(self, ids: Sequence[int] | np.ndarray) -> bytes:
        """The bytes of the ids; BOS decodes to nothing.

        Raises:
            ValueError: an id outside the vocabulary.
        """
        table = (*self.tokens, b"")
        values = np.asarray(ids, dtype=np.int64).ravel()
        if values.size and not 0 <= values.min() <= values.max() <= self.bos:
            raise ValueError(f"token ids: got {values.min()} to {values.max()}, need 0 to {self.bos}")
        return b"".join([table[value] for value in values.tolist()])

    @cached_property
    def hash(self) -> str:
        """SHA-256 of everything that decides how text becomes ids."""
        return hashlib.sha256(json.dumps(self._plain(), sort_keys=True).encode()).hexdigest()

    def save(self, path: str | Path) -> None:
        """One JSON file, tokens in hexadecimal."""
        from nanochat.data.store import write_json

        write_json(Path(path), {**self._plain(), "hash": self.hash})

    @staticmethod
    def load(path: str | Path) -> Tokenizer:
        """Read what :meth:`save` wrote.

        Raises:
            ValueError: it is not such a file, or its content does not match its hash.
        """
        need = f"need a tokenizer file ({FORMAT})"
        try:
            value = json.loads(Path(path).read_bytes())
        except ValueError as error:
            raise ValueError(f"{path}: got {error}, {need}") from error
        if not isinstance(value, dict) or value.get("format") != FORMAT:
            raise ValueError(f"{path}: got something else, {need}")
        tokens = tuple(bytes.fromhex(token) for token in value["tokens"])
        tokenizer = Tokenizer(value["kind"], tokens, value["pattern"])
        if tokenizer.hash != value["hash"]:
            raise ValueError(f"{path}: got content that does not match its hash, {need}")
        return tokenizer

    def _plain(self) -> dict[str, Any]:
        tokens = [token.hex() for token in self.tokens]
        return {"format": FORMAT, "kind": self.kind, "pattern": self.pattern, "tokens": tokens}

    @cached_property
    def _encoding(self) -> tiktoken.Encoding:
        import tiktoken

        ranks = {token: rank for rank, token in enumerate(self.tokens)}
        return tiktoken.Encoding(self.hash[:16], pat_str=self.pattern, mergeable_ranks=ranks, special_tokens={})
