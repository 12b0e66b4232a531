"""What an answer of ``mgr`` that trains nothing costs, beside a bare interpreter and a bare Typer program.

Run: ``python benchmarks/startup.py [--rounds 15] [--check]``; half a minute. User seconds of whole processes, the
contenders in turn; the least of the rounds is shown, for a neighbour's cache misses count as user time too.
``--check`` ends with 1 where an answer takes 150 ms or more.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BARE = "nothing (bare Python)"
TYPER = "a bare Typer program"
CLI = "import cli; cli.main()"
CONTENDERS: dict[str, tuple[int, tuple[str, ...]]] = {
    BARE: (0, ("pass",)),
    TYPER: (0, ("import typer; app = typer.Typer(); app.command()(lambda: None); app()", "--help")),
    "mgr --help": (0, (CLI, "--help")),
    "mgr list": (0, (CLI, "list")),
    "mgr lst": (2, (CLI, "lst")),
    "mgr run trpical": (2, (CLI, "run", "trpical")),
    "mgr bench-fixed-flops -a tropcal": (2, (CLI, "bench-fixed-flops", "-a", "tropcal")),
}
"""Exit code that each must have, and its words."""
MOST = 0.150
"""User seconds that an answer may take."""


def user_seconds(code: int, words: Sequence[str], bytecode: Path) -> float:
    """User time of one process that finds its bytecode compiled.

    Raises:
        RuntimeError: another exit code; a crash is quick.
    """
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    kept["PYTHONPYCACHEPREFIX"] = str(bytecode)
    command = [sys.executable, "-c", *words]
    process = subprocess.Popen(command, cwd=ROOT, env=kept, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != code:
        raise RuntimeError(f"{' '.join(words)}: got exit code {process.returncode}, need {code}")
    return usage.ru_utime


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="processes of each contender")
    parser.add_argument("--check", action="store_true", help="exit code 1 where an answer is slow")
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        parser.error(f"--rounds: got {options.rounds}, need 1 or more")
    taken: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(options.rounds + 1):
            for name, (code, words) in CONTENDERS.items():
                found = user_seconds(code, words, Path(folder))
                if turn:  # the first start compiles
                    taken[name].append(found)
    least = {name: min(found) for name, found in taken.items()}
    print(f"{'':36}{'user ms':>8}{'x Typer':>9}   least of {options.rounds}, in turn")
    for name, found in least.items():
        print(f"{name:36}{found * 1000:8.0f}{found / least[TYPER]:9.2f}")
    slow = [name for name, found in least.items() if found >= MOST and name.startswith("mgr")]
    for name in slow:
        print(f"slow: {name}: got {least[name] * 1000:.0f} ms, need less than {MOST * 1000:.0f}")
    return 1 if slow and options.check else 0


if __name__ == "__main__":
    sys.exit(main())
