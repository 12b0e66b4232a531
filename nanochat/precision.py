"""Where and in which number format a run computes: device, bf16 autocast, ``torch.compile``, threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import torch

from nanochat.config import EnvironmentFault, RunConfig

COMPILE_PAYS_AFTER = 2000
"""Steps of a GPU run from which the half minute of compiling is won back."""


@dataclass(frozen=True, slots=True)
class Precision:
    """The resolved choices; ``reason`` says which rule made them.

    Args:
        device: `cpu` or `cuda:N`.
        dtype: of matrix products; weights and optimizer state stay fp32.
        compile: whether the model is compiled.
        threads: CPU threads.
    """

    device: str
    dtype: str
    compile: bool
    threads: int
    reason: str

    @property
    def torch_device(self) -> torch.device:
        return torch.device(self.device)

    def autocast(self) -> AbstractContextManager[Any]:
        """Context of forward passes."""
        if self.dtype == "float32":
            return nullcontext()
        return torch.autocast(self.torch_device.type, dtype=torch.bfloat16)

    def record(self) -> dict[str, Any]:
        """For ``env.json``."""
        return asdict(self)


def resolve(config: RunConfig, steps: int, local_rank: int = 0) -> Precision:
    """What `auto` means on this machine.

    On a CPU `auto` is eager fp32: the bits then depend on nothing but the thread count, and the models that a CPU
    trains are too small to win the compile time back. On a GPU that computes in bf16 it is bf16, compiled when the run
    is long.

    Raises:
        EnvironmentFault: the device or its bf16 is not there.
    """
    train = config.train
    device = _device(train.device, local_rank)
    gpu = device.type == "cuda"
    dtype, reason = train.dtype, "as asked"
    if dtype == "auto":
        dtype = "bfloat16" if gpu and torch.cuda.is_bf16_supported() else "float32"
        reason = "auto: bf16 on a GPU that has it, fp32 on a CPU"
    compiled = train.compile if train.compile is not None else gpu and steps >= COMPILE_PAYS_AFTER
    return Precision(str(device), dtype, compiled, train.threads or torch.get_num_threads(), reason)


def _device(name: str, local_rank: int) -> torch.device:
    available = torch.cuda.is_available()
    if name == "auto":
        name = "cuda" if available else "cpu"
    if name == "cpu":
        return torch.device("cpu")
    if not available:
        raise EnvironmentFault(f"--device: got {name}, need a CUDA device; this machine has none (--device cpu works)")
    index = int(name.partition(":")[2] or local_rank)
    if index >= torch.cuda.device_count():
        raise EnvironmentFault(
            f"--device: got {name}, need one of cuda:0 to cuda:{torch.cuda.device_count() - 1} on this machine"
        )
    return torch.device("cuda", index)


@contextmanager
def machine(precision: Precision, seed: int) -> Iterator[None]:
    """Threads and random state of a run; both are as before when it ends."""
    threads = torch.get_num_threads()
    device = precision.torch_device
    devices = [device.index] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.set_num_threads(precision.threads)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


def random_state(device: torch.device) -> dict[str, torch.Tensor]:
    """The state of the generators that a run may draw from."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: dict[str, torch.Tensor], device: torch.device) -> None:
    """Take up a state that :func:`random_state` gave."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)
