"""The cost table: it runs at a tiny size, writes its artifact, and its arithmetic is right."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time

import pytest

from nanochat.architecture import attention_types

LINEAR = {"ultrametric-mode=trie": 1.15, "fractal": 1.15, "tropical-score=maxplus": 1.1}
"""Largest exponent of time in the number of tokens."""


@pytest.fixture
def scripts(root, monkeypatch):
    monkeypatch.syspath_prepend(str(root / "benchmarks"))
    import long_context
    import mechanisms
    import timing

    return mechanisms, long_context, timing


def test_one_mechanism_is_measured_and_recorded(root, tmp_path):
    label = "ultrametric-mode=trie"
    words = ["--quick", "--rounds", "1", "--only", label, "--artifacts-dir", str(tmp_path)]
    command = [sys.executable, str(root / "benchmarks/mechanisms.py"), *words, "--json", str(tmp_path / "all.json")]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "perf" / "mechanisms").iterdir()
    summary = json.loads((folder / "summary.json").read_text())
    assert summary == json.loads((tmp_path / "all.json").read_text())
    step = summary["step"][label]
    assert step["bar"] == 1.3 and step["low"] == step["median"] == step["high"] > 0
    assert len(summary["laps"][f"before {label}"]) == 1
    state = summary["state"]
    assert (
        state[label]["65536"] == state[label]["1024"] and state["standard"]["65536"] == 64 * state["standard"]["1024"]
    )
    long = summary["long"]
    assert long["time"][label]["exponent"] and long["time"][label]["seconds"].keys() == {"64", "128", "256"}
    assert long["memory"].keys() == {"standard", label}
    assert "busy" in done.stdout and f"| {label}" in (folder / "run.md").read_text()
    assert json.loads((folder / "env.json").read_text())["versions"]["torch"]


@pytest.mark.parametrize("label", ["gaug", "standard", "gauge-group=su2", "gauge-grup=u1"])
def test_a_label_that_is_none_is_refused_in_one_line(scripts, capsys, label):
    with pytest.raises(SystemExit) as left:
        scripts[0].main(["--quick", "--only", label])
    assert left.value.code == 2 and f"--only: got {label!r}" in capsys.readouterr().err.splitlines()[-1]


def test_every_bar_and_variant_names_what_is_timed(scripts):
    mechanisms, long_context, _ = scripts
    labels = mechanisms.labels()
    built = {label.partition("-")[0] for label in labels}
    for label in (*mechanisms.VARIANTS, *mechanisms.BARS, *long_context.TIMED):
        assert label in labels or label.partition("-")[0] not in built, label
    for label in labels:
        mechanisms.Shape().config(label)


def test_ratios_are_taken_inside_a_round(scripts):
    timing = scripts[2]
    drift = [1.0, 2.0, 4.0, 8.0, 16.0]
    own, base = ([timing.Lap(factor * each, factor) for each in drift] for factor in (3, 2))
    found = timing.ratio(own, base)
    assert (found.median, found.low, found.high, found.processor) == (1.5, 1.5, 1.5, 1.5)


def test_the_baseline_of_each_contender_is_run_just_before_it(scripts):
    turns = []
    names = ("before a", "a", "before b", "b")
    laps = scripts[2].interleave({name: lambda name=name: turns.append(name) for name in names}, rounds=2, warm_up=1)
    assert turns == [*names] * 3 and all(len(own) == 2 for own in laps.values())


def test_exponents_and_crossings(scripts):
    long_context = scripts[1]
    square = {length: 1e-6 * length**2 for length in (256, 512, 1024, 2048)}
    line = {length: 1e-3 * length for length in square}
    assert long_context.exponent(square, 512) == pytest.approx(2) and long_context.exponent(square, 2048) is None
    assert long_context.crossing(line, square) == 1024 and long_context.crossing(square, line) is None
    assert math.isclose(long_context.exponent(line, 0), 1)


def test_work_of_others_is_seen_and_own_work_is_not(scripts):
    timing = scripts[2]
    load = timing.Load()
    if load.others() is None:
        pytest.skip("this system does not say what others do")
    load.start = (time.perf_counter() - 10, load._all() - 15, load._own() - 10)
    assert load.others() == pytest.approx(0.5, abs=0.1) and "BUSY" in load.sentence()
    load.start = (time.perf_counter() - 10, load._all() - 10, load._own() - 10)
    assert load.others() < 0.1 and "BUSY" not in load.sentence()


@pytest.mark.slow  # half a minute each on an idle machine
@pytest.mark.parametrize("label", [label for label in LINEAR if label.partition("-")[0] in attention_types()])
def test_long_contexts_take_linear_time_and_memory(scripts, label):
    """By processor time, which a busy machine leaves nearly as it is. Softmax attention is the negative control."""
    _, long_context, _ = scripts
    laps = long_context.times(["standard", label], [2048, 4096, 8192, 16384, 32768, 65536], 3, threads=1)
    spent = {name: {length: lap.processor for length, lap in own.items()} for name, own in laps.items()}
    assert long_context.exponent(spent[label], 4096) <= LINEAR[label], spent
    assert long_context.exponent(spent["standard"], 0) > 1.4, spent
    assert spent[label][4096] < spent["standard"][4096] or label == "tropical-score=maxplus", spent
    sizes = long_context.weigh(label, [4096, 16384, 65536], 1)
    assert 0.8 < long_context.exponent(sizes, 0) < 1.1, sizes
