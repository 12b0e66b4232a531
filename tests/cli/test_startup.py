"""Help, lists and usage errors answer at once: they import no framework and little else."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = ["torch", "jax", "jaxlib", "flax", "optax", "numpy", "scipy", "matplotlib", "pyarrow"]
QUICK = {
    "help": (["--help"], 0),
    "no command": ([], 0),
    "version": (["--version"], 0),
    "list": (["list"], 0),
    "list as JSON": (["list", "--json"], 0),
    "help of run": (["run", "--help"], 0),
    "help of run-all": (["run-all", "--help"], 0),
    "info of a demo": (["info", "octonion"], 0),
    "info of an optimizer": (["info", "nonstandard"], 0),
    "help of bench": (["bench-fixed-flops", "--help"], 0),
    "unknown command": (["lst"], 2),
    "unknown option": (["list", "--jsn"], 2),
    "missing argument": (["run"], 2),
    "unknown demo": (["run", "trpical"], 2),
    "unknown name": (["info", "adamv"], 2),
    "not a number": (["bench-fixed-flops", "--seeds", "many"], 2),
    "bad value": (["bench-fixed-flops", "--alpha", "2"], 2),
    "unknown preset": (["bench-fixed-flops", "--preset", "quik"], 2),
    "unknown arm": (["bench-fixed-flops", "-a", "tropcal"], 2),
}
PROGRAM = """
import json, sys
import cli
code = cli.execute(sys.argv[1:])
files = [getattr(module, "__file__", None) or "" for module in sys.modules.values()]
foreign = {{name.split(".")[0] for name, file in zip(sys.modules, files) if "site-packages" in file}}
found = [code, sorted(set({heavy}) & set(sys.modules)), sorted(foreign), len(sys.modules)]
print(json.dumps(found), file=sys.stderr)
"""
LIGHT = {"typer", "click", "annotated_doc", "shellingham", "typing_extensions", "colorama", "_distutils_hack"}
"""Typer and what it needs; the last is setuptools', in every environment that has it."""
FEW = {"help": 190, "list": 250, "unknown command": 190, "unknown demo": 190, "unknown arm": 260}
"""Modules, those of the standard library included: 160 to 216 on Python 3.11. Seconds: ``benchmarks/startup.py``."""


def imported(arguments: list[str]) -> tuple[int, list[str], list[str], int]:
    """Exit code, heavy packages, packages that are not ours or Python's, and modules of one ``mgr``."""
    command = [sys.executable, "-c", PROGRAM.format(heavy=HEAVY), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return tuple(json.loads(done.stderr.splitlines()[-1]))


@pytest.mark.parametrize(("arguments", "code"), QUICK.values(), ids=QUICK.keys())
def test_imports_no_framework(arguments: list[str], code: int) -> None:
    assert imported(arguments)[:2] == (code, [])


@pytest.mark.parametrize("name", FEW)
def test_imports_little(name: str) -> None:
    _, _, foreign, modules = imported(QUICK[name][0])
    assert set(foreign) <= LIGHT
    assert modules <= FEW[name]


def test_what_is_imported_is_seen() -> None:
    program = PROGRAM.format(heavy=HEAVY).replace("import cli\n", "import cli, numpy, rich.table\n", 1)
    done = subprocess.run([sys.executable, "-c", program, "--version"], capture_output=True, text=True, timeout=60)
    code, heavy, foreign, modules = json.loads(done.stderr.splitlines()[-1])
    assert (code, heavy) == (0, ["numpy"]) and {"numpy", "rich"} <= set(foreign) and modules > max(FEW.values())
