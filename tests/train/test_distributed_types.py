"""Two processes take the steps of one, whatever the attention type: one launch trains them all."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import two_processes

from nanochat.architecture import attention_types
from nanochat.distributed import World

LAUNCHER = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")


@pytest.fixture(scope="module")
def together(tmp_path_factory) -> dict[str, Any]:
    """What two gloo processes saw, by name; and the threads of one."""
    file = tmp_path_factory.mktemp("two") / "traces.json"
    names = [*attention_types(), two_processes.UNSHARED]
    done = subprocess.run(
        [*LAUNCHER, str(Path(two_processes.__file__)), str(file), *names], capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr
    return json.loads(file.read_text())


def apart(name: str, together: dict[str, Any]) -> float:
    """Largest difference of a loss or a weight's magnitude."""
    alone = two_processes.trace(name, World())
    return max(abs(one - other) for one, other in zip(alone, together[name], strict=True))


@pytest.mark.parametrize("name", attention_types())
def test_two_processes_take_the_steps_of_one(name, together):
    losses = together[name][: two_processes.STEPS]
    assert apart(name, together) < 1e-5
    assert len(set(losses)) == len(losses)  # it did move


def test_gradients_that_are_not_shared_are_noticed(together):
    assert apart(two_processes.UNSHARED, together) > 1e-4


@pytest.mark.skipif(sys.platform != "linux", reason="names of threads are read from /proc")
def test_no_thread_of_the_group_outlives_it(together):
    """One that drops a tensor while the interpreter shuts down aborts the process."""
    assert any("gloo" in name for name in together["threads inside"])
    assert not [name for name in together[two_processes.THREADS] if "gloo" in name or name.startswith("pt_")]
