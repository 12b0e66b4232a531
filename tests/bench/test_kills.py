"""Whoever is killed, whenever: nothing that was finished is trained again, and the verdict is the same to the byte."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from nanochat.bench.lease import Leases
from nanochat.bench.store import RESULT, Store

SUITE = """
import sys
from nanochat.bench import SuiteConfig, run, suite, tuning
suite.PRESETS["smoke"] = suite.Preset({budget}, {seeds}, 1)
tuning.MAX_EXTENSIONS = 0
arms = ("standard", "standard,position=none")
places = dict(artifacts_dir=sys.argv[1], store=sys.argv[2], run_id="killed")
run(SuiteConfig(arms=arms, preset="smoke", grid=(-1, 0, 1), undertrained_ok=True, jobs={jobs}, **places))
"""


def start(budget, seeds, jobs, artifacts, store):
    code = SUITE.format(budget=budget, seeds=seeds, jobs=jobs)
    return subprocess.Popen([sys.executable, "-c", code, artifacts, store], start_new_session=True)


def finished(store):
    """Every finished run and the file that says so: training it again would replace the file."""
    return {path.parent.name: path.stat().st_ino for path in Path(store).glob(f"??/*/{RESULT}")}


def settled(store):
    """No request is left, and no lease that anybody would have to wait for."""
    assert not list((store / "queue").iterdir())
    for lease in (store / "leases").iterdir():
        taken = Leases(store / "leases").take(lease.name.rpartition(".")[0])
        assert taken is not None
        taken.release()


def wait_for_work(store, driver):
    """Until a worker has begun a run, or the suite is over."""
    while driver.poll() is None and not any(seen.owner for seen in Store(store).leases.held().values()):
        time.sleep(0.05)


def disturbed(suite, artifacts, store, victims, seed):
    """Run a suite, killing its driver or a worker at random moments; begins again with the same command."""
    chance = random.Random(seed)
    done, left = {}, list(victims)
    driver = start(*suite, artifacts, store)
    while driver.poll() is None:
        if not left:
            assert driver.wait(timeout=300) == 0
            break
        wait_for_work(store, driver)
        time.sleep(chance.uniform(0.0, 1.5))
        workers = psutil.Process(driver.pid).children() if driver.poll() is None else []
        if not workers:
            continue
        victim = left.pop()
        now = finished(store)
        assert done.items() <= now.items()
        done = now
        os.kill(driver.pid if victim == "driver" else chance.choice(workers).pid, signal.SIGKILL)
        if victim == "driver":
            driver.wait()
            driver = start(*suite, artifacts, store)
    assert left == [] and done.items() <= finished(store).items()


def same_after(tmp_path, suite, victims, seed):
    places = [(tmp_path / name, tmp_path / f"store of {name}") for name in ("calm", "wild")]
    (calm, calm_store), (wild, wild_store) = places
    assert start(*suite, calm, calm_store).wait(timeout=300) == 0
    disturbed(suite, wild, wild_store, victims, seed)
    first, second = ((root / "bench/suites/killed/verdict.json").read_bytes() for root in (calm, wild))
    assert first == second
    assert finished(calm_store).keys() == finished(wild_store).keys()
    settled(wild_store)


def test_two_kills_change_no_byte_of_the_verdict(tmp_path):
    same_after(tmp_path, (7.5e8, 2, 1), ["driver", "worker"], seed=0)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", [0, 1])
def test_twenty_kills_change_no_byte_of_the_verdict(tmp_path, seed):
    victims = random.Random(seed).choices(["driver", "worker"], weights=[1, 2], k=20)
    same_after(tmp_path, (3e9, 10, 2), victims, seed)


@pytest.mark.slow
def test_two_suites_on_one_store_share_their_runs(tmp_path):
    store = tmp_path / "store"
    places = [tmp_path / "one", tmp_path / "two"]
    drivers = [start(7.5e8, 2, 2, place, store) for place in places]
    assert [driver.wait(timeout=300) for driver in drivers] == [0, 0]
    first, second = ((place / "bench/suites/killed/verdict.json").read_bytes() for place in places)
    assert first == second
    settled(store)
