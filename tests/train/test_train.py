from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from tiny_run import arguments, config_in, directory, trained, with_model, with_optim, with_train

from nanochat.config import ConfigError, EnvironmentFault, RunConfig
from nanochat.console import PlainView, View
from nanochat.flops import ledger
from nanochat.optim.hoss import HossKnobs
from nanochat.train import run


def test_a_run_learns_and_leaves_a_complete_record(tmp_path):
    config = config_in(tmp_path, max_steps=60)
    result = run(config)
    assert result.loss_curve[0] == pytest.approx(math.log(257), abs=1e-5)
    assert result.loss_curve[-1] < result.loss_curve[0] - 1
    assert len(result.loss_curve) == result.steps == 60
    folder = directory(config)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["schema"] == "mgr.run.v1" and summary["bpb"] == result.bpb and summary["steps"] == 60
    assert {path.name for path in folder.iterdir()} >= {
        "config.json",
        "env.json",
        "metrics.jsonl",
        "eval_documents.json",
        "run.md",
        "summary.json",
        "latest.json",
    }
    assert json.loads((folder / "env.json").read_text())["precision"]["dtype"] == "float32"


def test_bits_per_byte_is_the_documents_nats_over_their_bytes(tmp_path):
    result = run(config_in(tmp_path))
    total = result.document_nats.sum() / (math.log(2) * result.document_bytes.sum())
    assert result.bpb == pytest.approx(total, rel=1e-12)
    assert (result.document_nats > 0).all() and len(result.document_nats) == 4
    assert [step for step, _ in result.val_curve] == [5, 10, 12]


def test_the_first_evaluation_of_a_model_that_knows_nothing_is_the_uniform_code(tmp_path):
    config = with_optim(config_in(tmp_path, max_steps=1), learning_rate=1e-30, scheduler_type="none", warmup_steps=0)
    # 256 bytes and one special: log2(257) bits for each byte.
    assert run(config).bpb == pytest.approx(math.log2(257), rel=1e-6)


def test_two_runs_are_equal_to_the_bit_and_leave_random_state_and_threads_alone(tmp_path):
    torch.manual_seed(7)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    first = run(config_in(tmp_path, run_id="first"))
    second = run(config_in(tmp_path, run_id="second"))
    assert first.loss_curve == second.loss_curve
    assert first.bpb == second.bpb and np.array_equal(first.document_nats, second.document_nats)
    assert torch.equal(before, torch.get_rng_state()) and threads == torch.get_num_threads()


def test_another_seed_is_another_run(tmp_path):
    assert run(config_in(tmp_path, run_id="a")).bpb != run(config_in(tmp_path, run_id="b", seed=1)).bpb


@pytest.mark.parametrize(
    ("attention", "optimizer"),
    [*product(("standard", "tropical", "reversible"), ("adamw", "muon")), ("standard", "hoss"), ("tropical", "hoss")],
)
def test_what_is_executed_is_what_the_ledger_charges(tmp_path, attention, optimizer):
    config = with_model(config_in(tmp_path, max_steps=2), attention_type=attention, optimizer_type=optimizer)
    result = run(config)
    assert result.flops_used == ledger(config.model).step_flops(4) * 2
    assert abs(result.audit) < 0.05, f"counted {result.counted_flops:g}, ledger {result.flops_used:g}"


def with_looks(config: RunConfig, **knobs: int) -> RunConfig:
    config = with_model(config, optimizer_type="hoss")
    return with_optim(config, knobs={"hoss": HossKnobs(**knobs)})


@pytest.mark.parametrize("every", [1, 3, 5])
def test_steps_with_and_without_a_look_at_the_curvature_are_each_charged_their_price(tmp_path, every):
    """Neither the dear steps make the cheap ones look dear in the audit, nor the other way round."""
    config = with_looks(config_in(tmp_path, max_steps=11), krylov=3, refresh=every)
    result = run(config)
    costs = ledger(config.model, optim=config.optim)
    assert result.flops_used == costs.run_flops(4, 11)
    assert abs(result.audit) < 0.02, f"counted {result.counted_flops:g}, ledger {result.flops_used:g}"


def test_a_look_too_many_shows_in_the_audit(tmp_path):
    """Looks are counted where they are taken: one in every step is not charged as one in three."""

    def curious(step):
        def take(inputs, targets):
            if step.executed % 3:
                step._look(inputs, targets)
                step.looks -= 1
            return step(inputs, targets)

        return take

    config = with_looks(config_in(tmp_path, max_steps=11), krylov=1, refresh=3)
    assert run(config, tamper=curious).audit > 0.1


def test_a_budget_gives_the_steps_and_is_met(tmp_path):
    config = config_in(tmp_path)
    budget = ledger(config.model).step_flops(4) * 240.3
    result = run(with_train(config, max_steps=None, target_flops=budget, val_interval=0, checkpoint_interval=0))
    assert result.steps == 240
    assert result.budget_error is not None and abs(result.budget_error) < 0.005


def test_a_budget_below_200_steps_is_refused(tmp_path):
    config = config_in(tmp_path)
    budget = ledger(config.model).step_flops(4) * 199
    with pytest.raises(ConfigError, match="200"):
        run(with_train(config, max_steps=None, target_flops=budget))


def test_steps_taken_in_secret_are_counted(tmp_path):
    def greedy(step):
        calls = []

        def take(inputs, targets):
            calls.append(1)
            if len(calls) % 3 == 0:
                step(inputs, targets)
            return step(inputs, targets)

        return take

    config = config_in(tmp_path)
    honest = run(with_train(config, run_id="honest"))
    cheat = run(with_train(config, run_id="cheat"), tamper=greedy)
    assert cheat.steps == 16 and cheat.flops_used == pytest.approx(honest.flops_used * 16 / 12)


@pytest.mark.parametrize("honest_steps", [0, 1])
def test_extra_work_inside_steps_shows_in_the_audit(tmp_path, honest_steps):
    """Also when the first step, which is always counted, is honest: another one is counted unannounced."""

    def heavy(step):
        def take(inputs, targets):
            if step.executed >= honest_steps:
                step.forward(inputs, targets)
            return step(inputs, targets)

        return take

    assert run(config_in(tmp_path), tamper=heavy).audit > 0.2


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_divergence_stops_with_a_record(tmp_path, where):
    def poison(step):
        def take(inputs, targets):
            if step.executed == 5:
                if where == "loss":
                    step.parameters[0].data.fill_(float("inf"))
                else:
                    step.parameters[0].register_hook(lambda gradient: gradient * float("nan"))
            return step(inputs, targets)

        return take

    config = config_in(tmp_path)
    result = run(config, tamper=poison)
    assert result.diverged and "step 5" in result.fault and result.bpb == math.inf
    summary = json.loads((directory(config) / "summary.json").read_text())
    assert summary["diverged"] is True and summary["bpb"] is None and "step 5" in summary["fault"]
    assert len(result.loss_curve) == 6


def test_gradient_that_is_not_finite_leaves_the_weights_as_they_were(tmp_path):
    seen = {}

    def poison(step):
        def take(inputs, targets):
            if step.executed == 3:
                seen["before"] = [parameter.detach().clone() for parameter in step.parameters]
                step.parameters[0].register_hook(lambda gradient: gradient * float("inf"))
            outcome = step(inputs, targets)
            seen["after"] = [parameter.detach().clone() for parameter in step.parameters]
            return outcome

        return take

    run(config_in(tmp_path), tamper=poison)
    assert all(torch.equal(one, two) for one, two in zip(seen["before"], seen["after"], strict=True))


def test_group_rates_keep_their_ratios_and_gradients_are_clipped(tmp_path):
    rates = []

    def watch(step):
        def take(inputs, targets):
            outcome = step(inputs, targets)
            rates.append([group["lr"] / group["initial_lr"] for group in step.optimizer.param_groups])
            return outcome

        return take

    config = with_optim(config_in(tmp_path), embedding_lr_scale=10.0, scheduler_type="linear", warmup_steps=3)
    run(config, tamper=watch)
    assert all(max(row) == pytest.approx(min(row)) for row in rates)
    assert rates[0][0] == pytest.approx(1 / 3) and rates[3][0] == 1.0 and rates[-1][0] < 0.2


def test_bf16_comes_close_to_fp32(tmp_path):
    exact = run(config_in(tmp_path, run_id="fp32"))
    rounded = run(config_in(tmp_path, run_id="bf16", dtype="bfloat16"))
    assert rounded.bpb == pytest.approx(exact.bpb, rel=0.02) and rounded.bpb != exact.bpb


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit")  # inductor imports what PyTorch itself has deprecated
def test_a_compiled_run_takes_the_same_steps(tmp_path):
    eager = run(config_in(tmp_path, run_id="eager"))
    compiled = run(config_in(tmp_path, run_id="compiled", compile=True))
    assert compiled.loss_curve == pytest.approx(eager.loss_curve, abs=1e-4)
    assert compiled.counted_flops == eager.counted_flops


def test_a_view_hears_everything_in_plain_lines(tmp_path, capsys):
    run(config_in(tmp_path), view=PlainView(interval=0))
    lines = capsys.readouterr().out.splitlines()
    assert any("12/12" in line and "tokens/s" in line for line in lines)
    assert any("step 12: held-out" in line for line in lines)
    assert all(len(line) <= 100 for line in lines if line.startswith("step"))


def test_a_run_prints_nothing_without_a_view(tmp_path, capsys):
    run(config_in(tmp_path))
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_no_cuda_is_a_fault_of_the_environment(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(EnvironmentFault, match="cuda"):
        run(config_in(tmp_path, device="cuda"))


def test_unknown_names_are_all_reported_before_anything_is_written(tmp_path):
    config = config_in(tmp_path)
    wrong = replace(
        with_optim(with_model(config, attention_type="softmax", optimizer_type="sgd"), scheduler_type="cosin")
    )
    with pytest.raises(ConfigError) as error:
        run(wrong)
    assert len(error.value.faults) == 3 and not directory(config).exists()


def test_json_prints_the_summary_alone(tmp_path):
    code, out, err = trained([*arguments(tmp_path, max_steps=3), "--json"])
    assert code == 0, err
    summary = json.loads(out)
    assert summary["steps"] == 3 and summary["bpb"] > 0


def test_an_operation_that_cannot_be_counted_is_taken_and_never_passes_the_audit(tmp_path):
    heard = []

    class Ear(View):
        def note(self, line: str) -> None:
            heard.append(line)

    def exotic(step):
        def take(inputs, targets):
            torch.linalg.svd(torch.eye(3))
            return step(inputs, targets)

        return take

    result = run(config_in(tmp_path), view=Ear(), tamper=exotic)
    assert result.steps == 12 and result.counted_flops == 0 and result.audit == -1
    assert any("not audited" in line and "svd" in line for line in heard)
