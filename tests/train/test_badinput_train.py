"""What a user can get wrong around a run: each is one line that says what, got, need, and costs nothing done so far."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest
from tiny_run import arguments, config_in, directory, same_bits, trained, with_train

from nanochat import checkpoint, record, train
from nanochat.config import ConfigError, EnvironmentFault
from nanochat.result import Interrupted
from nanochat.train import run


def stopped(config, after: int) -> Path:
    asked = iter([False] * (after - 1) + [True])
    with pytest.raises(Interrupted):
        run(config, stop=lambda: next(asked))
    return directory(config)


def one_line(error: Exception) -> str:
    assert "\n" not in str(error)
    return str(error)


def test_artifacts_that_cannot_be_written_are_found_before_torch_is_imported(tmp_path):
    (tmp_path / "artifacts").write_text("a file")
    code, _, err = trained(arguments(tmp_path))
    assert code == 2 and err.count("\n") == 1 and "--artifacts-dir" in err and "need a writable folder" in err


def test_a_completed_run_is_not_overwritten(tmp_path):
    config = config_in(tmp_path)
    run(config)
    before = {path.name: path.read_bytes() for path in directory(config).iterdir() if path.suffix == ".json"}
    for resume in (False, True):
        with pytest.raises(ConfigError, match="completed run") as error:
            run(with_train(config, resume=resume))
        one_line(error.value)
    after = {path.name: path.read_bytes() for path in directory(config).iterdir() if path.suffix == ".json"}
    assert before == after


def test_an_unfinished_run_is_not_overwritten_without_resume(tmp_path):
    config = config_in(tmp_path)
    folder = stopped(config, 5)
    before = (folder / "latest.json").read_bytes()
    with pytest.raises(ConfigError, match="--resume or another --run-id"):
        run(config)
    assert (folder / "latest.json").read_bytes() == before


def test_a_second_process_on_the_same_run_is_refused(tmp_path):
    config = config_in(tmp_path)
    with record.RunRecord(directory(config), config, resume=False):
        code, _, err = trained(arguments(tmp_path))
    assert code == 2 and err.count("\n") == 1 and f"process {os.getpid()} is writing" in err


@pytest.mark.parametrize("damage", ["truncated", "flipped", "foreign", "missing"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, damage, capsys):
    whole = config_in(tmp_path, run_id="whole")
    run(whole)
    config = config_in(tmp_path)
    folder = stopped(config, 10)
    hurt(folder / "step-00000010.pt", damage)
    from nanochat.console import PlainView

    run(with_train(config, resume=True), view=PlainView())
    lines = [line for line in capsys.readouterr().out.splitlines() if "step-00000010.pt" in line]
    assert len(lines) == 1 and "continuing from the one before, step 8" in lines[0]
    same_bits(directory(whole), folder)


def hurt(path: Path, damage: str) -> None:
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "flipped":
        path.write_bytes(content[:1000] + bytes([content[1000] ^ 1]) + content[1001:])
    else:
        path.write_bytes(b"PK\x03\x04 not ours")


@pytest.mark.parametrize("damage", ["truncated", "foreign"])
def test_only_damaged_checkpoints_are_a_clear_refusal(tmp_path, damage):
    config = config_in(tmp_path)
    folder = stopped(config, 3)
    hurt(folder / "step-00000003.pt", damage)
    code, _, err = trained([*arguments(tmp_path), "--resume"])
    assert code == 2 and err.count("\n") == 1 and "step-00000003.pt" in err and "damaged" in err


@pytest.mark.parametrize("content", ["", "{", "[]", '{"schema": "other", "checkpoints": []}', '{"checkpoints": 3}'])
def test_an_index_that_is_not_ours_is_a_clear_refusal(tmp_path, content):
    config = config_in(tmp_path)
    folder = stopped(config, 3)
    (folder / "latest.json").write_text(content)
    with pytest.raises(ConfigError, match="not a checkpoint index") as error:
        run(with_train(config, resume=True))
    one_line(error.value)


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    theirs = stopped(config_in(tmp_path, run_id="theirs", seed=5), 3)
    config = config_in(tmp_path)
    ours = stopped(config, 3)
    for name in ("latest.json", "step-00000003.pt"):
        (ours / name).write_bytes((theirs / name).read_bytes())
    with pytest.raises(ConfigError, match="got a checkpoint of configuration"):
        run(with_train(config, resume=True))


def test_a_pickle_with_code_in_it_is_not_run(tmp_path):
    import hashlib
    import pickle

    class Trap:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "sprung"),))

    config = config_in(tmp_path)
    folder = stopped(config, 3)
    content = pickle.dumps(Trap(), protocol=2)
    (folder / "step-00000003.pt").write_bytes(content)
    latest = json.loads((folder / "latest.json").read_text())
    latest["checkpoints"][0]["sha256"] = hashlib.sha256(content).hexdigest()
    (folder / "latest.json").write_text(json.dumps(latest))
    with pytest.raises(ConfigError, match="not a checkpoint"):
        run(with_train(config, resume=True))
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_a_full_disk_while_saving_leaves_the_checkpoint_before(tmp_path, monkeypatch, moment):
    whole = config_in(tmp_path, run_id="whole")
    run(whole)
    config = config_in(tmp_path)
    real = getattr(os, moment)
    saving = []

    def save(*arguments, **options):
        saving.append(1)
        try:
            return original(*arguments, **options)
        finally:
            saving.append(0)

    def full(*arguments):
        if saving.count(1) == 2 and saving[-1] == 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(*arguments)

    original = checkpoint.save
    monkeypatch.setattr(checkpoint, "save", save)
    monkeypatch.setattr(os, moment, full)
    with pytest.raises(EnvironmentFault, match="no space left") as error:
        run(config)
    assert "what was saved before is intact" in one_line(error.value)
    monkeypatch.undo()
    folder = directory(config)
    assert not list(folder.glob(".*.tmp"))
    assert json.loads((folder / "latest.json").read_text())["checkpoints"][0]["step"] == 4
    run(with_train(config, resume=True))
    same_bits(directory(whole), folder)


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (ConfigError(["one", "two"]), 2),
        (EnvironmentFault("no disk"), 3),
        (Interrupted(Path("run"), 3), 130),
        (KeyboardInterrupt(), 130),
    ],
)
def test_each_fault_has_its_exit_code(monkeypatch, capsys, fault, code):
    def fail(*arguments, **options):
        raise fault

    monkeypatch.setattr(train, "run", fail)
    before = signal.getsignal(signal.SIGINT)
    assert train.main([]) == code
    assert signal.getsignal(signal.SIGINT) is before
    assert capsys.readouterr().err.count("\n") == (2 if code == 2 else 1)


def test_divergence_exits_1(tmp_path):
    words = [*arguments(tmp_path), "--learning-rate", "1e38", "--warmup-steps", "0", "--optimizer-type", "adamw"]
    code, _, err = trained([*words, "--grad-clip", "0"])
    assert code == 1 and "diverged" in err and err.count("\n") == 1
    summary = json.loads((directory(config_in(tmp_path)) / "summary.json").read_text())
    assert summary["diverged"] is True


def test_cuda_without_a_device_exits_3(tmp_path):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    code, _, err = trained([*arguments(tmp_path), "--device", "cuda"])
    assert code == 3 and err.count("\n") == 1 and "--device cpu works" in err


def test_flex_attention_without_a_device_that_trains_it_exits_3(tmp_path):
    code, _, err = trained([*arguments(tmp_path), "--use-flex-attention", "--device", "cpu"])
    assert code == 3 and err.count("\n") == 1 and "does not support backward on CPU" in err


def test_a_mechanism_without_second_derivatives_is_refused_in_one_line_before_torch_is_imported():
    program = """
        import sys
        from nanochat import options
        try:
            options.parse(["--optimizer-type", "hoss", "--attention-type", "simplicial"])
        except SystemExit as stop:
            print(stop.code, sorted({"torch", "jax", "numpy"} & set(sys.modules)))
    """
    done = subprocess.run([sys.executable, "-c", dedent(program)], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["2", "[]"], done.stderr
    line = (
        "--optimizer-type hoss needs second derivatives: got simplicial: its kernel has a backward pass but no second"
    )
    assert line in done.stderr and done.stderr.count("\n") == 1
