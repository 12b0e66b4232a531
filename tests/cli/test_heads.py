"""`mgr heads` on runs trained for it: numbers, intervals over seeds, maps; and what it refuses in one line."""

import json
import random
from typing import Any

import numpy as np
import pytest

import cli
from nanochat import train
from nanochat.config import DataConfig, GPTConfig, RunConfig, TrainConfig
from nanochat.heat import half_width

WORDS = "the quick brown fox jumps over a lazy dog while seven wizards box".split()


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("heads")
    (root / "text").mkdir()
    rng = random.Random(0)
    for number in range(30):
        (root / "text" / f"{number}.txt").write_text(" ".join(rng.choices(WORDS, k=150)))
    data = DataConfig(
        data=str(root / "text"), tokenizer="byte", eval_documents=3, eval_bytes=80, cache_dir=str(root / "c")
    )
    sizes: Any = {"n_layer": 2, "n_head": 2, "n_embd": 32, "sequence_len": 24, "vocab_size": 300}
    made = {}
    for name, kind, seed in (("a", "gauge", 0), ("b", "gauge", 1), ("c", "reversible", 0)):
        options = TrainConfig(max_steps=3, batch_size=2, seed=seed, run_id=name, artifacts_dir=str(root), threads=1)
        config = RunConfig(model=GPTConfig(**sizes, attention_type=kind), data=data, train=options)
        made[name] = train.run(config).directory
    return made


def told(capsys, *words):
    assert cli.execute(["heads", *map(str, words)]) == 0
    return capsys.readouterr().out


def test_one_run_has_numbers_without_intervals(folders, capsys):
    found = json.loads(told(capsys, folders["a"], "--json"))
    assert list(found["measures"]) == ["entropy", "diversity", "holonomy", "turn"] and found["mixers"] == ["gauge"] * 2
    for measure in found["measures"].values():
        assert np.array(measure["runs"]).shape == (1, 2, 2) and measure["half_width"] == [[None] * 2] * 2
    assert 0 < np.min(found["measures"]["entropy"]["mean"]) < np.log(24)


def test_seeds_give_t_intervals(folders, capsys):
    found = json.loads(told(capsys, folders["a"], folders["b"], "--json"))
    runs = np.array(found["measures"]["turn"]["runs"])
    assert runs.shape == (2, 2, 2) and np.abs(runs[0] - runs[1]).min() > 0
    half = 12.7062 * np.abs(runs[0] - runs[1]) / 2  # t of one degree of freedom
    np.testing.assert_allclose(found["measures"]["turn"]["half_width"], half, rtol=1e-4)
    alone = json.loads(told(capsys, folders["b"], "--json"))
    np.testing.assert_allclose(alone["measures"]["turn"]["runs"][0], runs[1])


def test_intervals_cover_as_often_as_promised():
    draws = np.random.Generator(np.random.Philox(0)).normal(size=(5, 4000))
    covered = (np.abs(draws.mean(0)) <= half_width(draws)).mean()
    assert 0.935 < covered < 0.965


def test_tables_fit_and_maps_are_drawn(folders, capsys, tmp_path):
    shown = told(capsys, folders["a"], folders["b"], "--plots", tmp_path / "maps", "--plots-format", "svg")
    assert max(map(len, shown.splitlines())) <= 80 and "±" in shown and "█" in shown and "is largest in layer" in shown
    assert sorted(path.name for path in (tmp_path / "maps").iterdir()) == [
        "diversity.svg",
        "entropy.svg",
        "holonomy.svg",
        "turn.svg",
    ]


def test_block_stacks_show_the_heads_of_their_inner_mixer(folders, capsys):
    assert list(json.loads(told(capsys, folders["c"], "--json"))["measures"]) == ["entropy", "diversity"]


def test_what_is_no_run_is_refused_in_one_line(folders, tmp_path, capsys):
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "config.json").write_text((folders["a"] / "config.json").read_text())
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "config.json").write_text("{}")
    for words, fault in (
        ([tmp_path], "need the folder of a run"),
        ([tmp_path / "odd"], "no run's configuration"),
        ([bare], "has not finished"),
        ([folders["a"], folders["c"]], "differ in model.attention_type"),
        ([folders["a"], folders["a"]], "need each once"),
        ([folders["a"], "--plots-format", "svg"], "need --plots DIR too"),
    ):
        assert cli.execute(["heads", *map(str, words)]) == 2, words
        said = capsys.readouterr().err.splitlines()
        assert len(said) == 1 and fault in said[0], said
    (bare / "summary.json").write_text("{}")
    assert cli.execute(["heads", str(bare)]) == 2
    assert "kept no weights" in capsys.readouterr().err
