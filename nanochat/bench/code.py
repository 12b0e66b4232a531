"""Which source files can change a run's numbers, and one hash of them.

The set is found by following imports from the trainer and from the mechanisms that the run uses, so that an edit to a
page, to this engine or to another mechanism does not throw finished runs away. Nor does one to a comment or docstring.
"""

from __future__ import annotations

import ast
import hashlib
import io
import tokenize
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "nanochat"
ENGINE = "nanochat.bench"
NATIVE = ("*.cpp", "*.h", "*.cu")


def code_hash(entries: Iterable[str]) -> str:
    """SHA-256 over the names and statements of every file that ``entries`` (dotted module names) lead to."""
    return _hash(source_files(tuple(sorted(set(entries)))), ROOT)


@cache
def engine_hash() -> str:
    """SHA-256 over the names and statements of this engine's own files: what a self-test's result belongs to."""
    folder = Path(__file__).resolve().parent
    return _hash(sorted(folder.rglob("*.py")), folder)


def _hash(paths: Iterable[Path], root: Path) -> str:
    digest = hashlib.sha256()
    for path in paths:
        content = _statements(path.read_text(encoding="utf-8")).encode() if path.suffix == ".py" else path.read_bytes()
        digest.update(f"{path.relative_to(root).as_posix()}\x00{len(content)}\x00".encode())
        digest.update(content)
    return digest.hexdigest()


def _statements(source: str) -> str:
    """Source without comments and docstrings, by their places in it: tokens and trees differ between Pythons."""
    lines = source.splitlines()
    for (row, left), (last, right) in reversed(list(_remarks(source))):
        rest = (lines[row - 1][:left] + lines[last - 1][right:]).rstrip()
        lines[row - 1 : last] = [rest] if rest else []
    return "\n".join(lines)


def _remarks(source: str) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Start and end, as (line from 1, column), of every comment and of every string that is a statement."""
    tokens = [token for token in tokenize.generate_tokens(io.StringIO(source).readline) if token.type != tokenize.NL]
    fresh = {tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.COMMENT}
    for place, token in enumerate(tokens):
        starts = place == 0 or tokens[place - 1].type in fresh
        if token.type == tokenize.COMMENT or (
            token.type == tokenize.STRING and starts and tokens[place + 1].type in (tokenize.NEWLINE, tokenize.COMMENT)
        ):
            yield token.start, token.end


@cache
def source_files(entries: tuple[str, ...]) -> tuple[Path, ...]:
    """The transitive set of the package's own files, native sources beside them included, in path order."""
    queue, seen = list(entries), set[Path]()
    while queue:
        module = queue.pop()
        path = _file_of(module)
        if path is None or path in seen or module == ENGINE or module.startswith(ENGINE + "."):
            continue
        seen.add(path)
        queue += [".".join(module.split(".")[:depth]) for depth in range(1, module.count(".") + 1)]
        queue += _imports(path)
    native = {other for path in seen for pattern in NATIVE for other in path.parent.glob(pattern)}
    return tuple(sorted(seen | native))


def _file_of(module: str) -> Path | None:
    """The file of one of the package's modules, or None for a name that is no module (a class, another package)."""
    head, *rest = module.split(".")
    if head != PACKAGE:
        return None
    base = ROOT.joinpath(*rest)
    candidates = (base.with_suffix(".py"), base / "__init__.py") if rest else (base / "__init__.py",)
    return next((path for path in candidates if path.is_file()), None)


def _imports(path: Path) -> list[str]:
    """Dotted names that a file imports anywhere, functions included; ``from a import b`` gives a and a.b."""
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names += [node.module] + [f"{node.module}.{alias.name}" for alias in node.names]
    return names
