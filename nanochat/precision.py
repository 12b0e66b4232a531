"""Where and in which number format a run computes: device, bf16 autocast, ``torch.compile``, threads."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch.utils.cpp_extension import get_cxx_compiler

from nanochat.config import EnvironmentFault, RunConfig
from nanochat.flops import ledger

BF16_PAYS_FROM = 256
"""Model width from which bf16 products pay on a CPU that has them: 1.7 times the speed of fp32 at 256, 1.0 at 128."""

COMPILE_PAYS_FROM = {"cpu": 5e13, "cuda": 1e15}
"""Operations of a run from which the half minute of compiling is won back many times. Measured on the CPU: 1.2 times
the eager speed in fp32, 1.4 to 1.5 in bf16, at about 1e11 operations per second. On a GPU this is an assumption."""

SHARED_FROM = 3e8
"""Operations of a step from which CPU threads share it: at 1.2e8, two threads take 1.25 times as long as one."""


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
    """What `auto` means on this machine, by measurement (``markdown_documentation/LOG.md``, 2026-11-23).

    Everything that is chosen here is a function of the configuration, the machine and the length of the run, so that a
    resumed run computes as it began.

    Raises:
        EnvironmentFault: the device or its bf16 is not there.
    """
    train = config.train
    device = _device(train.device, local_rank)
    dtype, reason = train.dtype, "as asked"
    if dtype == "auto":
        narrow = config.model.n_embd < BF16_PAYS_FROM
        pays = torch.cuda.is_bf16_supported() if device.type == "cuda" else _cpu_has_bf16() and not narrow
        dtype = "bfloat16" if pays else "float32"
        reason = f"auto: {dtype} pays on this {device.type} at {config.model.n_embd} channels"
    step = ledger(config.model, optim=config.optim).step_flops(train.batch_size)
    compiled = train.compile
    if compiled is None:
        compiled = step * steps >= COMPILE_PAYS_FROM[device.type] and _can_compile(device)
        reason += f"; {'compiled' if compiled else 'eager'}: {step * steps:.2g} operations in all"
    threads = train.threads or (torch.get_num_threads() if step >= SHARED_FROM else 1)
    return Precision(str(device), dtype, compiled, threads, reason)


def _cpu_has_bf16() -> bool:
    """Whether the processor multiplies bf16 in hardware; elsewhere it is emulated and slower than fp32."""
    has = torch.cpu.get_capabilities()
    return bool(has.get("avx512_bf16") or has.get("amx_bf16"))


def _can_compile(device: torch.device) -> bool:
    """Inductor writes C++ for a CPU and needs a compiler; on a GPU it brings its own."""
    return device.type == "cuda" or shutil.which(get_cxx_compiler()) is not None


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
