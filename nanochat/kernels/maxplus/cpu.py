"""The C++ max-plus kernel, built on first use: :mod:`nanochat.kernels.native`."""

from __future__ import annotations

from pathlib import Path

from nanochat.kernels.native import Kernel, KernelUnavailable

__all__ = ["KERNEL", "KernelUnavailable", "available", "reason", "require"]

KERNEL = Kernel(Path(__file__).with_name("cpu.cpp"), "maxplus", "max-plus kernel", "PyTorch tiles")
available, reason, require = KERNEL.available, KERNEL.reason, KERNEL.require
