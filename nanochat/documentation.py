"""The pages as a site: built by mkdocs, shown by a small server; a page loads nothing from outside of the site.

Configuration, styles and what mkdocs does not do by itself are in ``markdown_documentation/site``.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from pathlib import Path
from typing import Any

from nanochat.config import ConfigError, EnvironmentFault

CONFIGURATION = Path(__file__).resolve().parents[1] / "markdown_documentation" / "site" / "mkdocs.yml"
NEEDED = ("mkdocs-material", "django-static-mathjax")
"""Distributions of the extra ``docs``: generator with theme; MathJax as files."""

RECEIPT = ".built.json"
"""Marks a folder as ours, and says what was built; hidden, so that mkdocs leaves it where it empties the folder."""


@dataclass(frozen=True, slots=True)
class Site:
    """A built site.

    Args:
        folder: where it lies.
        pages: its pages, relative to ``folder``.
        bytes: size of all files.
        seconds: wall time of the build.
        warnings: what mkdocs complained about, dead links and pages without a place in the navigation included.
    """

    folder: Path
    pages: tuple[str, ...]
    bytes: int
    seconds: float
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values under the schema ``mgr.docs.v1``."""
        return {"schema": "mgr.docs.v1", **asdict(self), "folder": str(self.folder)}


def check() -> None:
    """Raise :class:`EnvironmentFault` where the pages or the packages that build them are missing."""
    if not CONFIGURATION.exists():
        raise EnvironmentFault(f"no pages at {CONFIGURATION.parents[1]}: need a clone of the repository")
    missing = [name for name in NEEDED if not list(metadata.distributions(name=name))]
    if missing:
        raise EnvironmentFault(f"missing {', '.join(missing)}: need the extra docs, pip install -e '.[docs]'")


def build(folder: Path) -> Site:
    """Build the site into ``folder``, which is new, empty, or holds a site built before.

    Raises:
        ConfigError: ``folder`` is a file, lies among the pages, or holds something else, which a build would delete.
        EnvironmentFault: the extra ``docs`` is not installed, or the folder cannot be written.
    """
    check()
    _prepare(folder)
    start = time.perf_counter()
    command = [sys.executable, "-m", "mkdocs", "build", "--clean"]
    command += ["--config-file", str(CONFIGURATION), "--site-dir", str(folder.resolve())]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip() or f"exit status {done.returncode}").splitlines()[-1]
        raise EnvironmentFault(f"mkdocs could not build the site: {reason}")
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != RECEIPT]
    pages = {path.relative_to(folder).as_posix() for path in files if path.suffix == ".html"} - {"404.html"}
    site = Site(
        folder=folder,
        pages=tuple(sorted(pages)),
        bytes=sum(path.stat().st_size for path in files),
        seconds=time.perf_counter() - start,
        warnings=tuple(
            line.partition("-")[2].strip() for line in done.stderr.splitlines() if line.startswith("WARNING")
        ),
    )
    (folder / RECEIPT).write_text(json.dumps(site.to_json(), indent=1), encoding="utf-8")
    return site


def _prepare(folder: Path) -> None:
    """Refuse to build over what is not ours, or among the pages."""
    if folder.resolve().is_relative_to(CONFIGURATION.parents[1]):
        raise ConfigError([f"--build: got {folder} among the pages themselves, need a folder outside of them"])
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()) and not (folder / RECEIPT).is_file():
            raise ConfigError([f"--build: got {folder} with other files in it, need a new or empty folder"])
        (folder / RECEIPT).touch()
    except (FileExistsError, NotADirectoryError) as error:
        raise ConfigError([f"--build: got {folder}, a file or inside of one, need a folder"]) from error
    except OSError as error:
        raise EnvironmentFault(f"--build: cannot write {folder}: {error.strerror}") from error


class Server(ThreadingHTTPServer):
    """Serves one folder to this machine alone, until interrupted."""

    daemon_threads = True

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        super().__init__(("127.0.0.1", port), partial(Handler, directory=str(folder)))

    @property
    def address(self) -> str:
        """What to type into a browser."""
        return f"http://127.0.0.1:{self.server_port}/"

    def run(self) -> None:
        """Answer until Ctrl-C, which is how a server ends."""
        with contextlib.suppress(KeyboardInterrupt):
            self.serve_forever()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that went away in the middle of an answer is no news."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class Handler(SimpleHTTPRequestHandler):
    """Files, without a line of log for each."""

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@contextlib.contextmanager
def listening(port: int) -> Iterator[Server]:
    """A server of an empty temporary folder, its port taken before anything is built; port 0 is any free one.

    Raises:
        EnvironmentFault: another program has the port, or this user may not have it.
    """
    with tempfile.TemporaryDirectory(prefix="mgr-docs-") as name:
        try:
            server = Server(Path(name), port)
        except OSError as error:
            reason = f"--port: cannot listen on {port}: {error.strerror}; --port 0 takes any free one"
            raise EnvironmentFault(reason) from error
        with server:
            yield server
