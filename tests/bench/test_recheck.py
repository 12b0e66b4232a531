"""What a run's own weights say about it: honest runs agree to rounding, every cheat leaves a trace of its kind."""

from dataclasses import fields, replace

import pytest
import torch

from nanochat import loop
from nanochat.bench.audit import LEAK_TOLERANCE, RESCORE_TOLERANCE, audit
from nanochat.bench.config import SuiteConfig
from nanochat.bench.jobs import Job, dataset_of, outcome_of
from nanochat.bench.recheck import Recheck, recheck
from nanochat.bench.suite import prepare
from nanochat.data import EvalSet
from nanochat.evaluate import evaluate
from nanochat.gpt import GPT
from nanochat.train import run

KEY = "5e" * 32
STEPS = 50


@pytest.fixture(scope="module")
def plan():
    return prepare(SuiteConfig(arms=("standard", "gauge"), preset="smoke"))


@pytest.fixture
def trained(plan, tmp_path):
    """Trains an arm and looks at its weights; ``planned`` is what the recheck believes was trained."""

    def train(label="standard", change=None, steps=STEPS):
        planned = plan.run_config(label, 0, 0.01, steps, tuning=False)
        dataset = dataset_of(plan.data, planned.model.vocab_size)
        result = run(change(planned) if change else planned, directory=tmp_path / "run", dataset=dataset)
        return planned, result, tmp_path / "run", dataset

    return train


def faults(plan, planned, result, dataset, found, label="standard"):
    job = Job(KEY, label, "verdict", planned, {})
    outcome = outcome_of(result, dataset, found)
    hashes = {name: getattr(outcome, name) for name in ("data_hash", "tokenizer_hash", "eval_hash")}
    return list(audit(plan, label, [(job, outcome)], hashes, None).faults)


@pytest.mark.parametrize("label", ["standard", "gauge"])
def test_an_honest_run_agrees_with_its_weights(plan, trained, label):
    planned, result, directory, dataset = trained(label)
    found = recheck(KEY, planned, result, directory, dataset)
    assert found.rescored is not None and 0 <= found.rescored < 1e-6
    assert found.replayed is not None and found.replayed > 0.9
    assert found.leak == 0.0 and found.weights == result.parameters and not found.unchecked
    assert faults(plan, planned, result, dataset, found, label) == []


def test_a_longer_context_at_evaluation_shows_in_the_score(plan, trained, monkeypatch):
    honest = EvalSet.windows

    def cheating(*given):
        with monkeypatch.context() as patch:
            patch.setattr(EvalSet, "windows", lambda texts, length: honest(texts, 2 * length))
            return evaluate(*given)

    monkeypatch.setattr(loop, "evaluate", cheating)
    planned, result, directory, dataset = trained(steps=4 * STEPS)
    found = recheck(KEY, planned, result, directory, dataset)
    assert found.rescored is not None and found.rescored > 10 * RESCORE_TOLERANCE
    (fault,) = faults(plan, planned, result, dataset, found)
    assert "score otherwise than reported" in fault


def test_fewer_nats_or_more_bytes_than_there_are_show_in_the_score(plan, trained):
    planned, result, directory, dataset = trained()
    for lie in (
        replace(result, bpb=0.99 * result.bpb),
        replace(result, document_nats=0.99 * result.document_nats, bpb=0.99 * result.bpb),
        replace(result, document_nats=result.document_nats[:-1]),
    ):
        found = recheck(KEY, planned, lie, directory, dataset)
        assert found.unchecked or found.rescored == pytest.approx(0.01, rel=0.05)
        assert len(faults(plan, planned, lie, dataset, found)) == 1


def test_a_model_that_sees_the_next_token_leaks(plan, trained, monkeypatch):
    def hidden(self, idx, cache=None):
        seen = honest(self, idx, cache)
        return torch.cat([seen[:, :-1] + 0.05 * self.embed(idx)[:, 1:], seen[:, -1:]], 1)

    honest = GPT.hidden
    monkeypatch.setattr(GPT, "hidden", hidden)
    planned, result, directory, dataset = trained()
    found = recheck(KEY, planned, result, directory, dataset)
    assert found.rescored is not None and found.rescored < RESCORE_TOLERANCE
    assert found.leak is not None and found.leak > 100 * LEAK_TOLERANCE
    (fault,) = faults(plan, planned, result, dataset, found)
    assert "a later token moves an earlier logit" in fault


def test_a_bigger_model_than_planned_shows_in_the_file(plan, trained, monkeypatch):
    def wider(planned):
        return replace(planned, model=replace(planned.model, mlp_ratio=8))

    planned, result, directory, dataset = trained(change=wider)
    lie = replace(result, parameters=plan.ledgers["standard"].parameters, counted_flops=result.flops_used)
    found = recheck(KEY, planned, lie, directory, dataset)
    assert "of configuration" in found.unchecked
    # Even if the file claims to be of the planned configuration: its tensors do not fit.
    from nanochat.bench import recheck as module

    monkeypatch.setattr(module, "config_hash", lambda config: loop.config_hash(wider(config)))
    found = recheck(KEY, planned, lie, directory, dataset)
    assert found.weights == result.parameters and "do not fit the planned model" in found.unchecked
    assert f"seed 0: could not be rechecked: {found.unchecked}" in faults(plan, planned, lie, dataset, found)


def test_a_run_without_weights_is_invalid_unless_it_diverged(plan, trained):
    planned, result, directory, dataset = trained()
    for path in directory.glob("*.pt"):
        path.unlink()
    assert "missing" in recheck(KEY, planned, result, directory, dataset).unchecked
    (directory / "latest.json").unlink()
    found = recheck(KEY, planned, result, directory, dataset)
    assert found == Recheck(unchecked="it left no weights")
    assert faults(plan, planned, result, dataset, found) == ["seed 0: could not be rechecked: it left no weights"]
    diverged = replace(result, diverged=True, bpb=float("inf"), document_nats=result.document_nats[:0])
    found = recheck(KEY, planned, diverged, directory, dataset)
    assert found.rescored is None and faults(plan, planned, diverged, dataset, found) == []


def test_what_a_recheck_finds_is_kept_whole(plan, trained):
    planned, result, directory, dataset = trained()
    found = recheck(KEY, planned, result, directory, dataset)
    kept = outcome_of(result, dataset, found)
    assert all(getattr(kept, item.name) == getattr(found, item.name) for item in fields(Recheck))


def test_a_run_that_read_other_batches_is_known_by_its_losses(plan, trained):
    """Only the losses are reported from elsewhere; weights and scores are honest."""
    planned, result, directory, dataset = trained(steps=4 * STEPS)
    shifted = replace(result, loss_curve=[*result.loss_curve[7:], *result.loss_curve[:7]])
    found = recheck(KEY, planned, shifted, directory, dataset)
    assert found.replayed is not None and found.replayed < 0.6
    (fault,) = faults(plan, planned, shifted, dataset, found)
    assert "not those of the planned batches" in fault
    constant = recheck(KEY, planned, replace(result, loss_curve=[3.0] * result.steps), directory, dataset)
    assert constant.replayed == 0.0


def test_a_run_that_was_finished_before_the_question_arose_stays_valid(plan, trained):
    planned, result, directory, dataset = trained()
    found = replace(recheck(KEY, planned, result, directory, dataset), replayed=None)
    assert faults(plan, planned, result, dataset, found) == []
