"""`mgr worker` and `mgr verdict` on a terminal: what they refuse, what they say, how they end."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import cli
from nanochat.bench.store import Store

ROOT = Path(__file__).resolve().parents[2]


def test_a_folder_that_is_no_store_is_refused_and_stays_as_it_was(tmp_path, capsys):
    assert cli.execute(["worker", "--store", str(tmp_path)]) == 2
    assert "need the folder of runs that a suite made" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_worker_ends_at_once_at_ctrl_c_and_says_so(tmp_path):
    Store(tmp_path)
    command = [sys.executable, str(ROOT / "cli.py"), "worker", "--store", str(tmp_path), "--jobs", "1", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as worker:
        assert worker.stdout is not None and worker.stderr is not None
        assert json.loads(worker.stdout.readline())["event"] == "waiting"
        assert json.loads(worker.stdout.readline())["event"] == "ready"
        os.kill(worker.pid, signal.SIGINT)
        assert worker.wait(timeout=20) == 130
        assert "interrupted" in worker.stderr.read()


@pytest.mark.parametrize(("valid", "code", "words"), [(True, 0, "all audits hold"), (False, 1, "an audit failed")])
def test_a_verdict_is_told_and_a_failed_audit_is_an_exit_code(tmp_path, capsys, valid, code, words):
    arm = {"label": "gauge", "verdict": "INCONCLUSIVE", "difference": 0.01, "mean": 3.5, "low": -0.1, "high": 0.12}
    content = {"schema": "mgr.verdict.v1", "design": "d" * 64, "valid": valid}
    content["arms"] = [{**arm, "p_adjusted": 0.4, "note": ""}]
    (tmp_path / "verdict.json").write_text(json.dumps(content))
    assert cli.execute(["verdict", str(tmp_path)]) == code
    shown = capsys.readouterr().out
    assert "INCONCLUSIVE +0.0100" in shown and "[-0.1000, +0.1200]" in shown and words in shown
    assert cli.execute(["verdict", str(tmp_path), "--json"]) == code
    assert json.loads(capsys.readouterr().out) == content


def test_what_is_no_verdict_is_refused(tmp_path, capsys):
    assert cli.execute(["verdict", str(tmp_path)]) == 2
    (tmp_path / "verdict.json").write_text("{}")
    assert cli.execute(["verdict", str(tmp_path)]) == 2
    assert "need mgr.verdict.v1" in capsys.readouterr().err
