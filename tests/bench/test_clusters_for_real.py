"""Suites trained on a Ray cluster of two nodes, one of which is killed, and by Slurm jobs, one of which is killed."""

import os
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from nanochat.bench import Observer, run, tuning
from nanochat.bench import suite as suites
from nanochat.bench.config import SuiteConfig
from nanochat.bench.suite import Preset

pytestmark = pytest.mark.slow

SMALL = Preset(7.5e8, 2, 1)
"""Two paired seeds of some 400 steps each."""

CLUSTER = """
import sys
from ray.cluster_utils import Cluster

room = 80 * 2**20  # bytes of the object store, which nothing here uses
cluster = Cluster()
cluster.add_node(num_cpus=0, include_dashboard=False, object_store_memory=room)
nodes = [cluster.add_node(num_cpus=1, object_store_memory=room) for _ in range(2)]
print(cluster.address, *(node.all_processes["raylet"][0].process.pid for node in nodes), flush=True)
sys.stdin.read()
cluster.shutdown()
"""


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setitem(suites.PRESETS, "smoke", SMALL)
    monkeypatch.setattr(tuning, "MAX_EXTENSIONS", 0)


def config(folder):
    return SuiteConfig(
        arms=("standard", "standard,position=none"),
        preset="smoke",
        grid=(-1, 0, 1),
        undertrained_ok=True,
        artifacts_dir=str(folder),
        store=str(folder / "store"),
        jobs=2,
    )


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The same suite on this machine alone."""
    patch = pytest.MonkeyPatch()
    patch.setitem(suites.PRESETS, "smoke", SMALL)
    patch.setattr(tuning, "MAX_EXTENSIONS", 0)
    verdicts = run(config(tmp_path_factory.mktemp("undisturbed")))
    patch.undo()
    return verdicts


class Disturber(Observer):
    """Does something when a number of runs is done and another is under way."""

    def __init__(self, disturb, after=3):
        self.disturb = disturb
        self.after = after
        self.begun = Counter()
        self.done = Counter()
        self.notes = []

    def note(self, line):
        self.notes.append(line)

    def started(self, job):
        self.begun[job.key] += 1

    def finished(self, job, outcome, cached):
        assert not cached
        self.done[job.key] += 1

    def progress(self, job, step, steps, loss=None):
        both_busy = len(self.begun) - len(self.done) == 2
        if self.disturb is not None and both_busy and len(self.done) >= self.after and step < steps / 2:
            disturb, self.disturb = self.disturb, None
            disturb()


def same(verdicts, undisturbed):
    """Everything that was ruled, and every score behind it, to the last bit."""
    mine, other = (each.directory / "verdict.json" for each in (verdicts, undisturbed))
    assert mine.read_bytes() == other.read_bytes()
    for label, runs in verdicts.runs.items():
        others = undisturbed.runs[label]
        assert [job.key for job, _ in runs] == [job.key for job, _ in others]
        assert [outcome.document_nats for _, outcome in runs] == [outcome.document_nats for _, outcome in others]


def kill(tree):
    processes = [tree, *tree.children(recursive=True)]
    for process in processes:
        process.kill()
    return processes


def disturbed(folder, name, options, disturb):
    """A suite on a crew; once, with three runs done and two under way, something is killed."""
    observer = Disturber(disturb)
    verdicts = run(replace(config(folder), crew=name, crew_options=tuple(options)), view=observer)
    again = {key: times for key, times in observer.begun.items() if times > 1}
    assert list(again.values()) == [2], "the run in hand begins again, no other does"
    assert sum("starts again" in note for note in observer.notes) == 1
    assert set(observer.begun) == set(observer.done) and set(observer.done.values()) == {1}
    assert not list((folder / "store" / "queue").iterdir())
    assert not list((folder / "store" / "crews").iterdir())
    return observer, verdicts


@pytest.fixture
def ray_cluster():
    """Two nodes with one CPU each, beside a head without: its address and the process of each node's raylet."""
    pytest.importorskip("ray")
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}
    with subprocess.Popen(
        [sys.executable, "-c", CLUSTER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as cluster:
        assert cluster.stdout is not None
        address, *nodes = cluster.stdout.readline().split()
        yield address, [psutil.Process(int(node)) for node in nodes]
        cluster.communicate("")


def test_a_ray_node_that_is_killed_costs_the_run_in_its_hand_and_nothing_else(tmp_path, undisturbed, ray_cluster):
    address, nodes = ray_cluster
    killed = []
    observer, verdicts = disturbed(tmp_path, "ray", [f"address={address}"], lambda: killed.extend(kill(nodes[1])))
    assert len(killed) >= 5  # raylet, its two agents, the task, the worker below it
    same(verdicts, undisturbed)
    assert sum("NodeDiedError" in note for note in observer.notes) == 1


STAND_IN = Path(__file__).with_name("slurm_stand_in.py")


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Slurm's commands on the path, as stand-ins that run jobs as processes; their folder."""
    pytest.importorskip("submitit")
    folder = tmp_path / "slurm"
    folder.mkdir()
    for name in ("sbatch", "slurmd", "srun", "sacct", "scancel"):
        (folder / name).write_text(f"#!{sys.executable}\n{STAND_IN.read_text()}")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("STAND_IN", str(folder))
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    return folder


def jobs_of(store):
    """Processes in which submitit runs a job of ours."""
    command = ["submitit.core._submit", str(store / "slurm")]
    return [
        process
        for process in psutil.process_iter()
        if process.status() != psutil.STATUS_ZOMBIE and process.cmdline()[-2:] == command
    ]


def lose_a_job(store, killed):
    killed.extend(kill(jobs_of(store)[0]))


@pytest.mark.parametrize("cluster", ["local", "slurm"])
def test_a_slurm_job_that_is_killed_is_followed_by_another(tmp_path, undisturbed, slurm, cluster):
    killed = []
    store = tmp_path / "store"
    options = [f"cluster={cluster}", "partition=short", "time=7", "memory=1.5", "setup=echo prepared"]
    observer, verdicts = disturbed(tmp_path, "slurm", options, lambda: lose_a_job(store, killed))
    assert len(killed) == 2  # submitit's process, the worker below it
    same(verdicts, undisturbed)
    assert sum("another follows" in note for note in observer.notes) == 1
    deadline = time.monotonic() + 10
    while jobs_of(store):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    if cluster == "slurm":
        array, follower = sorted(slurm.glob("*.sh"))
        text = array.read_text()
        for flag in ("array=0-1%2", "partition=short", "time=7", "mem=1536MB", "cpus-per-task=1", "requeue"):
            assert f"#SBATCH --{flag}\n" in text
        assert "\necho prepared\n" in text
        assert "--array" not in follower.read_text()
