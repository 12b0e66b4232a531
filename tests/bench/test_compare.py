"""Suites over time: what became worse is found, noise is not called a change, a missing number is a failure."""

import copy
import json

import numpy as np
import pytest

from nanochat.bench.compare import broken, read, regressions, side_by_side
from nanochat.config import ConfigError


def summary(seeds=8, shift=0.0, key=0):
    generator = np.random.Generator(np.random.Philox(key))
    noise = 0.004 * generator.normal(size=seeds)
    base = 2.5 + 0.02 * np.random.Generator(np.random.Philox(99)).normal(size=seeds)
    arms = []
    for label, moved in (("standard", 0.0), ("gauge", shift)):
        bpb = (base + moved + noise).tolist()
        audit = {"time_valid": True}
        arms.append(
            {"label": label, "bpb": bpb, "mean": float(np.mean(bpb)), "peak_bytes": 1e8, "step_seconds": 0.01}
            | {"audit": audit, "verdict": "TIE", "difference": 0.0, "low": 0.0, "high": 0.0, "steps": 100}
        )
    hashes = {"data_hash": "d", "tokenizer_hash": "t", "eval_hash": "e"}
    document = {"schema": "mgr.suite.v1", "run_id": "x", "sesoi": 0.01, "alpha": 0.05, "hashes": hashes, "arms": arms}
    return document


@pytest.fixture
def saved(tmp_path):
    def save(name, document):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "summary.json").write_text(json.dumps(document | {"run_id": name}))
        return read(name, tmp_path)

    return save


def words(changes):
    return {(change.arm, change.measure): change.word for change in changes}


def test_the_same_suite_twice_is_the_same(saved):
    found = regressions(saved("a", summary()), saved("b", summary()))
    assert set(words(found).values()) == {"SAME"} and not broken(found)


def test_a_planted_loss_is_found_and_noise_is_not(saved):
    old, new = saved("a", summary(key=1)), saved("b", summary(key=2, shift=0.05))
    found = words(regressions(old, new))
    assert found["gauge", "bits per byte"] == "WORSE" and found["standard", "bits per byte"] in ("SAME", "UNKNOWN")
    assert broken(regressions(old, new))
    assert words(regressions(new, old))["gauge", "bits per byte"] == "BETTER" and not broken(regressions(new, old))


def test_noise_alone_is_rarely_called_a_change(tmp_path):
    (tmp_path / "s").mkdir()
    called = 0
    for key in range(100):
        suites = []
        for part in (0, 1):
            (tmp_path / "s" / "summary.json").write_text(json.dumps(summary(key=1000 + 2 * key + part)))
            suites.append(read("s", tmp_path))
        called += broken(regressions(*suites))
    assert called <= 10  # both arms share their noise here: 2.5 % on this side, and 5 % in all


def test_a_number_that_is_gone_is_a_failure_and_too_few_pairs_are_unknown(saved):
    old, new = summary(), summary()
    new["arms"][1]["bpb"][3] = None
    new["arms"][1]["peak_bytes"] = None
    found = words(regressions(saved("a", old), saved("b", new)))
    assert found["gauge", "bits per byte"] == "FAILED" and found["gauge", "memory"] == "FAILED"
    assert found["standard", "bits per byte"] == "SAME"
    few = words(regressions(saved("c", summary(seeds=4)), saved("d", summary(seeds=4))))
    assert few["gauge", "bits per byte"] == "UNKNOWN"


@pytest.mark.parametrize(("ratio", "word"), [(1.2, "WORSE"), (1.02, "SAME"), (0.8, "BETTER")])
def test_memory_and_seconds_have_their_own_rules(saved, ratio, word):
    old, new = summary(), summary()
    new["arms"][0]["peak_bytes"] *= ratio
    new["arms"][0]["step_seconds"] *= ratio
    found = words(regressions(saved("a", old), saved("b", new)))
    assert found["standard", "memory"] == word and found["standard", "step time"] == word
    new["arms"][0]["audit"]["time_valid"] = False
    assert words(regressions(saved("c", old), saved("d", new)))["standard", "step time"] == "UNKNOWN"


def test_what_cannot_be_compared_is_refused(saved, tmp_path):
    old, other = summary(), copy.deepcopy(summary())
    other["hashes"]["eval_hash"] = "another"
    with pytest.raises(ConfigError, match="another eval hash"):
        regressions(saved("a", old), saved("b", other))
    renamed = summary()
    for number, arm in enumerate(renamed["arms"]):
        arm["label"] = f"arm{number}"
    with pytest.raises(ConfigError, match="need at least one in common"):
        regressions(read("a", tmp_path), saved("c", renamed))
    with pytest.raises(ConfigError, match="need a folder or one of a, b, c"):
        read("nothing", tmp_path)
    for number, text in enumerate(("{", "[]", "{}")):
        (tmp_path / f"bad{number}.json").write_text(text)
        with pytest.raises(ConfigError, match="no summary of a suite"):
            read(str(tmp_path / f"bad{number}.json"), tmp_path)


def test_side_by_side_has_every_arm_once(saved):
    rows = side_by_side([saved("a", summary()), saved("b", summary(shift=0.1))])
    assert [row["arm"] for row in rows] == ["standard", "gauge"] and set(rows[0]["suites"]) == {"a", "b"}
