from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest

from nanochat.data import EvalSet, Tokenizer
from nanochat.data.evaluation import passages

TEXTS = [("naïve straße 漢字 " * 40).encode(), b"short", b"x" * 1000, ("é" * 700).encode()]
BPE = Tokenizer.train(["naïve straße 漢字 import value " * 50], 512)


def test_first_round_takes_the_beginning_of_each() -> None:
    chosen = passages(TEXTS, 4, 100)
    assert all(
        text.startswith(part) and 97 <= len(part) <= 100 or part == text
        for text, part in zip(TEXTS, chosen, strict=True)
    )
    for part in chosen:
        part.decode()  # cut between characters


def test_further_rounds_go_on_where_the_last_one_ended() -> None:
    whole = passages(TEXTS, 10**6, 64)
    assert sum(map(len, whole)) == sum(map(len, TEXTS))
    assert whole[: len(passages(TEXTS, 9, 64))] == passages(TEXTS, 9, 64)
    assert b"".join(p for p in whole if set(p) == {ord("x")}) == b"x" * 1000


def test_character_longer_than_a_passage() -> None:
    assert passages(["漢字".encode()], 9, 1) == ("漢".encode(), "字".encode())


@pytest.mark.parametrize("tokenizer", [Tokenizer.byte(), BPE], ids=["byte", "bpe"])
@pytest.mark.parametrize("sequence_len", [1, 7, 64, 4096])
def test_every_token_is_scored_once_and_bos_never(tokenizer: Tokenizer, sequence_len: int) -> None:
    held = EvalSet(passages(TEXTS, 6, 200), tokenizer)
    windows = held.windows(sequence_len)
    assert windows.inputs.shape == windows.targets.shape == (len(windows.document), sequence_len)
    assert tokenizer.bos not in windows.targets
    for number, passage in enumerate(held.passages):
        mine = windows.document == number
        scored = windows.targets[mine].ravel()
        assert tokenizer.decode(scored[scored >= 0]) == passage
        assert windows.inputs[mine][0, 0] == tokenizer.bos
        seen = windows.inputs[mine].ravel()[1 : (scored >= 0).sum()]
        assert np.array_equal(seen, scored[scored >= 0][:-1])  # each input is the target before it


def test_hash_is_of_text_not_of_tokens() -> None:
    one, other = EvalSet(passages(TEXTS, 6, 200), Tokenizer.byte()), EvalSet(passages(TEXTS, 6, 200), BPE)
    assert one.hash == other.hash
    assert one.hash != EvalSet(passages(TEXTS, 6, 201), BPE).hash
    assert one.hash != EvalSet(passages(TEXTS, 5, 200), BPE).hash
    assert one.document_ids == [hashlib.sha256(p).hexdigest() for p in one.passages]


def test_uniform_bytes_cost_eight_bits() -> None:
    held = EvalSet(passages(TEXTS, 6, 200), Tokenizer.byte())
    scored = (held.windows(32).targets >= 0).sum()
    assert scored * math.log(256) / (math.log(2) * held.document_bytes.sum()) == pytest.approx(8, abs=1e-12)
