"""The C++ kernel of prefix products and turns, built on first use: :mod:`nanochat.kernels.native`."""

from __future__ import annotations

from pathlib import Path

from nanochat.kernels.native import Kernel, KernelUnavailable

__all__ = ["KERNEL", "KernelUnavailable", "available", "reason", "require"]

KERNEL = Kernel(Path(__file__).with_name("cpu.cpp"), "scan", "prefix kernel", "PyTorch chunks")
available, reason, require = KERNEL.available, KERNEL.reason, KERNEL.require
