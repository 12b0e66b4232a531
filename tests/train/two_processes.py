"""Steps of attention types in one process, or in those of the launcher; ``test_distributed_types.py`` compares them.

Run: ``python -m torch.distributed.run --standalone --nproc_per_node=2 tests/train/two_processes.py FILE NAME...``
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nanochat import optim, schedule
from nanochat.config import GPTConfig, OptimConfig
from nanochat.distributed import World, group, world
from nanochat.gpt import GPT
from nanochat.precision import Precision
from nanochat.step import Step

STEPS, BATCH, LENGTH, V = 4, 4, 17, 50
UNSHARED = "unshared"
"""Name of the negative control: the baseline whose gradients stay with their process."""
THREADS = "threads"
"""Name under which the threads stand that outlive the group."""
KEPT: list[nn.Module] = []
"""Wrapped models, as a caller of the training loop may keep them."""


def batch(number: int, place: World) -> tuple[Tensor, Tensor]:
    """This process's rows of a global batch."""
    drawn = torch.randint(V, (BATCH, LENGTH + 1), generator=torch.Generator().manual_seed(number))
    rows = drawn[place.rank :: place.size]
    return rows[:, :-1], rows[:, 1:]


def trace(name: str, place: World) -> list[float]:
    """Loss of every step over all processes, then the sum of every weight's magnitude."""
    kind = "standard" if name == UNSHARED else name
    sizes: dict[str, Any] = {"n_layer": 2, "n_head": 4, "n_kv_head": 2, "n_embd": 32, "vocab_size": V}
    model, settings = GPT(GPTConfig(attention_type=kind, sequence_len=LENGTH, **sizes)), OptimConfig(warmup_steps=0)
    shared: nn.Module = model if name == UNSHARED else place.wrap(model)
    KEPT.append(shared)
    plain = Precision("cpu", "float32", compile=False, threads=1, reason="small")
    stepper, rate = optim.build(model, settings), schedule.build(settings, STEPS)
    step = Step(model, shared, stepper, rate, grad_clip=settings.grad_clip, precision=plain, world=place)
    losses = [step(*batch(number, place)).loss.item() for number in range(STEPS)]
    return losses + [parameter.detach().double().abs().mean().item() for parameter in model.parameters()]


def traces(names: list[str], place: World) -> dict[str, list[float]]:
    return {name: trace(name, place) for name in names}


def threads() -> list[str]:
    """Names of this process's threads, those of libraries among them."""
    return sorted(file.read_text().strip() for file in Path("/proc/self/task").glob("*/comm"))


def main() -> None:
    torch.set_num_threads(1)
    place = world()
    with group(place, torch.device("cpu")):
        found: dict[str, object] = {**traces(sys.argv[2:], place), f"{THREADS} inside": threads()}
    found[THREADS] = threads()
    if place.writes:
        Path(sys.argv[1]).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
