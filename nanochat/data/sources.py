"""Where text comes from: the running interpreter, the user's files, a downloaded corpus.

A source is a :class:`Listing` (which files, their sizes and times: cheap, read at every start) and a stream of
:class:`Piece` (the text itself: read once, then cached under its content hash).

What is done to text, and what is not:

* It must be UTF-8. A file with undecodable bytes is refused by name, not repaired: silent replacement would change
  the bytes that bits-per-byte divides by. (The standard library's few files with another declared encoding are
  decoded by their declaration.)
* ``\\r\\n`` and ``\\r`` become ``\\n`` and a leading byte-order mark goes. Unicode is *not* normalised (no NFC):
  identifiers, test data and combining marks mean what their bytes say.
* A document longer than :data:`PIECE_BYTES` is cut, at the last line end if there is one and else between two
  characters, so that memory stays bounded whatever the input. Pieces of one file stay on one side of the split.
* A corpus of fewer than :data:`FEW_FILES` text files is cut into short pieces that are split one by one; a single
  file would otherwise have nothing left to hold out.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import BuiltinFunctionType

from nanochat.config import ConfigError, DataConfig
from nanochat.registry import unknown

PIECE_BYTES = 1 << 20
"""Longest document, bytes."""

FEW_FILES = 20
"""Below this many text files, documents are pieces of files rather than files."""

LINE_BYTES = 1 << 26
"""Longest line of a .jsonl file that is parsed, bytes; a JSON value cannot be read in parts."""

ENOUGH_BYTES = 10_000_000
"""Standard-library text without its tests; with less, the tests are read too."""

TEXT = (".txt", ".md", ".py")
ROWS = (".jsonl", ".parquet")
REMOTE = ("fineweb-edu", "tinystories")
NAMES = ("python", *REMOTE)

PROSE = 2
"""Edition of :func:`_python_prose`: another one makes another corpus."""

_BUILTINS = ("builtins", "errno", "gc", "itertools", "marshal", "math", "operator", "sys", "time")
_TESTS = ("test", "tests", "idle_test")
_FOREIGN = ("site-packages", "dist-packages", "__pycache__")


@dataclass(frozen=True, slots=True)
class File:
    """One input file: its name within the corpus, and what changes when it is edited."""

    path: Path
    name: str
    size: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class Piece:
    """One document. Those with the same ``group`` were one file: they share its side of the split."""

    name: str
    group: str
    text: bytes


@dataclass(frozen=True, slots=True)
class Listing:
    """Which files make up a corpus; ``key`` changes when any of them is added, removed or touched.

    ``kind`` is ``python`` or ``files``, ``source`` the name that the user gave.
    """

    kind: str
    source: str
    files: tuple[File, ...]
    key: str


def local_listing(data: DataConfig) -> Listing:
    """The files of ``python`` or of the user's path; a remote corpus is downloaded first, see ``download.py``."""
    if data.data == "python":
        return listing("python", data.data, python_files(), extra=f"{sys.version}\0{PROSE}")
    path = Path(data.data).expanduser()
    if not path.exists():
        raise ConfigError([unknown("--data", data.data, list(NAMES)) + ", or an existing file or folder"])
    return listing("files", data.data, path_files(path), extra=data.text_field)


def listing(kind: str, source: str, files: list[File], extra: str) -> Listing:
    """A listing with its key: SHA-256 of every name, size and time, and of ``extra``."""
    digest = hashlib.sha256(f"{kind}\0{extra}".encode())
    for file in files:
        digest.update(f"\n{file.path}\0{file.name}\0{file.size}\0{file.mtime_ns}".encode("utf-8", "surrogateescape"))
    return Listing(kind, source, tuple(files), digest.hexdigest())


def path_files(path: Path) -> list[File]:
    """The readable files of a folder, sorted by name, or the one file given; hidden ones are left out."""
    kinds = (*TEXT, *ROWS)
    if path.is_file():
        if path.suffix.lower() not in kinds:
            raise ConfigError([f"--data {path}: got a {path.suffix or 'nameless'} file, need {' '.join(kinds)}"])
        return [_file(path, path.name)]
    files = []
    for folder, folders, names in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if Path(name).suffix.lower() in kinds and not name.startswith("."):
                entry = Path(folder) / name
                files.append(_file(entry, entry.relative_to(path).as_posix()))
    if not files:
        raise ConfigError([f"--data {path}: got a folder without text, need files of {' '.join(kinds)}"])
    return files


def python_files() -> list[File]:
    """The standard library's sources, without its tests if they are not needed (some interpreters lack them)."""
    root = Path(sysconfig.get_path("stdlib"))
    plain, tests = [], []
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if name not in _FOREIGN)
        place = Path(folder).relative_to(root)
        chosen = tests if any(part in _TESTS for part in place.parts) else plain
        chosen += [_file(Path(folder) / name, (place / name).as_posix()) for name in sorted(names) if _is_source(name)]
    if sum(file.size for file in plain) < ENOUGH_BYTES:
        plain += tests
    if not plain:
        raise ConfigError([f"--data python: got no sources in {root}, need --data PATH with text"])
    return plain


def _is_source(name: str) -> bool:
    return name.endswith(".py") and name != "topics.py"


def _file(path: Path, name: str) -> File:
    try:
        status = path.stat()
    except OSError as error:
        raise ConfigError([f"--data {path}: {error.strerror}, need a readable file"]) from error
    return File(path, name, status.st_size, status.st_mtime_ns)


def read(listing: Listing, text_field: str) -> Iterator[Piece]:
    """The documents of a listing, in its order, in bounded memory."""
    if listing.kind == "python":
        yield from _python_prose()
        yield from _python_sources(listing)
        return
    limit, alone = piece_limit(listing)
    for file in listing.files:
        suffix = file.path.suffix.lower()
        try:
            if suffix == ".jsonl":
                yield from _jsonl(file, text_field)
            elif suffix == ".parquet":
                yield from _parquet(file, text_field)
            else:
                yield from _text(file, limit, alone)
        except OSError as error:
            raise ConfigError([f"--data {file.path}: {error.strerror or error}, need a readable file"]) from error


def piece_limit(listing: Listing) -> tuple[int, bool]:
    """Longest document of a text file, bytes, and whether pieces are split one by one because files are too few."""
    sizes = [file.size for file in listing.files if file.path.suffix.lower() in TEXT]
    if len(listing.files) >= FEW_FILES or not sizes:
        return PIECE_BYTES, False
    return min(PIECE_BYTES, max(1024, sum(sizes) // 200)), True


def _python_prose() -> Iterator[Piece]:
    """The language reference that ``help()`` shows, and the docstrings of modules that have no source."""
    from importlib import import_module
    from pydoc_data.topics import topics

    for name in sorted(topics):
        yield from _pieces(f"topics/{name}", topics[name].encode())
    for name in _BUILTINS:
        module = import_module(name)
        # A test runner or a shell puts hooks of its own in here; the originals stay under their other names.
        found = {key: vars(module).get(f"__{key}__", value) for key, value in sorted(vars(module).items())}
        notes = [f"{key}\n{value.__doc__}\n" for key, value in found.items() if _native(key, value)]
        yield from _pieces(f"docstrings/{name}", "\n".join([module.__doc__ or "", *notes]).encode())


def _native(key: str, value: object) -> bool:
    """A documented part of the interpreter under its own name: what is written in Python was put there by someone."""
    own = isinstance(value, BuiltinFunctionType | type) and value.__name__ == key.strip("_")
    return own and isinstance(value.__doc__, str)


def _python_sources(listing: Listing) -> Iterator[Piece]:
    import tokenize

    for file in listing.files:
        try:
            with tokenize.open(file.path) as stream:
                text = stream.read()
        except (SyntaxError, UnicodeDecodeError):  # deliberately broken samples among the library's own tests
            continue
        yield from _pieces(file.name, text.encode())


def _pieces(name: str, text: bytes) -> Iterator[Piece]:
    for index, (_, part) in enumerate(cut(text, PIECE_BYTES)):
        yield Piece(_numbered(name, index), name, normalise(part, name, 0))


def _numbered(name: str, index: int) -> str:
    return f"{name}#{index}" if index else name


def _text(file: File, limit: int, alone: bool) -> Iterator[Piece]:
    if not file.size:
        return
    with open(file.path, "rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as view:
        for index, (offset, part) in enumerate(cut(view, limit)):
            name = _numbered(file.name, index)
            yield Piece(name, name if alone else file.name, normalise(part, str(file.path), offset))


def cut(view: bytes | mmap.mmap, limit: int) -> Iterator[tuple[int, bytes]]:
    """Consecutive (offset, part) of at most ``limit`` bytes that end at a line end, or else between characters."""
    size, start = len(view), 0
    while start < size:
        end = min(start + limit, size)
        if end < size:
            line = view.rfind(b"\n", start + limit // 2, end)
            end = line + 1 if line >= 0 else _between_characters(view, end)
        yield start, view[start:end]
        start = end


def _between_characters(view: bytes | mmap.mmap, end: int) -> int:
    for back in range(4):
        if view[end - back] & 0xC0 != 0x80:
            end -= back
            break
    return end - 1 if view[end - 1 : end + 1] == b"\r\n" else end


def normalise(part: bytes, name: str, offset: int) -> bytes:
    """Line ends as ``\\n``, no byte-order mark; refuses what is not UTF-8."""
    try:
        part.decode()
    except UnicodeDecodeError as error:
        place = f"byte 0x{part[error.start]:02x} at offset {offset + error.start}"
        raise ConfigError([f"--data {name}: got {place}, need UTF-8 text"]) from error
    if not offset:
        part = part.removeprefix(b"\xef\xbb\xbf")
    return part.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def _jsonl(file: File, field: str) -> Iterator[Piece]:
    with open(file.path, "rb") as stream:
        number = 0
        while line := stream.readline(LINE_BYTES + 1):
            number += 1
            where = f"--data {file.path} line {number}"
            if len(line) > LINE_BYTES:
                raise ConfigError([f"{where}: got more than {LINE_BYTES >> 20} MiB, need shorter lines or a .txt file"])
            if line.strip():
                yield from _pieces(f"{file.name}:{number}", _json_text(line, field, where))


def _json_text(line: bytes, field: str, where: str) -> bytes:
    try:
        row = json.loads(line)
    except ValueError as error:  # undecodable bytes raise one too
        raise ConfigError([f"{where}: got {error}, need one JSON object per line"]) from error
    if not isinstance(row, dict) or not isinstance(row.get(field), str):
        got = ", ".join(sorted(row)) if isinstance(row, dict) else type(row).__name__
        raise ConfigError([f"{where}: got {got[:200]}, need text in field {field!r} (--text-field)"])
    return row[field].encode("utf-8", "replace")  # JSON can escape half a surrogate pair, UTF-8 cannot


def _parquet(file: File, field: str) -> Iterator[Piece]:
    import pyarrow
    from pyarrow import parquet

    where = f"--data {file.path}"
    try:
        with parquet.ParquetFile(file.path) as table:
            schema = table.schema_arrow
            if field not in schema.names or not _is_string(schema.field(field).type):
                got = ", ".join(schema.names)
                raise ConfigError([f"{where}: got columns {got[:200]}, need text in column {field!r} (--text-field)"])
            number = 0
            for batch in table.iter_batches(batch_size=256, columns=[field]):
                for text in batch.column(0):
                    number += 1
                    if text.is_valid:
                        yield from _pieces(f"{file.name}:{number}", text.as_py().encode())
    except pyarrow.ArrowInvalid as error:
        raise ConfigError([f"{where}: {str(error).splitlines()[0]}, need a whole Parquet file"]) from error


def _is_string(kind: object) -> bool:
    return str(kind) in ("string", "large_string", "string_view")
