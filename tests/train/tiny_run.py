"""A run of seconds on a folder of generated text, for the tests of the trainer."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import torch

from nanochat.config import DataConfig, GPTConfig, OptimConfig, RunConfig, TrainConfig

WORDS = "the quick brown fox jumps over a lazy dog while seven wizards box".split()
SIZES = {"n_layer": 2, "n_head": 2, "n_embd": 32, "sequence_len": 16, "vocab_size": 257}


def write_text(folder: Path) -> Path:
    rng = random.Random(0)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(40):
        (folder / f"{number}.txt").write_text(" ".join(rng.choice(WORDS) for _ in range(200)))
    return folder


def config_in(folder: Path, **train: object) -> RunConfig:
    values = {"max_steps": 12, "batch_size": 4, "val_interval": 5, "checkpoint_interval": 4, "run_id": "run"}
    values |= {"artifacts_dir": str(folder / "artifacts"), "threads": 1, **train}
    return RunConfig(
        model=GPTConfig(**SIZES),
        data=DataConfig(
            data=str(write_text(folder / "text")),
            tokenizer="byte",
            eval_documents=4,
            eval_bytes=100,
            cache_dir=str(folder / "cache"),
        ),
        train=TrainConfig(**values),
    )


def with_model(config: RunConfig, **model: object) -> RunConfig:
    return replace(config, model=replace(config.model, **model))


def with_train(config: RunConfig, **train: object) -> RunConfig:
    return replace(config, train=replace(config.train, **train))


def with_optim(config: RunConfig, **optim: object) -> RunConfig:
    return replace(config, optim=OptimConfig(**optim))


def directory(config: RunConfig) -> Path:
    train = config.train
    return Path(train.artifacts_dir) / train.artifacts_kind / train.artifacts_topic / str(train.run_id)


def arguments(folder: Path, **train: object) -> list[str]:
    """The same run as :func:`config_in`, as words of a command line."""
    config = config_in(folder, **train)
    words = []
    for section, names in (
        (config.model, SIZES),
        (config.data, ("data", "tokenizer", "eval_documents", "eval_bytes", "cache_dir")),
        (config.train, ("max_steps", "batch_size", "val_interval", "checkpoint_interval", "artifacts_dir", "threads")),
    ):
        for name in names:
            words += [f"--{name.replace('_', '-')}", str(getattr(section, name))]
    if config.train.run_id is not None:
        words += ["--run-id", config.train.run_id]
    return words


def start(words: list[str], *, launcher: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    command = [sys.executable, *launcher, "-m", "nanochat.train", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def trained(words: list[str], **options: tuple[str, ...]) -> tuple[int, str, str]:
    process = start(words, **options)
    out, err = process.communicate(timeout=240)
    return process.returncode, out, err


def losses(folder: Path) -> list[tuple[int, float]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"]) for line in lines if "loss" in line]


def trace(folder: Path) -> list[dict[str, float]]:
    """Everything recorded but the clock."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def final_state(folder: Path) -> dict[str, torch.Tensor]:
    """Weights and optimizer state of the newest checkpoint, flat."""
    latest = json.loads((folder / "latest.json").read_text())["checkpoints"][0]
    state = torch.load(folder / latest["file"], weights_only=True)["state"]
    flat = dict(state["model"])
    for index, values in state["optimizer"]["state"].items():
        flat |= {f"{index}.{name}": value for name, value in values.items() if isinstance(value, torch.Tensor)}
    return flat


def same_bits(first: Path, second: Path) -> None:
    one, two = final_state(first), final_state(second)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert trace(first) == trace(second)
