from __future__ import annotations

import hashlib
import random
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat.config import ConfigError, DataConfig
from nanochat.data import Dataset, open_dataset, overlap

rng = random.Random(5)
LEXICON = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz_0123456789", k=6)) for _ in range(5000)]


def words(count: int, seed: int) -> str:
    return " ".join(random.Random(seed).choices(LEXICON, k=count)) + "\n"


def side(text: str) -> str:
    return "val" if int(hashlib.sha256(text.encode()).hexdigest()[:16], 16) / 2**64 < 0.1 else "train"


def find(wanted: str, text: str) -> str:
    """``text`` with a number before it that puts it on the wanted side."""
    return next(found for number in range(10_000) if side(found := f"{number}\n{text}") == wanted)


def opened(folder: Path, texts: dict[str, str], name: str = "text") -> Dataset:
    (folder / name).mkdir()
    for key, text in texts.items():
        (folder / name / f"{key}.txt").write_text(text, encoding="utf-8")
    data = DataConfig(data=str(folder / name), cache_dir=str(folder / "cache"), tokenizer="byte", eval_bytes=10**6)
    return open_dataset(data, 512)


def naive(text: str) -> list[tuple[str, ...]]:
    """The grams by their definition."""
    found = re.findall(r"[\u3000-\U0010ffff][A-Za-z0-9_\u0080-\u2fff]*|[A-Za-z0-9_\u0080-\u2fff]+", text)
    found = [re.sub("[A-Z]", lambda letter: letter.group().lower(), word) for word in found]
    return [tuple(found[index : index + 13]) for index in range(len(found) - 12)]


PLAIN = {f"plain{seed}": words(400, seed) for seed in range(30)}
QUOTED = words(60, 1000)
HELD = find("val", words(100, 1001) + QUOTED + words(100, 1002))
HOST = find("train", words(300, 1003) + QUOTED + words(300, 1004))


def training_text(dataset: Dataset) -> list[bytes]:
    begins = dataset.train_offsets.tolist()
    tokens = dataset.train_tokens
    return [dataset.tokenizer.decode(tokens[begin:end]) for begin, end in zip(begins, begins[1:], strict=False)]


def test_control_without_overlap_loses_nothing(tmp_path: Path) -> None:
    manifest = (dataset := opened(tmp_path, {**PLAIN, "held": HELD})).manifest
    assert (manifest.overlapping, manifest.removed_bytes) == (0, 0)
    assert manifest.overlap == overlap.Overlap(manifest.overlap.grams, 0, 0) != overlap.Overlap(0, 0, 0)
    assert not any(document.split == "removed" for document in manifest.documents)
    assert dataset.overlap == manifest.overlap


def test_planted_passage_is_removed_and_the_rest_stays(tmp_path: Path) -> None:
    control = opened(tmp_path, {**PLAIN, "held": HELD}, "control")
    dataset = opened(tmp_path, {**PLAIN, "held": HELD, "host": HOST})
    manifest = dataset.manifest
    assert manifest.overlapping == 1
    assert len(QUOTED) - 10 <= manifest.removed_bytes <= len(QUOTED)
    assert not any(QUOTED.strip().encode() in text for text in training_text(dataset))
    before, after = HOST.split(QUOTED.strip())
    assert {before.encode(), after.encode()} <= set(training_text(dataset))
    parts = [document for document in manifest.documents if document.name.startswith("host.txt")]
    assert [part.split for part in parts] == ["train", "removed", "train"]
    assert sum(part.bytes for part in parts) == len(HOST)
    assert parts[1].sha256 == hashlib.sha256(QUOTED.strip().encode()).hexdigest()
    assert (manifest.overlap.before, manifest.overlap.after) == (60 - 12, 0)
    assert dataset.overlap == manifest.overlap
    assert dataset.eval_set.hash == control.eval_set.hash
    assert manifest.val_bytes == control.manifest.val_bytes
    assert manifest.hash != control.manifest.hash


def test_copy_and_near_copy_are_removed(tmp_path: Path) -> None:
    copy = find("train", HELD)
    changed = HELD.upper().replace(" ", ",\n\t").split(",")
    changed[::40] = ["other"] * len(changed[::40])
    dataset = opened(tmp_path, {**PLAIN, "held": HELD, "copy": copy, "near": find("train", ",".join(changed))})
    manifest = dataset.manifest
    assert manifest.overlapping == 2
    rest = [d for d in manifest.documents if d.split == "train" and d.name.startswith(("copy", "near"))]
    assert not rest
    assert manifest.overlap.before > 0.99 * len(naive(HELD))
    assert manifest.overlap.after == 0


def test_twelve_words_are_no_copy_and_thirteen_are(tmp_path: Path) -> None:
    shared = HELD.split()[100:113]
    for count, lost in ((12, 0), (13, 1)):
        host = find("train", words(90, 2007) + " ".join(shared[:count]) + "\n" + words(90, 2008))
        manifest = opened(tmp_path, {**PLAIN, "held": HELD, "host": host}, f"text{count}").manifest
        assert (manifest.overlapping, manifest.overlap.before) == (lost, lost)


def test_short_rest_goes_too(tmp_path: Path) -> None:
    host = find("train", words(90, 2007) + QUOTED + words(10, 2008) + QUOTED + words(90, 2009))
    dataset = opened(tmp_path, {**PLAIN, "held": HELD, "host": host})
    parts = [d.split for d in dataset.manifest.documents if d.name.startswith("host")]
    assert parts == ["train", "removed", "train"]
    assert not any(words(10, 2008).encode() in text for text in training_text(dataset))


def test_equal_rests_are_kept_once(tmp_path: Path) -> None:
    rest = "\n" + words(90, 3000)
    hosts = {f"host{n}": QUOTED.replace("\n", " ") * n + rest for n in range(1, 40)}
    hosts = {name: text for name, text in hosts.items() if side(text) == "train"}
    manifest = opened(tmp_path, {**PLAIN, "held": HELD, **hosts}).manifest
    assert len(hosts) > 2
    assert [d.split for d in manifest.documents if d.name.startswith("host")].count("train") == 1


def test_nothing_left_is_one_line(tmp_path: Path) -> None:
    texts = {f"{number}": f"{number}\n{QUOTED}" for number in range(40)}
    with pytest.raises(ConfigError, match=r"^--data .*: got nothing else, need training text that does not repeat"):
        opened(tmp_path, texts)


@given(st.text(st.sampled_from("aAbé漢字。한 \n.,_7ß"), max_size=300), st.integers(0, 5))
def test_grams_are_those_of_the_definition(text: str, seed: int) -> None:
    text += words(20, seed) + text
    found = overlap.grams(text.encode())
    wanted = naive(text)
    assert len(found.hashes) == len(wanted)
    assert len(np.unique(found.hashes)) == len(set(wanted))
    first: dict[int, tuple[str, ...]] = {}
    for value, gram, start, end in zip(found.hashes.tolist(), wanted, found.starts, found.ends, strict=True):
        assert first.setdefault(value, gram) == gram
        assert naive(text.encode()[start:end].decode()) == [gram]


def test_hash_is_the_same_everywhere() -> None:
    """A cache is read by other processes and machines: the function is fixed for ever."""
    text = "The quick brown fox, naïve and 漢字, jumps over_13 lazy dogs while seven wizards box twice.".encode()
    assert [hex(value) for value in overlap.grams(text).hashes.tolist()] == [
        "0x4a3f61b9469ed87d",
        "0x6c986646bfbb5dc0",
        "0xe1da2add78aaaeee",
        "0xf277c065261e784c",
        "0x8bb6a69aac4b7006",
    ]


@pytest.mark.parametrize("chunk", [1, 50, 1 << 23])
def test_many_small_chunks_find_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(overlap, "CHUNK", chunk)
    texts = [text.encode() for text in (HELD, HOST, *PLAIN.values())]
    offsets = np.concatenate([[0], np.cumsum([len(text) for text in texts])])
    raw = np.frombuffer(b"".join(texts), np.uint8)
    found = overlap.separate(raw, offsets, np.arange(1, 20), np.array([0, *range(20, 32)]), tmp_path)
    assert list(found.parts) == [1]
    assert [kept for _, _, kept in found.parts[1]] == [True, False, True]
    assert len(found.repeated) == found.overlap.before == 48
    assert (len(found.still_repeated), found.overlap.after) == (0, 0)
    assert not list(tmp_path.iterdir())


def test_audit_counts_what_is_left() -> None:
    held = overlap.grams(HELD.encode()).hashes
    assert overlap.overlap([HELD.encode()], held, held[:7]) == overlap.Overlap(len(held), len(held), 7)
