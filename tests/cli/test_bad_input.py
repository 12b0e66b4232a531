"""What a user can get wrong on the command line: one line each that says what, got, need; nothing is left behind."""

from __future__ import annotations

from pathlib import Path

import pytest

import cli

CASES = {
    "unknown arm": ("-a tropcal", 2, "unknown -a 'tropcal'", "did you mean 'tropical'?"),
    "unknown optimizer": ("--optimizer adamv", 2, "unknown --optimizer 'adamv'", "did you mean 'adamw'?"),
    "unknown schedule": ("--scheduler wsdd", 2, "unknown --scheduler 'wsdd'", "did you mean 'wsd'?"),
    "unknown preset": ("--preset quik", 2, "unknown --preset 'quik'", "did you mean 'quick'?"),
    "unknown field of an arm": ("-a tropical,scor=maxplus", 2, "-a tropical,scor=maxplus", "need one of"),
    "budget below 200 steps": ("--target-flops 1e3", 2, "--target-flops: got 1000", "need 200 steps"),
    "budget that is no number": ("--target-flops nan", 2, "--target-flops: got nan", "need a finite number"),
    "negative budget": ("--target-flops -1", 2, "--target-flops: got -1", "need more than 0"),
    "text for a number": ("--seeds many", 2, "--seeds", "valid int"),
    "one seed": ("--seeds 1", 2, "--seeds: got 1", "need at least 2"),
    "unknown device": ("--device gpu", 2, "--device: got 'gpu'", "need auto, cpu, cuda or cuda:N"),
    "name with a slash": ("--run-id a/b", 2, "--run-id: got 'a/b'", "need letters"),
    "artifacts that are a file": ("--artifacts-dir file", 2, "--artifacts-dir: got file", "need a writable folder"),
    "text that is not there": ("--data nowhere", 2, "unknown --data 'nowhere'", "existing file or folder"),
    "folder without text": ("--data empty", 2, "--data empty: got a folder without text", "need files of .txt"),
    "text that is no UTF-8": ("--data binary", 2, "--data binary/x.txt: got byte 0xff", "need UTF-8 text"),
    "cache that is a file": ("--cache-dir file", 3, "file: Not a directory", "need a writable folder"),
    "crew": ("--crew rai", 2, "unknown --crew 'rai'", "did you mean 'ray'?"),
    "crew without a number": ("--crew ray", 2, "--jobs: got none", "how many workers"),
    "crew option": ("--crew slurm --jobs 2 --crew-option time=2h", 2, "time: got '2h'", "need a whole number"),
    "option without a crew": ("--crew-option time=2", 2, "got 'time=2'", "need --crew ray or slurm"),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a file, an empty folder and a folder of bytes that are no text."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "binary").mkdir()
    (tmp_path / "binary" / "x.txt").write_bytes(b"\xff\xfe\x00")
    return tmp_path


@pytest.mark.parametrize(("line", "code", "got", "need"), CASES.values(), ids=CASES.keys())
def test_one_line_says_what_is_wrong(
    line: str, code: int, got: str, need: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.execute(["bench-fixed-flops", *line.split()]) == code
    shown = capsys.readouterr()
    (sentence,) = shown.err.splitlines()
    assert sentence.startswith("mgr: ") and got in sentence and need in sentence
    assert not list(folder.glob("**/summary.json"))


def test_cuda_without_one_is_the_environments_fault(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    assert cli.execute(["bench-fixed-flops", "--device", "cuda"]) == 3
    (sentence,) = capsys.readouterr().err.splitlines()
    assert "--device: got cuda" in sentence and "--device cpu" in sentence
    assert {path.name for path in folder.iterdir()} == {"file", "empty", "binary"}, "found before anything was written"


def test_all_faults_come_together(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = "bench-fixed-flops --seeds 0 --alpha 3 --run-id ../x -a tropcal --optimizer adamw --optimizer adamw"
    assert cli.execute(line.split()) == 2
    shown = capsys.readouterr().err.splitlines()
    assert all(words in "".join(shown) for words in ("--seeds", "--alpha", "--run-id", "--optimizer", "-a 'tropcal'"))
    assert len(shown) == 5


def test_a_demo_says_everything_that_is_wrong_before_jax(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.execute("run tropical --seed -1 --max-iterations 0 --rev-cayley --score dot".split()) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[1].strip() for line in lines] == ["--seed", "--max-iterations", "--score", "--rev-cayley"]


@pytest.mark.parametrize("option", ["--export-json", "--plots"])
def test_a_result_that_could_not_be_written_is_refused_before_the_work(
    option: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.execute(["run", "tropical", option, "file/below"]) == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    assert option in sentence and "cannot create" in sentence


def test_an_export_onto_a_folder_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.execute(["run", "tropical", "--export-json", "empty"]) == 2
    assert "got the folder empty, need a file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "need"),
    [
        ("run tropical --plots-format svg", "need --plots DIR too"),
        ("run tropical --plots new --plots-format bmp", "is not one of 'png', 'svg'"),
        ("run-all --plots-format svg", "need --plots DIR too"),
        ("run-all --plots file/below", "cannot create"),
        ("run-all --export-json file", "cannot create"),
        ("run-all --jobs 0", "--jobs"),
        ("run-all --seed -1", "--seed: got -1"),
    ],
)
def test_options_that_cannot_be_followed(
    line: str, need: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.execute(line.split()) == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    assert need in sentence
