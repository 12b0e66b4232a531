"""Whatever other programs read of a suite is what the store says."""

import csv
import importlib.util
import json
import socket
import struct
from dataclasses import replace
from pathlib import Path

import pytest
from outcomes import OUTCOME
from test_suite_flow import config, trainer

from nanochat.bench import run
from nanochat.bench.export import KINDS, OTHER, export, ready
from nanochat.bench.index import Index
from nanochat.bench.store import Store, key_of
from nanochat.config import ConfigError, EnvironmentFault


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A suite of two arms and, in the same store, a run that diverged and that no suite rests on."""
    root = tmp_path_factory.mktemp("artifacts")
    given = {"arms": ("standard", "gauge"), "preset": "smoke", "seeds": 2, "run_id": "small", "grid": (-1, 0, 1)}
    run(config(root, **given), trainer=trainer({"standard": 2.6, "gauge": 2.5}))
    store = Store(root / "store")
    facts = Index(store).facts(Index(store).rows()[0]["key"]) | {"replica": "lost"}
    store.clear(key_of(facts))
    store.commit(key_of(facts), replace(OUTCOME, bpb=None, diverged=True), facts)
    return root


def written(root, path, *kinds, **options):
    return export(Index(Store(root / "store")), path, kinds, reports=root / "bench" / "suites", **options)


def summary(root):
    return json.loads((root / "bench" / "suites" / "small" / "summary.json").read_text())


def named(root):
    return {entry["key"]: arm["label"] for arm in summary(root)["arms"] for entry in arm["runs"]}


def test_tables_have_every_run_point_and_arm(finished, tmp_path):
    from pyarrow import parquet

    done = written(finished, tmp_path, "csv", "parquet")
    assert done.runs == len(named(finished)) + 1 and done.missing == 0
    runs, curves, verdicts = (
        parquet.read_table(tmp_path / f"{name}.parquet").to_pylist() for name in ("runs", "curves", "verdicts")
    )
    assert {row["key"]: row["arm"] for row in runs if row["suite"] == "small"} == named(finished)
    (lost,) = [row for row in runs if row["suite"] == OTHER]
    assert lost["bpb"] is None and lost["diverged"] == 1 and lost["stage"] == ""
    store = Store(finished / "store")
    for row in runs:
        outcome = store.load(row["key"])
        assert row["bpb"] == outcome.bpb
        own = [point for point in curves if point["key"] == row["key"]]
        assert [[point["step"], point["train_nats"]] for point in own] == outcome.loss_curve
        share = (own[-1]["step"] + 1) / outcome.steps
        assert own[-1]["operations"] == pytest.approx(share * outcome.flops_used)
    for row, arm in zip(verdicts, summary(finished)["arms"], strict=True):
        same = ("label", "verdict", "mean", "difference", "low", "high", "p_adjusted", "seeds_needed", "operations")
        assert {name: row[name] for name in same} == {name: arm[name] for name in same}
        assert row["learning_rate"] == arm["tuning"]["learning_rate"] and row["seeds"] == 2
    with (tmp_path / "verdicts.csv").open() as file:
        assert [row["label"] for row in csv.DictReader(file)] == ["standard", "gauge"]


def test_a_suite_or_a_condition_narrows_it_and_runs_that_are_gone_are_told(finished, tmp_path):
    keys = named(finished)
    assert written(finished, tmp_path / "a", "csv", suites=["small"]).runs == len(keys)
    gauge = sum(label == "gauge" for label in keys.values())
    assert written(finished, tmp_path / "b", "csv", suites=["small"], where=["attention=gauge"]).runs == gauge
    elsewhere = Index(Store(tmp_path / "empty"))
    done = export(elsewhere, tmp_path / "c", ["csv"], reports=finished / "bench" / "suites")
    assert (done.runs, done.missing) == (0, len(keys))


@pytest.mark.parametrize("ending", [".parquet", ".csv"])
def test_one_table_of_runs(finished, tmp_path, ending):
    path = tmp_path / f"runs{ending}"
    rows = Index(Store(finished / "store")).rows()
    assert written(finished, path).runs == len(rows)
    if ending == ".parquet":
        from pyarrow import parquet

        assert parquet.read_table(path).to_pylist() == rows
    else:
        assert len(path.read_text().splitlines()) == len(rows) + 1


def test_tensorboard_reads_the_stores_numbers(finished, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    written(finished, tmp_path, "tensorboard")
    store, found = Store(finished / "store"), {}
    for path in (tmp_path / "tensorboard").glob("*/*/*"):
        (events,) = path.iterdir()
        found[path.name[-8:]] = (path.relative_to(tmp_path / "tensorboard"), EventAccumulator(str(events)).Reload())
    assert {key[:8] for key in named(finished)} < found.keys() and len(found) == len(named(finished)) + 1
    for row in Index(store).rows():
        place, read = found[row["key"][:8]]
        outcome = store.load(row["key"])
        label = named(finished).get(row["key"])
        assert place.parts[:2] == (("small", label) if label else (OTHER, row["attention"]))
        curve = [[event.step, event.value] for event in read.Scalars("train/nats")]
        assert curve == [pytest.approx(point) for point in outcome.loss_curve]
        scored = "held_out/bits_per_byte" in read.Tags()["scalars"]
        assert scored == (outcome.bpb is not None)
        if scored:
            (event,) = read.Scalars("held_out/bits_per_byte")
            assert (event.step, event.value) == (outcome.steps, pytest.approx(outcome.bpb))
            assert event.wall_time == pytest.approx(row["finished"])
        data = HParamsPluginData.FromString(read.SummaryMetadata("_hparams_/session_start_info").plugin_data.content)
        chosen = data.session_start_info.hparams
        assert chosen["optim.learning_rate"].number_value == row["learning_rate"]
        assert chosen["model.attention_type"].string_value == row["attention"]


def records(path: Path):
    """Records of a LevelDB log, which a ``.wandb`` file is, after its header of seven bytes."""
    content, position, parts = path.read_bytes(), 7, b""
    while position + 7 <= len(content):
        if 32768 - position % 32768 < 7:
            position += 32768 - position % 32768
        _, length, kind = struct.unpack("<IHB", content[position : position + 7])
        parts += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""


@pytest.fixture
def no_network(monkeypatch):
    """Sockets of this machine alone: whoever asks for another address is told off."""

    def refused(self, address):
        raise AssertionError(f"connects to {address}")

    def connect(self, address):
        return refused(self, address) if self.family != socket.AF_UNIX else honest(self, address)

    honest = socket.socket.connect
    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *given, **options: refused(None, given))


def test_wandb_reads_the_stores_numbers_and_nothing_is_sent(finished, tmp_path, no_network, monkeypatch):
    pytest.importorskip("wandb")
    from wandb.proto.wandb_internal_pb2 import Record

    monkeypatch.setenv("WANDB_MODE", "online")  # what a user may have set for other work does not count
    written(finished, tmp_path, "wandb")
    files = list(tmp_path.glob("wandb/offline-run-*/*.wandb"))
    store = Store(finished / "store")
    rows = {row["key"][:16]: row for row in Index(store).rows()}
    assert len(files) == len(rows)
    for file in files:
        read = [Record.FromString(part) for part in records(file)]
        (about,) = [record.run for record in read if record.HasField("run")]
        row = rows[about.run_id[:16]]
        outcome, label = store.load(row["key"]), named(finished).get(row["key"])
        assert about.run_group == ("small" if label else OTHER) and about.display_name.startswith(label or "")
        chosen = {item.key: json.loads(item.value_json) for item in about.config.update}
        assert chosen["optim.learning_rate"] == row["learning_rate"] and chosen["train.seed"] == row["seed"]
        history = [
            {"".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
            for record in read
            if record.HasField("history")
        ]
        assert [[point["step"], point["train_nats"]] for point in history] == outcome.loss_curve
        ends = [item for record in read if record.HasField("summary") for item in record.summary.update]
        last = {"".join(item.nested_key) or item.key: json.loads(item.value_json) for item in ends}
        assert last.get("bits_per_byte") == outcome.bpb and last["parameters"] == outcome.parameters


def test_what_is_missing_is_told_before_anything_is_written(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EnvironmentFault, match=r"tensorboard and wandb not installed; .*\[tensorboard,wandb\]"):
        ready(tmp_path / "new", KINDS, ())
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("name", "kinds", "suites", "words"),
    [
        ("runs.xls", (), (), "need a name that ends in .parquet or .csv, or one of --tensorboard"),
        ("runs.csv", (), ("one",), "--suite: got no kind of export"),
        ("runs.csv", ("csv",), (), "with --csv, need a folder"),
        ("file", ("csv",), (), "need a folder"),
        ("", ("tensorboard",), (), "tensorboard, which is there already"),
    ],
)
def test_what_cannot_be_written_is_refused(tmp_path, name, kinds, suites, words):
    (tmp_path / "file").touch()
    (tmp_path / "tensorboard").mkdir()
    with pytest.raises(ConfigError, match=words):
        ready(tmp_path / name, kinds, suites)
