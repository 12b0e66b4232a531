"""The C++ kernel of ball sums, built on first use: :mod:`nanochat.kernels.native`."""

from __future__ import annotations

from pathlib import Path

from nanochat.kernels.native import Kernel, KernelUnavailable

__all__ = ["KERNEL", "KernelUnavailable", "available", "reason", "require"]

KERNEL = Kernel(Path(__file__).with_name("cpu.cpp"), "prefix", "ball sums", "PyTorch blocks")
available, reason, require = KERNEL.available, KERNEL.reason, KERNEL.require
