"""What `auto` resolves to: a function of configuration, machine and length, nothing else."""

from __future__ import annotations

import pytest
import torch

from nanochat import precision
from nanochat.config import EnvironmentFault, GPTConfig, RunConfig, TrainConfig
from nanochat.precision import resolve


def run_config(width: int = 256, **train) -> RunConfig:
    return RunConfig(model=GPTConfig(n_embd=width), train=TrainConfig(device="cpu", **train))


@pytest.fixture
def capable(monkeypatch):
    """A CPU that multiplies bf16, with a compiler beside it."""
    monkeypatch.setattr(precision, "_cpu_has_bf16", lambda: True)
    monkeypatch.setattr(precision, "_can_compile", lambda device: True)


def test_bf16_is_chosen_where_it_was_measured_to_pay(capable, monkeypatch):
    assert resolve(run_config(256), 200).dtype == "bfloat16"
    assert resolve(run_config(128), 200).dtype == "float32"
    monkeypatch.setattr(precision, "_cpu_has_bf16", lambda: False)
    assert resolve(run_config(256), 200).dtype == "float32"


def test_long_runs_are_compiled_where_there_is_a_compiler(capable, monkeypatch):
    assert not resolve(run_config(), 100).compile
    assert resolve(run_config(), 100_000).compile
    monkeypatch.setattr(precision, "_can_compile", lambda device: False)
    assert not resolve(run_config(), 100_000).compile


def test_what_was_asked_for_is_taken_and_said(capable):
    chosen = resolve(run_config(dtype="float32", compile=False, threads=1), 100_000)
    assert (chosen.dtype, chosen.compile, chosen.threads, chosen.reason) == ("float32", False, 1, "as asked")


def test_small_steps_stay_on_one_thread(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    small = RunConfig(model=GPTConfig(n_embd=16, n_layer=1, sequence_len=32), train=TrainConfig(device="cpu"))
    assert resolve(small, 200).threads == 1
    assert resolve(run_config(), 200).threads == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has the device")
def test_a_missing_gpu_is_one_line():
    with pytest.raises(EnvironmentFault, match="got cuda, need a CUDA device"):
        resolve(RunConfig(train=TrainConfig(device="cuda")), 200)
