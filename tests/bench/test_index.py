"""The index answers questions and never is the truth; nothing that is used or under way is thrown away."""

import json
import os
import time
from dataclasses import replace

import pytest
from outcomes import OUTCOME

from nanochat.bench.clusters.slot import MARKS, announce
from nanochat.bench.config import SuiteConfig
from nanochat.bench.index import FILE, Index, conditions
from nanochat.bench.jobs import Job
from nanochat.bench.queue import Queue
from nanochat.bench.store import RESULT, Store, key_of
from nanochat.bench.suite import prepare, run_facts
from nanochat.config import ConfigError


@pytest.fixture
def store(tmp_path):
    """Six runs: two arms, three seeds, one of them diverged."""
    made = Store(tmp_path / "store")
    plan = prepare(SuiteConfig(arms=("standard", "gauge")))
    for label in plan.labels:
        for seed in range(3):
            run = plan.run_config(label, seed, 0.01, plan.steps[label], tuning=False)
            facts = run_facts(run, "", {"code_hash": "c"})
            bad = label == "gauge" and seed == 2
            made.clear(key_of(facts))
            made.commit(key_of(facts), replace(OUTCOME, bpb=None if bad else 3.0 + seed, diverged=bad), facts)
    return made


def test_questions_are_answered_from_the_folders(store):
    index = Index(store)
    rows = index.rows(["attention=gauge", "seed=0", "seed=1"], sort="bpb")
    assert [(row["attention"], row["seed"], row["bpb"]) for row in rows] == [("gauge", 1, 4.0), ("gauge", 0, 3.0)]
    assert len(index.rows()) == 6 and len(index.rows(limit=2)) == 2
    assert index.rows(["diverged=1"])[0]["bpb"] is None


def test_the_index_follows_what_comes_and_goes_and_can_be_thrown_away(store):
    index = Index(store)
    assert index.refresh() == 6
    key = index.rows()[0]["key"]
    (store.directory(key) / RESULT).unlink()
    assert len(index.rows()) == 5 and key not in {row["key"] for row in index.rows()}
    before = index.rows()
    index.drop()
    assert not index.path.exists() and index.rows() == before


@pytest.mark.parametrize("content", [b"no database at all", b""])
def test_a_spoilt_index_is_made_anew(store, content):
    (store.root / FILE).write_bytes(content * 100)
    assert Index(store).refresh() == 6


def test_columns_of_another_version_are_made_anew(store):
    import sqlite3

    with sqlite3.connect(store.root / FILE) as connection:
        connection.execute("CREATE TABLE runs (key TEXT, other TEXT)")
    connection.close()
    assert Index(store).refresh() == 6


def test_one_run_by_the_beginning_of_its_key(store):
    index = Index(store)
    key = index.rows()[0]["key"]
    found, outcome, facts = index.find(key[:12])
    assert found == key and outcome.steps == 200 and facts["train"]["seed"] in range(3)
    with pytest.raises(ConfigError, match="got 6 runs"):
        index.find("")
    with pytest.raises(ConfigError, match="got no run"):
        index.find("x%_")


@pytest.mark.parametrize(("text", "words"), [("gauge", "column=value"), ("atention=gauge", "did you mean 'attention'")])
def test_a_condition_that_means_nothing_is_refused(text, words):
    with pytest.raises(ConfigError, match=words):
        conditions([text])


def test_values_are_values_and_no_sql(store):
    assert Index(store).rows(["attention=' OR 1=1 --"]) == []
    with pytest.raises(ConfigError, match="unknown column"):
        Index(store).rows(sort="bpb; DROP TABLE runs")


def test_only_what_nobody_uses_goes(store, tmp_path):
    index = Index(store)
    rows = index.rows()
    stale, fresh, held = (store.clear(letter * 64) for letter in "abc")
    for path in (stale, held):
        (path / "metrics.jsonl").write_text("half")
        long_ago = time.time() - 3600
        for each in (path / "metrics.jsonl", path):
            os.utime(each, (long_ago, long_ago))
    reports = tmp_path / "suites"
    (reports / "one").mkdir(parents=True)
    used = [{"runs": [{"key": row["key"]} for row in rows[:4]]}]
    (reports / "one" / "summary.json").write_text(json.dumps({"arms": used}))
    with store.lease(held.name):
        said = index.collect(reports, unused=True, remove=False)
        assert said.attempts == (stale,) and len(said.unused) == 2 and said.bytes > 0
        assert stale.exists() and len(index.rows()) == 6
        index.collect(reports, unused=False, remove=True)
    assert not stale.exists() and fresh.exists() and held.exists() and len(index.rows()) == 6
    index.collect(reports, unused=True, remove=True)
    assert {row["key"] for row in index.rows()} == {row["key"] for row in rows[:4]}
    (reports / "one" / "summary.json").write_text("{}")
    with pytest.raises(ConfigError, match="need one to know which runs are used"):
        index.collect(reports, unused=True, remove=True)


def test_what_the_dead_left_goes_and_what_the_living_ask_for_stays(store, tmp_path):
    queue = Queue(store)
    plan = prepare(SuiteConfig(arms=("standard", "gauge")))
    jobs = [
        Job(letter * 64, "gauge", "verdict", plan.run_config("gauge", 0, 0.01, 200, tuning=False), {})
        for letter in "de"
    ]
    living, dead = (queue.ask(job).path for job in jobs)
    dead.write_text(dead.read_text().replace(f'"process": {os.getpid()}', f'"process": {2**22 + 1}'))
    (store.root / "leases" / f"{'f' * 64}.2").write_text(
        json.dumps({"host": store.leases.host, "process": 2**22 + 1, "began": "1"})
    )
    queue.fail("f" * 64, "crash", "ValueError")
    kept, forgotten = (store.root / MARKS / announce(store.root) for _ in range(2))
    forgotten.write_text(forgotten.read_text().replace(f'"process": {os.getpid()}', f'"process": {2**22 + 1}'))
    with store.lease("a" * 64):
        found = Index(store).collect(tmp_path / "suites", unused=False, remove=True)
    assert len(found.leftovers) == 4 and kept.exists() and not forgotten.exists()
    assert living.exists() and not dead.exists()
    assert not list((store.root / "leases").iterdir()) and queue.failure("f" * 64) is None
