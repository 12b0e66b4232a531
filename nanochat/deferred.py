"""Modules in two halves: a declaration that is read at once, and a body that waits until it is needed.

One mechanism is one file. Its upper half is plain Python (knobs, constraints, operation counts, the
registry entry) and is all that the command line needs to validate options or print a table in a few
milliseconds. Its lower half begins at the first line ``import torch`` and holds the tensors. Both halves run in
the same module object, so there is one class identity whoever touches it first::

    >>> from nanochat.attention import MIXERS
    >>> MIXERS.get("tropical").title          # torch is not imported yet
    >>> from nanochat.attention.tropical import Tropical   # now it is
"""

from __future__ import annotations

import importlib.util
import sys
import threading
from collections.abc import Callable
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType

HEAVY = "\nimport torch"
"""Where the lower half begins: the first unindented line that starts so (a test holds files to it)."""


class DeferredLoader(SourceFileLoader):
    """Runs the upper half on import and the lower half on the first use of a name that the upper half lacks."""

    def get_code(self, fullname: str) -> CodeType | None:
        """The whole file, for tools (coverage, ``runpy``) that ask."""
        return super().get_code(fullname)

    def exec_module(self, module: ModuleType) -> None:
        source = self.get_source(module.__name__) or ""
        upper, marker, lower = source.partition(HEAVY)
        exec(compile(upper, self.path, "exec", dont_inherit=True), module.__dict__)
        if marker:
            # Blank lines keep the line numbers of tracebacks, coverage and torch.compile true.
            padded = "\n" * upper.count("\n") + marker + lower
            future = "from __future__ import annotations" if "from __future__ import annotations" in upper else ""
            _defer(module, lambda: compile(future + padded, self.path, "exec", dont_inherit=True))


def _defer(module: ModuleType, body: Callable[[], CodeType]) -> None:
    lock = threading.RLock()
    running = False

    def load_attribute(name: str) -> object:
        nonlocal running
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")
        with lock:
            if "__getattr__" in module.__dict__ and not running:
                running = True
                try:
                    exec(body(), module.__dict__)
                    del module.__dict__["__getattr__"]
                finally:
                    running = False
        if name not in module.__dict__:
            raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")
        return module.__dict__[name]

    module.__dict__["__getattr__"] = load_attribute


def declare(package: str, folder: Path) -> list[ModuleType]:
    """Read the upper half of every mechanism file of a package, in name order.

    Args:
        package: dotted name, for instance ``nanochat.attention``.
        folder: where its files lie; those that start with ``_`` and ``registry.py``, ``heads.py`` are not mechanisms.
    """
    modules = []
    for path in sorted(folder.glob("*.py")):
        if path.stem.startswith("_") or path.stem in ("registry", "heads"):
            continue
        modules.append(_declare_file(f"{package}.{path.stem}", path))
    return modules


def _declare_file(name: str, path: Path) -> ModuleType:
    if name in sys.modules:
        return sys.modules[name]
    loader = DeferredLoader(name, str(path))
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    assert isinstance(spec, ModuleSpec)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    setattr(sys.modules[name.rpartition(".")[0]], path.stem, module)
    return module
