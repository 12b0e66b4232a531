from __future__ import annotations

import json
import math
import os
import subprocess
import sys

import pytest
from tiny_run import config_in, with_model, with_train

from nanochat.config import ConfigError, EnvironmentFault
from nanochat.record import (
    RunRecord,
    config_hash,
    directory_of,
    environment,
    finite,
    peak_memory,
    read_metrics,
    strict_json,
    write_bytes,
    write_json,
)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_json_without_a_word_for_it_is_refused(tmp_path, value):
    with pytest.raises(ValueError):
        strict_json({"x": value})
    with pytest.raises(ValueError):
        write_json(tmp_path / "x.json", [value])
    assert list(tmp_path.iterdir()) == []
    assert finite(value) is None and finite(1.5) == 1.5


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    write_json(path, 1)

    def fail(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(EnvironmentFault, match="no space left"):
        write_bytes(path, b"2")
    assert path.read_text() == "1\n" and [item.name for item in tmp_path.iterdir()] == ["x.json"]


def test_metrics_are_cut_at_the_step_that_is_resumed(tmp_path):
    config = config_in(tmp_path)
    folder = directory_of(config)
    with RunRecord(folder, config, resume=False) as record:
        assert record.start_metrics(0) == []
        for step in range(6):
            record.metric(step=step, loss=float(step))
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')
    with RunRecord(folder, config, resume=True) as record:
        assert [line["step"] for line in record.start_metrics(4)] == [0, 1, 2, 3]
        record.metric(step=4, loss=0.5)
    assert [line["loss"] for line in read_metrics(folder / "metrics.jsonl")] == [0.0, 1.0, 2.0, 3.0, 0.5]


def test_a_metric_is_on_its_way_to_the_disk_at_once(tmp_path):
    config = config_in(tmp_path)
    with RunRecord(directory_of(config), config, resume=False) as record:
        record.start_metrics(0)
        record.metric(step=0, loss=1.0)
        assert len(read_metrics(directory_of(config) / "metrics.jsonl")) == 1


def test_the_summary_commits_the_run(tmp_path):
    config = config_in(tmp_path)
    folder = directory_of(config)
    with RunRecord(folder, config, resume=False) as record:
        record.start_metrics(0)
        assert not (folder / "summary.json").exists()
        record.finish({"bpb": 1.25, "steps": 3})
    assert json.loads((folder / "summary.json").read_text()) == {"schema": "mgr.run.v1", "bpb": 1.25, "steps": 3}
    assert "| bpb | 1.25 |" in (folder / "run.md").read_text()
    with pytest.raises(ConfigError, match="completed"):
        RunRecord(folder, config, resume=False)


def test_the_lock_is_free_when_its_holder_is_killed(tmp_path):
    config = config_in(tmp_path)
    folder = directory_of(config)
    code = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom nanochat.config import RunConfig\n"
        "from nanochat.record import RunRecord\n"
        "record = RunRecord(Path(sys.argv[1]), RunConfig(), False)\nos.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(folder)], timeout=60)
    with RunRecord(folder, config, resume=False):
        pass


def test_what_a_killed_process_was_writing_is_cleared(tmp_path):
    config = config_in(tmp_path)
    folder = directory_of(config)
    folder.mkdir(parents=True)
    (folder / ".step-00000004.pt.123.tmp").write_bytes(b"torn")
    with RunRecord(folder, config, resume=False):
        assert sorted(path.name for path in folder.iterdir()) == [".lock", "config.json"]


def test_a_second_holder_in_the_same_process_is_refused_too(tmp_path):
    config = config_in(tmp_path)
    with (
        RunRecord(directory_of(config), config, resume=False),
        pytest.raises(ConfigError, match=f"process {os.getpid()} is writing"),
    ):
        RunRecord(directory_of(config), config, resume=False)


def test_identity_ignores_where_output_goes_and_nothing_else(tmp_path):
    config = config_in(tmp_path)
    same = with_train(config, artifacts_dir="elsewhere", run_id="other", resume=True, checkpoint_interval=9)
    assert config_hash(same) == config_hash(config)
    others = [with_train(config, seed=1), with_train(config, threads=2), with_model(config, n_layer=3)]
    assert len({config_hash(each) for each in (config, *others)}) == 4


def test_an_unnamed_run_is_named_by_time_and_hash(tmp_path):
    config = with_train(config_in(tmp_path), run_id=None)
    assert directory_of(config).name.endswith(config_hash(config)[:8])


def test_the_environment_holds_versions_and_no_secret(monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    text = strict_json(environment())
    value = json.loads(text)
    assert value["python"] and value["processor"] and value["versions"]["torch"]
    assert "hunter2" not in text and os.path.expanduser("~") + "/" not in text


def test_peak_memory_is_that_of_the_process_and_not_of_its_parent():
    ballast = bytearray(400 * 2**20)
    code = "from nanochat.record import peak_memory; print(peak_memory())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert len(ballast) == 400 * 2**20 and 2**20 < int(done.stdout) < 200 * 2**20
    assert peak_memory() > 400 * 2**20
