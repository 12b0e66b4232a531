from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from nanochat.config import ConfigError, DataConfig, EnvironmentFault
from nanochat.data import Dataset, open_dataset, sources, store

WORDS = "the model reads naïve text and 漢字 import def return value = 3.14 \n".split(" ")


def fill(folder: Path, count: int = 40, seed: int = 0) -> Path:
    rng = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        (folder / f"{index:02d}.txt").write_text(" ".join(rng.choices(WORDS, k=80)), encoding="utf-8")
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return fill(tmp_path / "text")


def opened(tmp_path: Path, data: Path | str, vocab_size: int = 512, log: list[str] | None = None, **more) -> Dataset:
    config = DataConfig(data=str(data), cache_dir=str(tmp_path / "cache"), **more)
    return open_dataset(config, vocab_size, report=(log if log is not None else []).append)


def test_manifest_tells_every_document(tmp_path: Path, folder: Path) -> None:
    manifest = opened(tmp_path, folder).manifest
    assert len(manifest.documents) == 40
    whole = hashlib.sha256()
    for document in manifest.documents:
        raw = (folder / document.name).read_bytes()
        digest = hashlib.sha256(raw).digest()
        assert (document.sha256, document.bytes) == (digest.hex(), len(raw))
        side = int.from_bytes(digest[:8], "big") / 2**64 < 0.1
        assert document.split == ("val" if side else "train")
        whole.update(bytes([side]) + digest)
    assert manifest.hash == whole.hexdigest()
    assert manifest.train_bytes == sum(d.bytes for d in manifest.documents if d.split == "train")
    assert manifest.val_bytes == sum(d.bytes for d in manifest.documents if d.split == "val") > 0


@pytest.mark.parametrize("tokenizer", ["byte", "bpe"])
def test_tokens_are_the_training_text(tmp_path: Path, folder: Path, tokenizer: str) -> None:
    dataset = opened(tmp_path, folder, tokenizer=tokenizer)
    train = [d for d in dataset.manifest.documents if d.split == "train"]
    begins = dataset.train_offsets
    assert len(begins) == len(train) + 1
    for document, begin, end in zip(train, begins, begins[1:], strict=False):
        assert dataset.train_tokens[begin] == dataset.tokenizer.bos
        assert dataset.tokenizer.decode(dataset.train_tokens[begin:end]) == (folder / document.name).read_bytes()
    base = dataset.train_tokens
    while not isinstance(base, np.memmap):
        assert base.base is not None, "the tokens are not memory-mapped"
        base = base.base


def test_held_out_text_reaches_neither_tokens_nor_tokenizer(tmp_path: Path, folder: Path) -> None:
    before = opened(tmp_path, folder)
    for document in before.manifest.documents:
        if document.split == "val":
            (folder / document.name).unlink()
    added = 0
    for number in range(1000):  # other held-out text, by the rule of the split
        text = f"entirely new words {number} " * 9
        if int(hashlib.sha256(text.encode()).hexdigest()[:16], 16) / 2**64 < 0.1 and added < 4:
            (folder / f"new{number}.txt").write_text(text)
            added += 1
    after = opened(tmp_path, folder)
    assert after.manifest.val_documents == added
    assert after.manifest.hash != before.manifest.hash
    assert after.eval_set.hash != before.eval_set.hash
    assert after.tokenizer.hash == before.tokenizer.hash
    assert np.array_equal(after.train_tokens, before.train_tokens)


def test_eval_set_holds_out_what_it_scores(tmp_path: Path, folder: Path) -> None:
    dataset = opened(tmp_path, folder, eval_documents=3, eval_bytes=50)
    held = [(folder / d.name).read_bytes() for d in dataset.manifest.documents if d.split == "val"]
    assert 0 < len(dataset.eval_set.passages) <= 3
    assert all(any(passage in text for text in held) for passage in dataset.eval_set.passages)


def test_hash_knows_text_not_place(tmp_path: Path, folder: Path) -> None:
    one = opened(tmp_path, folder)
    other = opened(tmp_path, fill(tmp_path / "elsewhere"))
    assert one.manifest.hash == other.manifest.hash
    assert len(list((tmp_path / "cache" / "corpora").glob("*/seal.json"))) == 1


def test_duplicates_and_line_ends(tmp_path: Path, folder: Path) -> None:
    first = (folder / "00.txt").read_bytes()
    (folder / "copy.md").write_bytes(first)
    (folder / "windows.py").write_bytes(b"\xef\xbb\xbf" + first.replace(b"\n", b"\r\n"))
    (folder / "old.txt").write_bytes(first.replace(b"\n", b"\r"))
    (folder / "blank.txt").write_text(" \n\t\n")
    (folder / "empty.txt").touch()
    manifest = opened(tmp_path, folder).manifest
    assert (len(manifest.documents), manifest.duplicates) == (40, 3)


def test_second_opening_reads_the_cache(tmp_path: Path, folder: Path) -> None:
    log: list[str] = []
    opened(tmp_path, folder, log=log)
    assert any("reading" in line for line in log) and any("tokenizer" in line for line in log)
    log.clear()
    opened(tmp_path, folder, log=log)
    assert log == []
    with open(folder / "07.txt", "a") as stream:
        stream.write("one more line")
    opened(tmp_path, folder, log=log)
    assert log


@pytest.mark.parametrize("pattern", ["tokens/*/train.bin", "corpora/*/text.bin", "tokens/*/tokenizer.json"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "delete"])
def test_damaged_cache_is_built_again(tmp_path: Path, folder: Path, pattern: str, damage: str) -> None:
    before = opened(tmp_path, folder)
    expected = np.array(before.train_tokens)
    (victim,) = (tmp_path / "cache").glob(pattern)
    raw = bytearray(victim.read_bytes())
    victim.unlink()
    if damage != "delete":
        raw[len(raw) // 2] ^= 1
        victim.write_bytes(raw if damage == "flip" else raw[: len(raw) // 2])
    after = opened(tmp_path, folder)
    assert np.array_equal(after.train_tokens, expected)
    assert (after.tokenizer.hash, after.eval_set.hash) == (before.tokenizer.hash, before.eval_set.hash)


SCRIPT = """
import sys, time
from nanochat.config import DataConfig
from nanochat.data import open_dataset
time.sleep(max(0, float(sys.argv[3]) - time.time()))
dataset = open_dataset(DataConfig(data=sys.argv[1], cache_dir=sys.argv[2]), 600, report=print)
print("hash", dataset.manifest.hash, dataset.tokenizer.hash, int(dataset.train_tokens.sum()))
"""


def start(folder: Path, cache: Path, at: float = 0) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SCRIPT, str(folder), str(cache), str(at)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_two_processes_prepare_one_corpus(tmp_path: Path) -> None:
    folder = fill(tmp_path / "text", 300)
    at = time.time() + 1
    outputs = []
    for process in [start(folder, tmp_path / "cache", at) for _ in range(2)]:
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        outputs.append(out)
    results = [[line for line in out.splitlines() if line.startswith("hash")] for out in outputs]
    assert results[0] == results[1] != []
    assert "".join(outputs).count("reading") == 1, "both did the work"
    assert "".join(outputs).count("encoding") == 1, "both did the work"


def test_killed_process_leaves_nothing_that_hurts(tmp_path: Path) -> None:
    folder, cache = fill(tmp_path / "text", 300), tmp_path / "cache"
    for stage in ("reading", "encoding"):
        process = start(folder, cache)
        assert process.stdout is not None
        while stage not in process.stdout.readline():
            assert process.poll() is None or stage == "reading"
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=30)
    dataset = opened(tmp_path, folder, 600)
    assert dataset.manifest.train_documents + dataset.manifest.val_documents == 300
    assert not list(cache.glob("*/building-*")) and not list(cache.glob("*/unnamed-*"))


def test_full_disk_is_one_line_and_leaves_nothing(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(place: Path) -> None:
        raise OSError(28, os.strerror(28), str(place))

    with monkeypatch.context() as patch:
        patch.setattr(store, "seal", full)
        with pytest.raises(EnvironmentFault, match=r"No space left on device, need .*--cache-dir"):
            opened(tmp_path, folder)
    assert not list((tmp_path / "cache").glob("*/building-*"))
    opened(tmp_path, folder)


def test_cache_that_cannot_be_written(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "cache").write_text("a file, not a folder")
    with pytest.raises(EnvironmentFault, match=r"data cache .*need a writable folder"):
        opened(tmp_path, folder)


def test_cache_place_follows_the_platform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert store.cache_root(None) == tmp_path / "model-guided-research"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/is/ignored")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert store.cache_root(None) == tmp_path / "home" / ".cache" / "model-guided-research"
    assert store.cache_root("elsewhere") == Path("elsewhere")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("python")


class TestInterpreter:
    def test_enough_text_and_nothing_foreign(self, prepared: Path) -> None:
        dataset = opened(prepared, "python", 1024)
        kept = [document for document in dataset.manifest.documents if document.split != "removed"]
        names = [document.name.split("[")[0] for document in kept]  # some were cut
        assert dataset.manifest.train_bytes >= 8_000_000
        assert len({document.sha256 for document in kept}) == len(names)
        assert dataset.overlap.before > dataset.overlap.after == dataset.manifest.overlap.after == 0
        assert any(name.startswith("topics/") for name in names)
        assert "docstrings/itertools" in names and "argparse.py" in names
        assert not any("site-packages" in name or name.startswith("/") for name in names)
        assert len(dataset.eval_set.passages) == 200
        assert dataset.tokenizer.vocab_size == 1024

    def test_what_is_prepared_is_only_opened(self, prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        first, log = opened(prepared, "python", 1024), []
        for name in ("_prepare", "_tokenise"):
            monkeypatch.setattr(f"nanochat.data.dataset.{name}", lambda *given, **more: pytest.fail("prepared again"))
        again = opened(prepared, "python", 1024, log)  # its time: benchmarks/data.py
        assert log == [] and again.manifest.hash == first.manifest.hash
        with pytest.raises(pytest.fail.Exception):
            opened(prepared, "python", 512)

    def test_tests_make_up_for_a_small_library(self, monkeypatch: pytest.MonkeyPatch) -> None:
        plain = {file.name for file in sources.python_files()}
        assert not any(name.startswith("test/") for name in plain)
        monkeypatch.setattr(sources, "ENOUGH_BYTES", 10**12)
        everything = {file.name for file in sources.python_files()}
        assert plain <= everything

    def test_interpreter_without_sources(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sources.sysconfig, "get_path", lambda name: str(tmp_path))
        with pytest.raises(ConfigError, match="--data python: got no sources in .*, need --data PATH"):
            sources.python_files()


def test_the_language_reference_is_the_same_under_any_program(monkeypatch):
    """A test runner replaces hooks, a shell adds helpers and remembers the last exception: none of it is our text."""
    import builtins
    import sys

    before = list(sources._python_prose())
    monkeypatch.setattr(sys, "excepthook", lambda *_: None)
    monkeypatch.setattr(sys, "breakpointhook", lambda *_: None)
    monkeypatch.setattr(sys, "last_type", ValueError, raising=False)
    monkeypatch.setattr(builtins, "helper", len, raising=False)
    assert list(sources._python_prose()) == before
    code = (
        "import hashlib; from nanochat.data import sources;"
        "print(hashlib.sha256(repr(list(sources._python_prose())).encode()).hexdigest())"
    )
    plain = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert plain.stdout.strip() == hashlib.sha256(repr(before).encode()).hexdigest()
