"""Named corpora from the dataset hub, as Parquet shards, only when they are asked for.

A shard is written to ``NAME.part``, continued by HTTP range after any interruption, checked (length, SHA-256 where the
server tells it, Parquet frame) and only then renamed; ``NAME.json`` beside it keeps its SHA-256.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import shutil
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanochat.config import ConfigError, DataConfig, EnvironmentFault
from nanochat.data import store
from nanochat.data.sources import Listing, listing, path_files

_HUB = "https://huggingface.co/datasets"
_STORIES = ("2d5a1467fff1081b", "5852b56a2bd28fd9", "a26307300439e943", "d243063613e5a057")

SHARDS: dict[str, tuple[str, ...]] = {
    "fineweb-edu": tuple(
        f"{_HUB}/HuggingFaceFW/fineweb-edu/resolve/main/sample/10BT/{index:03d}_00000.parquet" for index in range(14)
    ),
    "tinystories": tuple(
        f"{_HUB}/roneneldan/TinyStories/resolve/main/data/train-{index:05d}-of-00004-{name}.parquet"
        for index, name in enumerate(_STORIES)
    ),
}
"""Every shard of every named corpus."""

_CHUNK = 1 << 18
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Patience:
    """How long a server may say nothing. The defaults give up within 20 s where there is no network.

    Args:
        timeout: seconds that one connection may be silent.
        silence: seconds without anything new, over all tries, after which they end.
        tries: failed tries in a row, without anything new, after which they end.
        wait: seconds before the second try; doubles with each further one.
        limit: tries in all, with or without anything new.
    """

    timeout: float = 6.0
    silence: float = 15.0
    tries: int = 6
    wait: float = 0.5
    limit: int = 100


class _Retry(Exception):
    """This try failed; the message says how."""


class _Mismatch(_Retry):
    """What has arrived does not belong to what the server has now."""


def download(
    data: DataConfig, folder: Path, report: Callable[[str], None], patience: Patience | None = None
) -> Listing:
    """The first ``data.shards`` shards of a named corpus, from the disk where they are there already.

    Raises:
        ConfigError: more shards than there are.
        EnvironmentFault: they cannot be had now; what has arrived is kept.
    """
    urls = SHARDS[data.data]
    if data.shards > len(urls):
        raise ConfigError([f"--shards: got {data.shards}, need at most {len(urls)} for --data {data.data}"])
    files = []
    for url in urls[: data.shards]:
        path = folder / data.data / url.rsplit("/", 1)[1]
        with store.locked(path.with_suffix(".lock")):
            if not _is_complete(path, url):
                report(f"downloading {url}")
                fetch(url, path, patience or Patience())
        files += path_files(path)
    return listing("files", data.data, files, extra=data.text_field)


def _is_complete(path: Path, url: str) -> bool:
    note = store.read_json(path.with_suffix(".json"))
    return isinstance(note, dict) and note.get("url") == url and path.exists() and path.stat().st_size == note["bytes"]


def fetch(url: str, path: Path, patience: Patience) -> None:
    """Download one Parquet file to ``path``, trying again while there is reason to.

    Raises:
        EnvironmentFault: ``patience`` has ended, or the server refuses.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    best, failures, last_news = _size(part), 0, time.monotonic()
    for attempt in range(1, patience.limit + 1):
        try:
            left = patience.silence - (time.monotonic() - last_news)
            digest = _attempt(url, part, min(patience.timeout, max(left, 0.1)))
        except (OSError, http.client.HTTPException, _Retry) as error:
            if not isinstance(error, urllib.error.URLError) and getattr(error, "errno", None) in store.DISK:
                raise  # this disk, not the far end
            reason = str(getattr(error, "reason", error)) or type(error).__name__
        else:
            _keep(part, path, {"url": url, "bytes": _size(part), "sha256": digest})
            return
        failures += 1
        if _size(part) > best:
            best, failures, last_news = _size(part), 1, time.monotonic()
        pause = patience.wait * 2 ** (failures - 1)
        ended = failures >= patience.tries or time.monotonic() + pause - last_news > patience.silence
        if ended or attempt == patience.limit:
            raise EnvironmentFault(
                f"{url}: got {reason} in {attempt} tries, need a network that reaches it; "
                f"{_size(part)} bytes are kept and the next run goes on from there"
            )
        time.sleep(pause)


def _keep(part: Path, path: Path, note: dict[str, Any]) -> None:
    os.replace(part, path)
    _note(part).unlink()
    store.write_json(path.with_suffix(".json"), note)


def _attempt(url: str, part: Path, timeout: float) -> str:
    """Continue or begin the download; returns the SHA-256 of the whole file."""
    have, tag = _size(part), _tag(part)
    headers = {"User-Agent": "model-guided-research", "Accept-Encoding": "identity"}
    if have and tag:
        headers |= {"Range": f"bytes={have}-", "If-Range": f'"{tag}"'}
    try:
        response, linked = _open(urllib.request.Request(url, headers=headers), timeout)
    except _Mismatch:
        part.unlink(missing_ok=True)
        raise
    with response:
        tag = linked or _bare(response.headers.get("ETag"))
        size = _expected_size(response, have)
        if response.status != 206:
            have = 0
        store.write_json(_note(part), {"etag": _bare(response.headers.get("ETag"))})
        free = shutil.disk_usage(part.parent).free
        if size is not None and size - have > free:
            raise EnvironmentFault(f"{url}: got {free} bytes free in {part.parent}, need {size - have}")
        with open(part, "r+b" if have else "wb") as stream:
            stream.seek(have)
            while chunk := response.read1(_CHUNK):  # what is there, so that a time-out loses nothing
                stream.write(chunk)
    if size is not None and _size(part) != size:
        raise _Retry(f"{_size(part)} of {size} bytes")
    return _checked(part, tag)


def _checked(part: Path, tag: str) -> str:
    """The SHA-256 of a complete file; a file that is not what it should be is removed."""
    import pyarrow
    from pyarrow import parquet

    with open(part, "rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if _SHA256.fullmatch(tag) and tag != digest:
        part.unlink()
        raise _Mismatch(f"a file with SHA-256 {digest[:12]} instead of {tag[:12]}")
    try:
        parquet.read_metadata(part)
    except pyarrow.ArrowInvalid as error:
        part.unlink()
        raise _Mismatch("something that is not a Parquet file") from error
    return digest


def _expected_size(response: Any, have: int) -> int | None:
    """Length of the whole file as the server tells it."""
    if response.status == 206:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
        if match is None or int(match[1]) != have:
            raise _Retry(f"range {response.headers.get('Content-Range')!r} for one from {have} on")
        return int(match[2])
    length = response.headers.get("Content-Length")
    return int(length) if length and length.isdigit() else None


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Notes the SHA-256 that the hub tells when it redirects to the storage server."""

    linked = ""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        self.linked = _bare(headers.get("X-Linked-ETag")) or self.linked
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _open(request: urllib.request.Request, timeout: float) -> tuple[Any, str]:
    """Open in a thread of its own: a name server that does not answer ignores every time-out of the socket."""
    redirects = _Redirects()
    opener = urllib.request.build_opener(redirects)
    outcome: list[Any] = []

    def work() -> None:
        try:
            outcome.append(opener.open(request, timeout=timeout))
        except (OSError, http.client.HTTPException) as error:
            outcome.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(timeout)
    if not outcome:
        raise TimeoutError(f"no answer within {timeout:g} s")
    if isinstance(outcome[0], urllib.error.HTTPError):
        _refuse(request.full_url, outcome[0])
    if isinstance(outcome[0], Exception):
        raise outcome[0]
    return outcome[0], redirects.linked


def _refuse(url: str, error: urllib.error.HTTPError) -> None:
    """Server errors and "later" may pass; anything else will not."""
    error.close()
    if error.code == 416:
        raise _Mismatch("HTTP 416, our part of the file is longer than the server's")
    if error.code < 500 and error.code not in (408, 425, 429):
        raise EnvironmentFault(f"{url}: got HTTP {error.code} {error.reason}, need a file that can be read")
    raise _Retry(f"HTTP {error.code} {error.reason}")


def _bare(tag: str | None) -> str:
    return (tag or "").removeprefix("W/").strip('"')


def _note(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _tag(part: Path) -> str:
    note = store.read_json(_note(part))
    return note.get("etag", "") if isinstance(note, dict) else ""


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
