"""`mgr run-all`: demos side by side, none of which can take another, the table or the JSON down."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import cli
from demos import pool, registry
from demos.result import DemoConfig

STARTED = """
import functools, sys
import cli
from demos import pool
pool.Request = functools.partial(pool.Request, play="staged_demos.sleeps")
sys.exit(cli.execute(["run-all", "--jobs", "2", "--json"]))
"""


@pytest.fixture
def staged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "Request", functools.partial(pool.Request, play="staged_demos.by_name"))


@pytest.mark.usefixtures("staged")
def test_what_fails_is_named_and_loses_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.execute(["run-all", "--quick", "--verbose"]) == 1
    shown = capsys.readouterr()
    assert max(map(len, shown.out.splitlines())) <= 80
    rows = {line.split()[0]: line for line in shown.out.splitlines() if line.strip()}
    assert all(name in rows for name in registry.ready())
    assert "1 of 1" in rows["tropical"] and "5 to 1" in rows["tropical"] and "0 of 1" in rows["octonion"]
    assert "failed" in rows["reversible"] and "failed" in rows["surreal"]
    assert "killed by signal 9" in shown.out and "Second sentence." in shown.out
    assert "demo reversible did not finish" in shown.err and "ZeroDivisionError: a defect [of ours]" in shown.err
    held = len(registry.ready()) - 3
    assert f"{held} of {held + 3} certificates hold, of {held + 3} demos" in shown.out


@pytest.mark.usefixtures("staged")
def test_json_is_strict_and_in_the_order_of_the_catalogue(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.execute(["run-all", "--json", "--seed", "5", "--export-json", str(tmp_path / "new" / "folder")]) == 1
    document = json.loads(capsys.readouterr().out)
    ran = [name for name in registry.ready() if name not in ("reversible", "surreal")]
    assert [entry["demo"] for entry in document["demos"]] == ran
    assert [entry["demo"] for entry in document["failed"]] == ["reversible", "surreal"]
    assert set(document["planned"]) == set(registry.names()) - set(registry.ready())
    assert all(entry["config"]["seed"] == 5 for entry in document["demos"])
    written = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "new" / "folder").iterdir()}
    assert written == {entry["demo"]: entry for entry in document["demos"]}


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system does not pin processes to cores")
@pytest.mark.parametrize(("jobs", "each"), [(1, 2), (2, 1), (3, 2)])
def test_every_process_gets_its_share_of_the_cores(jobs: int, each: int) -> None:
    here = sorted(os.sched_getaffinity(0))
    if len(here) != 2:
        pytest.skip(f"needs two cores, this process may use {len(here)}")
    configs = [DemoConfig(name=name) for name in registry.ready()[:3]]
    outcomes = list(pool.Pool(here, jobs, pool.Request(play="staged_demos.cores")).run(configs))
    assert {outcome.name for outcome in outcomes} == {config.name for config in configs}
    assert all(outcome.document and outcome.document["numbers"]["cores"] == each for outcome in outcomes)


def alive(folder: Path) -> list[int]:
    """Processes that left their number in a folder and have not ended."""
    found = []
    for path in folder.glob("*.pid"):
        try:
            state = Path(f"/proc/{path.stem}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        found += [int(path.stem)] if state != "Z" else []
    return found


def until(true: object, seconds: float = 20) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if true():  # type: ignore[operator]  # a condition
            return True
        time.sleep(0.05)
    return False


@pytest.fixture
def running(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """`mgr run-all` with two demos that never end, in a folder where they leave their numbers."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    process = subprocess.Popen(
        [sys.executable, "-c", STARTED],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert until(lambda: len(alive(tmp_path)) == 2), process.poll()
    yield process
    process.kill()
    process.communicate()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_ctrl_c_ends_all_processes_at_once(running: subprocess.Popen[str], tmp_path: Path) -> None:
    start = time.monotonic()
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=20)
    assert running.returncode == 130 and out == "" and len(err.splitlines()) == 1 and "interrupted" in err
    assert time.monotonic() - start < 10 and alive(tmp_path) == []
    assert len(list(tmp_path.glob("*.pid"))) == 2


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_processes_end_with_the_one_that_started_them(running: subprocess.Popen[str], tmp_path: Path) -> None:
    running.kill()
    running.wait()
    assert until(lambda: alive(tmp_path) == [])


@pytest.mark.slow
def test_all_demos_quick(mgr, tmp_path: Path) -> None:
    done = mgr("run-all", "--quick", "--export-json", "here", "--plots", "here", timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {path.stem for path in (tmp_path / "here").glob("*.json")} == set(registry.ready())
    assert len(list((tmp_path / "here").glob("*.png"))) >= 3 * len(registry.ready())
