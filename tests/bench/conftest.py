"""What the suites of these tests have in common."""

import pytest

from nanochat.bench import recheck as rechecking
from nanochat.checkpoint import LATEST
from nanochat.flops import ledger


@pytest.fixture(autouse=True)
def made_up_runs_need_no_weights(monkeypatch):
    """Trainers that only make up numbers leave no checkpoint: for them the recheck finds everything as reported."""

    def recheck(key, run, result, directory, dataset):
        if result.diverged or (directory / LATEST).exists():
            return honest(key, run, result, directory, dataset)
        return rechecking.Recheck(0.0, 0.0, ledger(run.model).parameters)

    honest = rechecking.recheck
    monkeypatch.setattr(rechecking, "recheck", recheck)
