"""Crews on Ray and Slurm: what can be said wrong, and what a worker's place on another machine looks at first."""

import os
import platform
import signal
import socket
import threading
import time

import psutil
import pytest

from nanochat.bench import clusters
from nanochat.bench.clusters import slot
from nanochat.bench.clusters.on_ray import RayCrew, RayOptions
from nanochat.bench.clusters.on_slurm import SlurmOptions
from nanochat.bench.config import SuiteConfig
from nanochat.bench.crew import Absent
from nanochat.config import ConfigError, EnvironmentFault

NO_WORKER = "import sys; print('not a worker'); sys.exit(7)"
ENDLESS = "import time; time.sleep(600)"


@pytest.mark.parametrize(
    ("name", "pairs", "faults"),
    [
        ("rai", [], ["unknown --crew 'rai': need one of local, ray, slurm; did you mean 'ray'?"]),
        ("local", ["address=auto"], ["--crew-option: got 'address=auto', need --crew ray or slurm"]),
        ("ray", ["adress=auto"], ["--crew-option: unknown key 'adress': need one of address; did you mean 'address'?"]),
        ("ray", ["address"], ["--crew-option: got 'address', need key=value"]),
        ("ray", ["address=head"], ["--crew-option: address: got 'head', need auto, local or HOST:PORT"]),
        ("ray", ["address=auto", "address=local"], ["--crew-option: got address twice, need it once"]),
        (
            "slurm",
            ["time=2h", "memory=much"],
            [
                "--crew-option: time: got '2h', need a whole number",
                "--crew-option: memory: got 'much', need a number",
            ],
        ),
        ("slurm", ["time=0", "memory=-1"], ["need more than 0", "need more than 0"]),
        ("slurm", ["cluster=pbs"], ["--crew-option: unknown cluster 'pbs': need one of slurm, local"]),
    ],
)
def test_a_fault_of_the_options_is_one_line_each(name, pairs, faults):
    with pytest.raises(ConfigError) as caught:
        clusters.options_of(name, pairs)
    assert len(caught.value.faults) == len(faults)
    for found, expected in zip(caught.value.faults, faults, strict=True):
        assert expected in found


def test_options_have_the_types_of_their_fields():
    assert clusters.options_of("local", []) is None
    assert clusters.options_of("ray", []) == RayOptions(address="auto")
    wanted = SlurmOptions(partition="cpu,gpu", time=90, memory=1.5, setup="module load python=3")
    given = ["partition=cpu,gpu", "time=90", "memory=1.5", "setup=module load python=3"]
    assert clusters.options_of("slurm", given) == wanted


@pytest.mark.parametrize(("name", "module"), [("ray", "ray"), ("slurm", "submitit")])
def test_a_missing_extra_is_one_line_with_its_remedy(name, module, monkeypatch):
    monkeypatch.setattr(clusters, "find_spec", lambda wanted: None)
    with pytest.raises(EnvironmentFault) as caught:
        clusters.crew_of(SuiteConfig(arms=("tropical",), jobs=2, crew=name))
    need = f"pip install 'model-guided-research[{name}]'"
    assert str(caught.value) == f"--crew {name}: {module} is not installed: {need}"


def test_the_number_of_workers_of_a_cluster_has_to_be_said():
    for jobs, got in ((None, "none"), (0, "0")):
        with pytest.raises(ConfigError, match=f"--jobs: got {got}, need how many workers --crew ray has"):
            clusters.crew_of(SuiteConfig(arms=("tropical",), crew="ray", jobs=jobs))


def test_a_suite_without_workers_of_its_own_waits_for_others():
    assert isinstance(clusters.crew_of(SuiteConfig(jobs=0)), Absent)
    assert clusters.crew_of(SuiteConfig(jobs=1)) is None


def test_an_address_where_nothing_answers_is_told_at_once(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(EnvironmentFault, match=f"got {address}, where no Ray cluster answers .*ray start --head"):
        RayCrew(RayOptions(address=address)).start(tmp_path, 2)


def test_a_machine_that_does_not_see_the_store_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(slot, "PATIENCE", 0.2)
    mark = slot.announce(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    ended = slot.occupy(str(elsewhere), mark, None)
    assert ended.hopeless
    assert f"--store: got {elsewhere}, which {platform.node()} does not see" in ended.reason


def occupied(store, mark):
    """A slot in a thread, its worker, and a function that waits for its end."""
    found = []
    thread = threading.Thread(target=lambda: found.append(slot.occupy(str(store), mark, None)))
    thread.start()
    here, deadline = psutil.Process(), time.monotonic() + 20
    while not (workers := [child for child in here.children() if ENDLESS in child.cmdline()]):
        assert time.monotonic() < deadline
        time.sleep(0.02)

    def end():
        thread.join(20)
        return found[0]

    return workers[0], end


def test_a_worker_that_dies_is_told_of_with_its_log(tmp_path, monkeypatch):
    mark = slot.announce(tmp_path)
    monkeypatch.setattr(slot, "BOOTSTRAP", NO_WORKER)
    assert slot.occupy(str(tmp_path), mark, None).reason == f"a worker on {platform.node()} died (exit code 7)"
    assert "not a worker" in next((tmp_path / "logs").iterdir()).read_text()
    monkeypatch.setattr(slot, "BOOTSTRAP", ENDLESS)
    worker, end = occupied(tmp_path, mark)
    os.kill(worker.pid, signal.SIGKILL)
    ended = end()
    assert ended.reason == f"a worker on {platform.node()} died (killed by signal 9)" and not ended.hopeless


def test_a_worker_goes_home_when_the_suite_is_over(tmp_path, monkeypatch):
    monkeypatch.setattr(slot, "BOOTSTRAP", ENDLESS)
    monkeypatch.setattr(slot, "WATCH_SECONDS", 0.1)
    mark = slot.announce(tmp_path)
    worker, end = occupied(tmp_path, mark)
    slot.withdraw(tmp_path, mark)
    assert end() == slot.Ended()
    assert not worker.is_running()
