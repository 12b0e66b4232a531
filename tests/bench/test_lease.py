"""Leases, requests and workers: one owner at a time, whoever dies, and nobody takes what lives."""

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from outcomes import OUTCOME

from nanochat.bench.crew import Absent, LocalCrew
from nanochat.bench.executor import Workers
from nanochat.bench.jobs import Failure, Job, code_of
from nanochat.bench.lease import Leases, Lost
from nanochat.bench.observe import Observer
from nanochat.bench.queue import MAX_ATTEMPTS, Queue
from nanochat.bench.store import Store, key_of
from nanochat.bench.suite import configure, prepare, run_facts
from nanochat.bench.worker import Terms, Worker
from nanochat.config import EnvironmentFault

KEY = "k" * 64

HOLD = """
import sys, time
from pathlib import Path
from nanochat.bench.lease import Leases
lease = Leases(Path(sys.argv[1]), sys.argv[2] or None, float(sys.argv[3])).take(sys.argv[4])
print(lease.number, flush=True)
time.sleep(60)
"""


def holder(folder, host, seconds):
    """Another process that has taken the lease."""
    command = [sys.executable, "-c", HOLD, str(folder), host, str(seconds), KEY]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline().strip() == "1"
    return process


def kill(process):
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_lease_whose_process_is_gone_is_free_at_once_and_counts(tmp_path):
    process = holder(tmp_path, "", 30)
    assert Leases(tmp_path).take(KEY) is None
    kill(process)
    with Leases(tmp_path).take(KEY) as lease:
        assert lease.number == 2
        assert [path.name for path in tmp_path.iterdir()] == [f"{KEY}.2"]
    assert not list(tmp_path.iterdir())


def test_a_process_that_nobody_has_buried_is_gone_too(tmp_path):
    process = holder(tmp_path, "", 30)
    os.kill(process.pid, signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    with Leases(tmp_path).take(KEY) as lease:
        assert lease.number == 2
    kill(process)


def test_another_hosts_lease_is_free_when_it_has_been_silent_and_not_before(tmp_path):
    process = holder(tmp_path, "far", 0.6)
    here = Leases(tmp_path, "near", 0.6)
    until = time.monotonic() + 2
    while time.monotonic() < until:
        assert here.take(KEY) is None
        time.sleep(0.05)
    kill(process)
    begin = time.monotonic()
    while (lease := here.take(KEY)) is None:
        time.sleep(0.02)
        assert time.monotonic() < begin + 10
    with lease:
        assert lease.number == 2 and time.monotonic() - begin > 0.4


def test_who_was_taken_for_dead_learns_of_it_and_disturbs_nobody(tmp_path):
    first = Leases(tmp_path, "far", 1000).take(KEY)
    here = Leases(tmp_path, "near", 0.1)
    assert here.take(KEY) is None
    time.sleep(0.2)
    with here.take(KEY) as second:
        with pytest.raises(Lost):
            first.check()
        with pytest.raises(Lost):
            first.tell(1, 2, 3.0)
        first.release()
        second.check()
        assert Leases(tmp_path).held()[KEY].number == 2


def test_of_many_that_see_a_dead_lease_one_gets_it(tmp_path):
    for _ in range(3):
        kill(holder(tmp_path, "", 30))
        barrier = threading.Barrier(8)
        got = []

        def grab(barrier=barrier, got=got):
            leases = Leases(tmp_path)
            barrier.wait()
            got.append(leases.take(KEY))

        threads = [threading.Thread(target=grab) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        (won,) = [lease for lease in got if lease is not None]
        won.release()
        assert won.number == 2 and not list(tmp_path.iterdir())


def test_a_lease_tells_how_far_the_run_is(tmp_path):
    leases = Leases(tmp_path)
    with leases.take(KEY) as lease:
        lease.tell(3, 10, 2.5)
        until = time.monotonic() + 5
        while leases.held()[KEY].owner["step"] != 3:
            assert time.monotonic() < until
            time.sleep(0.05)
        assert leases.held()[KEY].owner["steps"] == 10 and leases.held()[KEY].owner["loss"] == 2.5


def test_the_same_result_committed_twice_is_one_result(tmp_path):
    store = Store(tmp_path)
    for seconds in (1.0, 2.0):
        store.directory(KEY).mkdir(parents=True, exist_ok=True)
        store.commit(KEY, replace(OUTCOME, wall_seconds=seconds), {"seed": 1})
    assert store.load(KEY) == replace(OUTCOME, wall_seconds=2.0)
    assert len(list(store.directory(KEY).iterdir())) == 2


@pytest.fixture(scope="module")
def job():
    plan = prepare(configure({"arms": ("standard", "gauge")}))
    run = plan.run_config("standard", 0, 0.01, 200, tuning=False)
    facts = run_facts(run, "", {"code_hash": code_of(run), "torch": "another"})
    return Job(key_of(facts), "standard", "verdict", run, facts)


def no_training(*_, **__):
    raise AssertionError("trained")


def serve(store, **terms):
    said = []
    Worker(store, no_training, Terms(idle=0.0, **terms), lambda **event: said.append(event)).attend()
    return said


def test_what_this_machine_would_train_differently_it_does_not_train(tmp_path, job, monkeypatch):
    store = Store(tmp_path)
    queue = Queue(store)
    other = replace(job, facts={**job.facts, "code_hash": "another"})
    queue.ask(other)
    said = serve(store, guest=True)
    assert [event["event"] for event in said] == ["began", "left"] and "code: got" in said[1]["reason"]
    assert len(list(queue.open())) == 1 and queue.failure(job.key) is None
    serve(store)
    assert queue.failure(job.key)["kind"] == "environment" and not list(queue.open())
    with pytest.raises(EnvironmentFault, match="code: got"), Workers(store, Observer(), 1, Absent()) as workers:
        monkeypatch.setattr(Absent, "poll", lambda crew: serve(store) and [])
        workers.run([other])
    assert not list(queue.open()) and not store.leases.held()


def test_a_run_that_takes_every_worker_down_is_given_up(tmp_path, job, monkeypatch):
    store = Store(tmp_path)
    path = tmp_path / "leases" / f"{job.key}.{MAX_ATTEMPTS}"
    path.write_text(f'{{"host": "{store.leases.host}", "process": {2**22 + 1}, "began": "1"}}')
    monkeypatch.setattr(Absent, "poll", lambda crew: serve(store) and [])
    with Workers(store, Observer(), 1, Absent()) as workers:
        results = workers.run([job])
    assert results == {job.key: Failure(f"its worker was lost {MAX_ATTEMPTS} times")}
    assert not store.leases.held()


HANGS = """
import sys, time
from pathlib import Path
from types import SimpleNamespace
from nanochat.bench.lease import Leases
from nanochat.bench.worker import end_when_still

def hangs_here():
    time.sleep(60)

lease = Leases(Path(sys.argv[1])).take("run")
end_when_still(SimpleNamespace(lease=lease), 1.5)
for step in range(4):
    time.sleep(0.5)
    lease.tell(step, 4, None)
print("moved", flush=True)
hangs_here()
"""


def test_a_worker_whose_run_hangs_says_where_and_ends_and_is_counted_as_lost(tmp_path):
    done = subprocess.run([sys.executable, "-c", HANGS, tmp_path], capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stdout) == (1, "moved\n")  # two seconds with steps among them are no hanging
    assert "no step for 1.5 s" in done.stderr and "in hangs_here" in done.stderr
    following = Leases(tmp_path).take("run")
    assert following is not None and following.number == 2
    following.release()
    assert not following.held


def test_requests_are_served_seed_by_seed(tmp_path, job):
    """So that the seconds of a pair are taken at about the same time, whoever works."""

    def asked(seed, steps):
        train = replace(job.run.train, seed=seed, max_steps=steps)
        return replace(job, key=f"{seed:032d}{steps:032d}", run=replace(job.run, train=train))

    queue = Queue(Store(tmp_path))
    wanted = [asked(seed, steps) for seed in (0, 1, 11) for steps in (2100, 900)]
    for each in reversed(wanted):
        queue.ask(each)
    assert [request.key for request in queue.open()] == [each.key for each in wanted]


def test_a_request_of_a_suite_that_died_is_nobodys(tmp_path, job):
    code = "import os, sys, time; print(os.getpid(), flush=True); time.sleep(60)"
    store = Store(tmp_path)
    queue = Queue(store)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        path = queue.ask(job).path
        path.write_text(path.read_text().replace(f'"process": {os.getpid()}', f'"process": {process.pid}'))
        process.kill()
    assert serve(store) == [] and not list(queue.open())


def test_workers_that_cannot_start_are_told_of(tmp_path, monkeypatch):
    monkeypatch.setattr("nanochat.bench.crew.BOOTSTRAP", "raise SystemExit(7)")
    (Path(tmp_path) / "queue").mkdir()
    crew = LocalCrew(eager=True)
    crew.start(tmp_path, 1)
    with pytest.raises(EnvironmentFault, match=r"workers do not start \(exit code 7\)"):
        for _ in range(200):
            crew.poll()
            time.sleep(0.05)
    crew.stop()


WORKER = """
import sys
from pathlib import Path
from nanochat.bench.store import Store
from nanochat.bench.worker import Terms, Worker
from nanochat.train import run
store = Store(Path(sys.argv[1]), host=sys.argv[2], lease_seconds=2.0)
Worker(store, run, Terms(), lambda **event: print(event["event"], flush=True)).attend()
"""


@pytest.mark.slow
def test_two_hosts_serve_one_suite_and_one_of_them_dies(tmp_path):
    from nanochat.bench.engine import Suite

    plan = prepare(configure({"arms": ("standard,label=a", "standard,label=b"), "preset": "smoke", "baseline": "a"}))
    store = Store(tmp_path, host="driver")
    suite = Suite(plan, store, Observer())
    jobs = [suite.job(label, "verdict", seed, 0.01, 1500) for label in plan.labels for seed in plan.seeds]
    hosts = [
        subprocess.Popen([sys.executable, "-c", WORKER, str(tmp_path), host], stdout=subprocess.PIPE, text=True)
        for host in ("one", "two")
    ]
    notes = []

    class Watching(Observer):
        def progress(self, job, step, steps, loss=None):
            if not any(line.startswith("killed") for line in notes):
                held = store.leases.held()[job.key].owner
                victim = hosts[0] if held["host"] == "one" else hosts[1]
                victim.kill()
                notes.append(f"killed {held['host']}")

        def note(self, line):
            notes.append(line)

    with Workers(store, Watching(), 2, Absent()) as workers:
        results = workers.run(jobs)
    for host in hosts:
        kill(host)
    assert sum("starts again: its worker was lost" in line for line in notes) == 1
    assert results.keys() == {job.key for job in jobs} and not any(isinstance(x, Failure) for x in results.values())
