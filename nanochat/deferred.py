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
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import decode_source
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

HEAVY = "\nimport torch"
"""Where the lower half begins: the first unindented line that starts so (a test holds files to it)."""

FUTURE = "from __future__ import annotations"


class DeferredLoader(SourceFileLoader):
    """Runs the upper half on import and the lower half on the first use of a name that the upper half lacks.

    The code object of a file is that of its upper half with that of the lower half as its last constant, so that
    Python's own bytecode cache keeps both and discards them when the file changes. Where Python writes no bytecode, the
    constant is the source of the lower half: compiling what nobody may ask for would cost every start.
    """

    def source_to_code(self, data: Any, path: Any, *, _optimize: int = -1) -> CodeType:
        upper, marker, lower = decode_source(data).partition(HEAVY)
        # Blank lines keep the line numbers of tracebacks, coverage and torch.compile true.
        future = FUTURE if FUTURE in upper else ""
        padded = future + "\n" * upper.count("\n") + marker + lower
        code = compile(upper, path, "exec", dont_inherit=True, optimize=_optimize)
        body: CodeType | str | None = padded if marker else None
        if marker and not sys.dont_write_bytecode:
            body = compile(padded, path, "exec", dont_inherit=True, optimize=_optimize)
        return code.replace(co_consts=(*code.co_consts, body))

    def get_data(self, path: Any) -> bytes:
        return super().get_data(_own_cache(path))

    def set_data(self, path: Any, data: Any, *, _mode: int = 0o666) -> None:
        super().set_data(_own_cache(path), data, _mode=_mode)

    def exec_module(self, module: ModuleType) -> None:
        code = self.get_code(module.__name__)
        assert code is not None
        exec(code, module.__dict__)
        if code.co_consts[-1] is not None:
            _defer(module, code.co_consts[-1], self.path)


def _own_cache(path: str) -> str:
    """Cached halves have a name of their own: an installer's ``compileall`` writes the plain one, of the whole file."""
    return path.removesuffix(".pyc") + ".halves.pyc" if path.endswith(".pyc") else path


def _defer(module: ModuleType, body: CodeType | str, path: str) -> None:
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
                    code = compile(body, path, "exec", dont_inherit=True) if isinstance(body, str) else body
                    exec(code, module.__dict__)
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
