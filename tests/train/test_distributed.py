from __future__ import annotations

import json

import pytest
from tiny_run import arguments, config_in, directory, losses, trained, with_model, with_optim

from nanochat.config import ConfigError
from nanochat.distributed import check_batch, world
from nanochat.optim.hoss import HossKnobs
from nanochat.train import run

TWO = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")


@pytest.mark.parametrize(
    ("attention", "optimizer"), [("standard", "adamw"), ("reversible", "adamw"), ("standard", "hoss")]
)
def test_two_processes_take_the_steps_of_one(tmp_path, attention, optimizer):
    shared = {"max_steps": 20, "batch_size": 4, "val_interval": 10}
    one = with_model(config_in(tmp_path, run_id="one", **shared), attention_type=attention, optimizer_type=optimizer)
    if optimizer == "hoss":
        # At a time of one, rounding differences grow to 1e-3 within 20 steps.
        one = with_optim(one, learning_rate=0.3, knobs={"hoss": HossKnobs(krylov=2)})
    run(one)
    words = [*arguments(tmp_path, run_id="two", **shared), "--attention-type", attention, "--optimizer-type", optimizer]
    words += ["--hoss-krylov", "2", "--learning-rate", "0.3"] if optimizer == "hoss" else []
    code, _, err = trained(words, launcher=TWO)
    assert code == 0, err
    folders = [directory(one), directory(config_in(tmp_path, run_id="two"))]
    alone, together = map(losses, folders)
    assert len(alone) == len(together) == 20
    assert max(abs(a - b) for (_, a), (_, b) in zip(alone, together, strict=True)) < 1e-5
    results = [json.loads((folder / "summary.json").read_text()) for folder in folders]
    assert results[0]["bpb"] == pytest.approx(results[1]["bpb"], abs=1e-5)
    assert results[0]["flops_used"] == results[1]["flops_used"]
    assert abs(results[1]["audit"]) < 0.05


def test_a_batch_that_cannot_be_dealt_out_is_refused():
    check_batch(6, 3)
    with pytest.raises(ConfigError, match="--batch-size: got 6 over 4 processes, need a multiple of 4"):
        check_batch(6, 4)


def test_an_odd_batch_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    config = config_in(tmp_path, batch_size=3)
    with pytest.raises(ConfigError, match="multiple of 2"):
        run(config)
    assert not directory(config).exists()


def test_without_torchrun_there_is_one_process_that_writes(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert (world().rank, world().size, world().writes) == (0, 1, True)
