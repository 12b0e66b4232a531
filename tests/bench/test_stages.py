"""The phases that are told beforehand are those that run, with the steps that they train."""

from collections import Counter

import pytest
from test_suite_flow import config, trainer

from nanochat.bench import Observer, run, tuning
from nanochat.bench.stages import EQUAL_TIME, planned_steps
from nanochat.bench.suite import prepare

EQUALLY_FAST = {"standard": 2.6, "gauge": 2.6}


class Steps(Observer):
    """Counts the steps of each phase, each run once: a look repeats what the one before it ran."""

    def __init__(self):
        self.found = {}
        self.seen = set()

    def phase(self, name, jobs, missing):
        new = [job for job in jobs if job.key not in self.seen]
        self.seen |= {job.key for job in jobs}
        self.found[name] = Counter()
        for job in new:
            self.found[name][job.label] += job.steps


@pytest.mark.parametrize(
    "options",
    [
        {"seeds": 12, "looks": (8,), "gain": True, "shares": (0.4,)},
        {"pilot": 0, "time_axis": True, "seeds": 6, "confirm": 0},
    ],
)
def test_what_is_told_beforehand_is_what_runs(tmp_path, monkeypatch, options):
    monkeypatch.setattr(tuning, "MAX_EXTENSIONS", 0)
    wanted = config(tmp_path, arms=("standard", "gauge"), sesoi=1e-6, **options)
    told = planned_steps(prepare(wanted))
    counted = Steps()
    run(wanted, view=counted, trainer=trainer(EQUALLY_FAST))
    assert list(told) == list(counted.found)
    if EQUAL_TIME in told:  # as many steps as the seconds pay for, which nobody knows beforehand
        assert told.pop(EQUAL_TIME).keys() == counted.found.pop(EQUAL_TIME).keys()
    assert {name: dict(steps) for name, steps in told.items()} == {
        name: dict(steps) for name, steps in counted.found.items()
    }
