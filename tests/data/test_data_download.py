"""Downloads against a local server that behaves as badly as real ones do."""

from __future__ import annotations

import hashlib
import io
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from nanochat.config import ConfigError, DataConfig, EnvironmentFault
from nanochat.data import download as module
from nanochat.data import open_dataset
from nanochat.data.download import Patience, fetch

HASTY = Patience(timeout=0.5, silence=2.0, tries=4, wait=0.02)


def shard(seed: int = 0, rows: int = 400) -> bytes:
    texts = [hashlib.sha256(f"{seed}/{row}".encode()).hexdigest() * 3 for row in range(rows)]
    stream = io.BytesIO()
    parquet.write_table(pyarrow.table({"text": texts}), stream)
    return stream.getvalue()


CONTENT = shard()
SHA = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Site:
    """What the server holds and how it behaves; ``faults`` are used up one per request."""

    content: bytes = CONTENT
    etag: str = f'"{SHA}"'
    faults: list[str] = field(default_factory=list)
    ranges: bool = True
    seen: list[str | None] = field(default_factory=list)
    release: threading.Event = field(default_factory=threading.Event)
    url: str = ""

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        self.seen.append(handler.headers.get("Range"))
        fault = self.faults.pop(0) if self.faults else ""
        if fault.isdigit():
            handler.send_error(int(fault))
        elif fault == "mute":
            self.release.wait(30)
        elif fault == "redirect":
            handler.send_response(302)
            handler.send_header("Location", self.url)
            handler.send_header("X-Linked-ETag", f'"{SHA}"')
            handler.send_header("Content-Length", "0")
            handler.end_headers()
        else:
            self._send(handler, fault)

    def _send(self, handler: BaseHTTPRequestHandler, fault: str) -> None:
        begin, asked = 0, re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range") or "")
        fresh = handler.headers.get("If-Range") in (None, self.etag)
        if asked and self.ranges and fresh:
            begin = int(asked[1])
        handler.send_response(206 if begin else 200)
        if begin:
            handler.send_header("Content-Range", f"bytes {begin}-{len(self.content) - 1}/{len(self.content)}")
        handler.send_header("Content-Length", str(len(self.content) - begin))
        if self.etag:
            handler.send_header("ETag", self.etag)
        handler.end_headers()
        body = self.content[begin:]
        if fault in ("cut", "stall"):
            body = body[: len(body) // 2]
        handler.wfile.write(body)
        handler.wfile.flush()
        if fault == "stall":
            self.release.wait(30)


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("no_proxy", "*")
    here = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            here.answer(self)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    here.url = f"http://127.0.0.1:{server.server_address[1]}/a.parquet"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield here
    here.release.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "shards" / "a.parquet"


def complete(path: Path) -> bool:
    note = json.loads(path.with_suffix(".json").read_text())
    assert note["sha256"] == SHA and note["bytes"] == len(CONTENT)
    assert not list(path.parent.glob("*.part*"))
    return path.read_bytes() == CONTENT


def test_plain(site: Site, path: Path) -> None:
    fetch(site.url, path, HASTY)
    assert complete(path) and site.seen == [None]


@pytest.mark.parametrize("fault", ["cut", "stall"])
def test_continues_where_it_broke_off(site: Site, path: Path, fault: str) -> None:
    site.faults = [fault, "500", fault]
    fetch(site.url, path, HASTY)
    half = len(CONTENT) // 2
    assert complete(path)
    assert site.seen[:3] == [None, f"bytes={half}-", f"bytes={half}-"]
    assert len(site.seen) == 4 and site.seen[3] not in site.seen[:3]


def test_many_interruptions_with_progress_are_no_failure(site: Site, path: Path) -> None:
    site.faults = ["cut"] * 9
    fetch(site.url, path, HASTY)
    assert complete(path)


def test_progress_without_end_ends(site: Site, path: Path) -> None:
    site.faults = ["cut"] * 99
    with pytest.raises(EnvironmentFault, match="in 5 tries"):
        fetch(site.url, path, Patience(timeout=0.5, silence=2.0, tries=4, wait=0.001, limit=5))


def test_passing_server_errors(site: Site, path: Path) -> None:
    site.faults = ["500", "503", "429"]
    fetch(site.url, path, HASTY)
    assert complete(path)


def test_server_that_ignores_ranges(site: Site, path: Path) -> None:
    site.ranges = False
    site.faults = ["cut", "cut"]
    fetch(site.url, path, HASTY)
    assert complete(path)


def test_no_etag_begins_anew(site: Site, path: Path) -> None:
    site.etag = ""
    site.faults = ["cut"]
    fetch(site.url, path, HASTY)
    assert complete(path) and site.seen == [None, None]


def test_file_that_changed_meanwhile(site: Site, path: Path) -> None:
    site.content, site.etag = shard(1), '"older"'
    site.faults = ["cut", "404"]
    with pytest.raises(EnvironmentFault, match="HTTP 404"):
        fetch(site.url, path, HASTY)
    site.content, site.etag = CONTENT, f'"{SHA}"'
    fetch(site.url, path, HASTY)
    assert complete(path)


def test_next_run_goes_on(site: Site, path: Path) -> None:
    site.faults = ["cut", *["500"] * 9]
    with pytest.raises(EnvironmentFault, match=rf"{len(CONTENT) // 2} bytes are kept"):
        fetch(site.url, path, HASTY)
    assert not path.exists()
    site.faults, site.seen = [], []
    fetch(site.url, path, HASTY)
    assert complete(path) and site.seen == [f"bytes={len(CONTENT) // 2}-"]


def test_checksum_of_the_hub_wins(site: Site, path: Path) -> None:
    site.etag = '"storage-says-otherwise"'
    site.faults = ["redirect"]
    fetch(site.url, path, HASTY)
    assert complete(path)
    path.unlink()
    site.content = shard(1)
    site.faults = ["redirect", ""] * 9
    with pytest.raises(EnvironmentFault, match="a file with SHA-256"):
        fetch(site.url, path, HASTY)
    assert not path.exists()


@pytest.mark.parametrize(
    ("content", "etag", "reason"),
    [(b"<html>sign in</html>" * 99, "", "not a Parquet file"), (CONTENT[:-9], f'"{SHA}"', "a file with SHA-256")],
)
def test_wrong_content_is_not_kept(site: Site, path: Path, content: bytes, etag: str, reason: str) -> None:
    site.content, site.etag = content, etag
    with pytest.raises(EnvironmentFault, match=f"{reason}.* in 4 tries.* 0 bytes are kept"):
        fetch(site.url, path, HASTY)
    assert not list(path.parent.glob("a.parquet*"))


@pytest.mark.parametrize("code", ["401", "403", "404"])
def test_refusals_are_final(site: Site, path: Path, code: str) -> None:
    site.faults = [code]
    with pytest.raises(EnvironmentFault, match=f"got HTTP {code}"):
        fetch(site.url, path, HASTY)
    assert len(site.seen) == 1


def test_part_longer_than_the_file(site: Site, path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.with_suffix(".part").write_bytes(CONTENT + b"more")
    path.with_name("a.part.json").write_text(json.dumps({"etag": SHA}))
    site.faults = ["416"]
    fetch(site.url, path, HASTY)
    assert complete(path)


def seconds_to_fail(call: Callable[[], object], reason: str) -> float:
    begin = time.monotonic()
    with pytest.raises(EnvironmentFault, match=reason) as caught:
        call()
    assert "\n" not in str(caught.value)
    return time.monotonic() - begin


@pytest.mark.parametrize(
    "patience", [HASTY, pytest.param(Patience(), marks=pytest.mark.slow)], ids=["hasty", "default"]
)
def test_nobody_listens(path: Path, monkeypatch: pytest.MonkeyPatch, patience: Patience) -> None:
    monkeypatch.setenv("no_proxy", "*")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/a.parquet"
    assert seconds_to_fail(lambda: fetch(url, path, patience), "refused.*need a network") < 20


@pytest.mark.parametrize("fault", ["mute", "stall"])
def test_silence_ends(site: Site, path: Path, fault: str) -> None:
    site.content = CONTENT[:1] if fault == "stall" else CONTENT
    site.faults = [fault] * 20
    assert seconds_to_fail(lambda: fetch(site.url, path, HASTY), "need a network") < 2 * HASTY.silence


def test_name_server_that_does_not_answer(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asleep = threading.Event()
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: asleep.wait(20) and [])
    assert seconds_to_fail(lambda: fetch("http://hub.invalid/a.parquet", path, HASTY), "no answer within") < 4
    asleep.set()


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["mute", "stall"])
def test_default_patience_ends_within_20_seconds(site: Site, path: Path, fault: str) -> None:
    site.content = CONTENT[:1] if fault == "stall" else CONTENT
    site.faults = [fault] * 20
    assert seconds_to_fail(lambda: fetch(site.url, path, Patience()), "need a network") < 20


def test_corpus_by_name(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(module.SHARDS, "tinystories", (site.url,))
    config = DataConfig(data="tinystories", tokenizer="byte", cache_dir=str(tmp_path))
    site.faults = ["cut"]
    log: list[str] = []
    dataset = open_dataset(config, 512, report=log.append)
    assert dataset.manifest.source == "tinystories"
    assert dataset.manifest.train_documents + dataset.manifest.val_documents == 400
    assert any(line.startswith("downloading") for line in log)
    asked = len(site.seen)
    assert open_dataset(config, 512).manifest.hash == dataset.manifest.hash
    assert len(site.seen) == asked, "the second opening went to the network"


def test_more_shards_than_there_are(tmp_path: Path) -> None:
    config = DataConfig(data="tinystories", shards=5, cache_dir=str(tmp_path))
    with pytest.raises(ConfigError, match="--shards: got 5, need at most 4 for --data tinystories"):
        open_dataset(config, 512)
