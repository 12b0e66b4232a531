from __future__ import annotations

import json
import random
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat.config import ConfigError
from nanochat.data import Tokenizer

WORDS = "def return import self value naïve straße 漢字 число 12345 == != \n    \t {}[]".split(" ")


def texts(seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=60)) for _ in range(200)]


BYTE = Tokenizer.byte()
BPE = Tokenizer.train(texts(), 512)


@pytest.mark.parametrize("tokenizer", [BYTE, BPE], ids=["byte", "bpe"])
class TestRoundTrip:
    @given(st.text(st.characters(codec="utf-8"), max_size=300))
    def test_any_text(self, tokenizer: Tokenizer, text: str) -> None:
        assert tokenizer.decode(tokenizer.encode(text)) == text.encode()

    @given(st.binary(max_size=300))
    def test_any_bytes(self, tokenizer: Tokenizer, raw: bytes) -> None:
        assert tokenizer.decode(tokenizer.encode(raw)) == raw

    @given(st.lists(st.one_of(st.sampled_from([b"import ", "漢".encode(), b"\xff", b"\xe6\xbc", b"\r\n", b" " * 99]))))
    def test_text_broken_in_the_middle(self, tokenizer: Tokenizer, parts: list[bytes]) -> None:
        assert tokenizer.decode(tokenizer.encode(b"".join(parts))) == b"".join(parts)

    def test_half_a_surrogate_pair(self, tokenizer: Tokenizer) -> None:
        assert tokenizer.decode(tokenizer.encode("a\ud800b")) == b"a\xed\xa0\x80b"

    def test_ids_stay_below_bos(self, tokenizer: Tokenizer) -> None:
        ids = tokenizer.encode("<|bos|><|endoftext|>" + "".join(texts()))
        assert ids.max() < tokenizer.bos == tokenizer.vocab_size - 1
        assert tokenizer.decode([tokenizer.bos]) == b""

    def test_ids_outside_are_refused(self, tokenizer: Tokenizer) -> None:
        for bad in (-1, tokenizer.vocab_size):
            with pytest.raises(ValueError, match="token ids: got"):
                tokenizer.decode([bad])

    def test_file(self, tokenizer: Tokenizer, tmp_path: Path) -> None:
        tokenizer.save(tmp_path / "t.json")
        again = Tokenizer.load(tmp_path / "t.json")
        assert again.hash == tokenizer.hash
        assert np.array_equal(again.encode("naïve value"), tokenizer.encode("naïve value"))

    @pytest.mark.parametrize("filling", ["a", " ", "\n", "é", "=", "7"])
    def test_a_megabyte_without_a_break(self, tokenizer: Tokenizer, filling: str) -> None:
        text = filling * 1_000_000
        begin = time.perf_counter()
        ids = tokenizer.encode(text)
        assert time.perf_counter() - begin < 5
        assert tokenizer.decode(ids) == text.encode()


def test_training_is_repeatable() -> None:
    assert Tokenizer.train(texts(), 512).hash == BPE.hash
    assert Tokenizer.train(texts(1), 512).hash != BPE.hash


def test_merges_shorten_text() -> None:
    text = texts()[0]
    assert len(BPE.encode(text)) < len(BYTE.encode(text)) / 2


def test_vocabulary_counts_bos() -> None:
    assert BYTE.vocab_size == 257
    rich = Tokenizer.train(["".join(chr(random.Random(k).randrange(97, 123)) for k in range(9999))] * 9, 512)
    assert rich.vocab_size == 512


@pytest.mark.parametrize("size", [511, 65537, 0, -1])
def test_vocabulary_out_of_range(size: int) -> None:
    with pytest.raises(ConfigError, match="--vocab-size: got .*, need 512 to 65536"):
        Tokenizer.train(texts(), size)


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    BPE.save(path)
    value = json.loads(path.read_text())
    value["tokens"][300] = "00ff"
    for content in ("", "[]", "{}", json.dumps(value)):
        path.write_text(content)
        with pytest.raises(ValueError, match="need a tokenizer file"):
            Tokenizer.load(path)
