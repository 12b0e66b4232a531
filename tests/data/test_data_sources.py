from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from nanochat.config import ConfigError, DataConfig
from nanochat.data import open_dataset, sources

TEXTS = [f"document {index} says naïve things\n" * 3 for index in range(30)]


def names_and_texts(path: Path, text_field: str = "text") -> list[tuple[str, str]]:
    listing = sources.local_listing(DataConfig(data=str(path), text_field=text_field))
    return [(piece.name, piece.text.decode()) for piece in sources.read(listing, text_field)]


def refusal(path: Path | str, **more: Any) -> str:
    config = DataConfig(data=str(path), cache_dir=str(Path(path).parent / "cache"), tokenizer="byte", **more)
    with pytest.raises(ConfigError) as caught:
        open_dataset(config, 512)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_jsonl(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(json.dumps({"body": text, "id": 3}) for text in TEXTS) + "\n\n")
    assert [text for _, text in names_and_texts(path, "body")] == TEXTS
    assert names_and_texts(path, "body")[2][0] == "a.jsonl:3"


@pytest.mark.parametrize("kind", [pyarrow.string(), pyarrow.large_string()])
def test_parquet(tmp_path: Path, kind: pyarrow.DataType) -> None:
    table = pyarrow.table({"body": pyarrow.array([*TEXTS, None], kind), "id": list(range(31))})
    parquet.write_table(table, tmp_path / "a.parquet", row_group_size=7)
    assert [text for _, text in names_and_texts(tmp_path / "a.parquet", "body")] == TEXTS


def test_folder_of_all_kinds_in_a_fixed_order(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "x.txt").write_text("hidden")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    (tmp_path / "b" / "one.txt").write_text("one")
    (tmp_path / "two.MD").write_text("two")
    (tmp_path / "three.jsonl").write_text('{"text": "three"}')
    assert names_and_texts(tmp_path) == [("three.jsonl:1", "three"), ("two.MD", "two"), ("b/one.txt", "one")]


def test_single_file_is_split_by_pieces(tmp_path: Path) -> None:
    path = tmp_path / "book.txt"
    path.write_text("".join(f"line {index} of the book\n" for index in range(20000)))
    dataset = open_dataset(DataConfig(data=str(path), tokenizer="byte", cache_dir=str(tmp_path / "cache")), 512)
    assert dataset.manifest.train_documents > 100 and dataset.manifest.val_documents > 5
    assert dataset.manifest.train_bytes + dataset.manifest.val_bytes == path.stat().st_size


def test_pieces_of_a_file_stay_on_one_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "PIECE_BYTES", 40)
    for index in range(25):
        (tmp_path / f"{index}.txt").write_text("".join(f"file {index} line {line}\n" for line in range(20)))
    config = DataConfig(data=str(tmp_path), tokenizer="byte", cache_dir=str(tmp_path / "cache"), val_fraction=0.4)
    manifest = open_dataset(config, 512).manifest
    sides: dict[str, set[str]] = {}
    for document in manifest.documents:
        assert document.bytes <= 40
        sides.setdefault(document.name.split("#")[0], set()).add(document.split)
    assert len(manifest.documents) > 200
    assert {len(side) for side in sides.values()} == {1}
    assert manifest.val_documents > 0


@given(st.text(st.sampled_from("aé漢😀\r\n "), max_size=400), st.integers(8, 64))
def test_cutting_loses_nothing_and_breaks_no_character(text: str, limit: int) -> None:
    raw = text.encode()
    parts = [part for _, part in sources.cut(raw, limit)]
    assert b"".join(parts) == raw
    assert all(0 < len(part) <= limit for part in parts)
    joined = b"".join(sources.normalise(part, "x", 1) for part in parts)  # also decodes each
    assert joined == raw.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


class TestRefusals:
    def test_unknown_name(self, tmp_path: Path) -> None:
        line = refusal("pythn")
        assert (
            "unknown --data 'pythn'" in line and "did you mean 'python'" in line and "existing file or folder" in line
        )

    def test_folder_without_text(self, tmp_path: Path) -> None:
        (tmp_path / "d").mkdir()
        (tmp_path / "d" / "x.bin").write_bytes(b"\0")
        assert "got a folder without text, need files of .txt .md .py .jsonl .parquet" in refusal(tmp_path / "d")

    def test_files_without_text(self, tmp_path: Path) -> None:
        (tmp_path / "d").mkdir()
        (tmp_path / "d" / "x.txt").write_text("\n\n  \n")
        assert "got no text, need at least two" in refusal(tmp_path / "d")

    def test_a_single_short_document(self, tmp_path: Path) -> None:
        (tmp_path / "x.txt").write_text("hello")
        assert "got one document, need at least two" in refusal(tmp_path / "x.txt")

    def test_other_kind_of_file(self, tmp_path: Path) -> None:
        (tmp_path / "x.pdf").write_bytes(b"%PDF")
        assert "got a .pdf file, need .txt" in refusal(tmp_path / "x.pdf")

    def test_undecodable_bytes(self, tmp_path: Path) -> None:
        (tmp_path / "d").mkdir()
        (tmp_path / "d" / "a.txt").write_text("fine")
        (tmp_path / "d" / "b.txt").write_bytes("naïve".encode("latin-1"))
        line = refusal(tmp_path / "d")
        assert line.endswith("b.txt: got byte 0xef at offset 2, need UTF-8 text")

    def test_undecodable_bytes_far_into_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "x.txt").write_bytes(b"a" * 3_000_000 + b"\xff" + b"a" * 10)
        assert "got byte 0xff at offset 3000000" in refusal(tmp_path / "x.txt")

    @pytest.mark.parametrize(
        ("line", "need"),
        [
            (b'{"text": "a"', "need one JSON object per line"),
            (b'{"text": "\xff"}', "need one JSON object per line"),
            (b'{"body": "a"}', "got body, need text in field 'text' (--text-field)"),
            (b'{"text": 3}', "need text in field 'text'"),
            (b"[1]", "got list, need text in field 'text'"),
        ],
    )
    def test_jsonl_line(self, tmp_path: Path, line: bytes, need: str) -> None:
        (tmp_path / "x.jsonl").write_bytes(b'{"text": "fine"}\n' + line + b"\n")
        message = refusal(tmp_path / "x.jsonl")
        assert need in message and "line 2" in message

    def test_jsonl_line_too_long_to_parse(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sources, "LINE_BYTES", 1 << 20)
        (tmp_path / "x.jsonl").write_text(json.dumps({"text": "a" * (1 << 20)}))
        assert "line 1: got more than 1 MiB, need shorter lines" in refusal(tmp_path / "x.jsonl")

    def test_parquet_without_the_column(self, tmp_path: Path) -> None:
        parquet.write_table(pyarrow.table({"body": ["a"], "text": [1]}), tmp_path / "x.parquet")
        assert "got columns body, text, need text in column 'text'" in refusal(tmp_path / "x.parquet")

    @pytest.mark.parametrize("keep", [0, 3, 200])
    def test_parquet_cut_short(self, tmp_path: Path, keep: int) -> None:
        parquet.write_table(pyarrow.table({"text": TEXTS}), tmp_path / "y.parquet")
        (tmp_path / "x.parquet").write_bytes((tmp_path / "y.parquet").read_bytes()[:keep])
        assert "need a whole Parquet file" in refusal(tmp_path / "x.parquet")


MEASURE = """
import resource, sys
from nanochat.config import DataConfig
from nanochat.data import open_dataset
soft = int(sys.argv[3])
resource.setrlimit(resource.RLIMIT_DATA, (soft, soft))  # private memory; a mapped file does not count
dataset = open_dataset(DataConfig(data=sys.argv[1], tokenizer=sys.argv[4], cache_dir=sys.argv[2]), 512)
dataset.loader(4, 64, 0).batch(10)
manifest = dataset.manifest
print(manifest.train_bytes + manifest.val_bytes + manifest.removed_bytes)  # lines repeat what is held out
"""


def one_line(tmp_path: Path, megabytes: int, limit: int, tokenizer: str) -> int:
    path = tmp_path / "line.txt"
    with open(path, "w", encoding="utf-8") as stream:
        for index in range(megabytes):
            stream.write((f"word{index}é " * 200_000)[: 1_000_000 - 200_000 // 8])
    command = [sys.executable, "-c", MEASURE, str(path), str(tmp_path / "cache"), str(limit), tokenizer]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == path.stat().st_size
    return path.stat().st_size


def test_long_line_takes_bounded_memory(tmp_path: Path) -> None:
    assert one_line(tmp_path, 60, 350 << 20, "byte") > 50_000_000


@pytest.mark.slow
@pytest.mark.parametrize("tokenizer", ["byte", "bpe"])
def test_line_of_500_megabytes(tmp_path: Path, tokenizer: str) -> None:
    assert one_line(tmp_path, 520, 1 << 30, tokenizer) >= 500_000_000
