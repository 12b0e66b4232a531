"""`mgr docs`: the pages as a site, without a warning, without a request to anywhere else."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from html.parser import HTMLParser
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

import cli
from nanochat import documentation

INSTALLED = all(list(metadata.distributions(name=name)) for name in documentation.NEEDED)
needs_extra = pytest.mark.skipif(not INSTALLED, reason="the extra docs is not installed")
SOURCES = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src"}


class Loaded(HTMLParser):
    """Addresses that a page loads when it is opened; links that a reader may follow are none."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        address = dict(attrs).get(SOURCES.get(tag, ""))
        if address is not None and dict(attrs).get("rel") not in ("canonical", "prev", "next"):
            self.addresses.append(address)


def loaded(page: str) -> list[str]:
    parser = Loaded()
    parser.feed(page)
    return parser.addresses


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("docs") / "site"
    done = subprocess.run(
        [sys.executable, "-m", "cli", "docs", "--build", str(folder), "--json"], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    return folder, json.loads(done.stdout)


@needs_extra
def test_what_was_built_is_said(site):
    folder, built = site
    assert built["schema"] == "mgr.docs.v1"
    assert built["warnings"] == []
    assert {"index.html", "tropical.html", "guides/costs.html", "contributing.html"} <= set(built["pages"])
    assert all((folder / page).is_file() for page in built["pages"])


@needs_extra
def test_pages_load_nothing_from_elsewhere(site):
    folder, built = site
    for page in built["pages"]:
        for address in loaded((folder / page).read_text(encoding="utf-8")):
            assert "//" not in address, f"{page} loads {address}"
            assert (folder / page).parent.joinpath(address).resolve().is_file(), f"{page} lacks {address}"
    for style in folder.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(https?:)?//|@import", style.read_text(encoding="utf-8")), style.name


def test_what_a_page_would_load_is_seen():
    page = (
        '<a href="https://a"></a><script src="https://b"></script><link rel="canonical" href="https://c"><img src="d">'
    )
    assert loaded(page) == ["https://b", "d"]


@needs_extra
def test_formulas_are_marked_and_markdown_is_understood(site):
    """A dollar, a table's bar or a list's dash in the text of a page is Markdown that the generator did not take."""
    folder, built = site
    for page in built["pages"]:
        text = (folder / page).read_text(encoding="utf-8")
        text = re.sub(r"<(pre|code|script|style)\b.*?</\1>", "", text, flags=re.DOTALL)
        text = re.sub(r'class="arithmatex">.*?</(span|div)>', "", text, flags=re.DOTALL)
        assert not re.findall(r"[^<>\n]*(?:\$[^<>\n]+\$|\n(?:[-|]|\d\.) )[^<>\n]*", text), page


@needs_extra
def test_a_server_shows_the_site_and_ctrl_c_ends_it():
    command = [sys.executable, "-m", "cli", "docs", "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        document = ""
        while not document.endswith("\n}\n"):
            document += process.stdout.readline()
        address = json.loads(document)["address"]
        with urllib.request.urlopen(address + "ultrametric.html", timeout=20) as answer:
            assert b"arithmatex" in answer.read()
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=20) == ("", "")
    assert process.returncode == 0


@needs_extra
def test_a_folder_of_something_else_is_not_built_over(tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("mine")
    assert cli.execute(["docs", "--build", str(tmp_path)]) == 2
    assert "other files" in capsys.readouterr().err
    assert (tmp_path / "thesis.tex").read_text() == "mine"


@needs_extra
def test_a_file_is_no_folder(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert cli.execute(["docs", "--build", str(tmp_path / "file")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@needs_extra
def test_a_site_among_the_pages_is_refused(capsys):
    folder = documentation.CONFIGURATION.parents[1] / "built"
    assert cli.execute(["docs", "--build", str(folder)]) == 2
    assert "among the pages" in capsys.readouterr().err
    assert not folder.exists()


@needs_extra
def test_a_port_in_use_is_said_in_one_line(capsys):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert cli.execute(["docs", "--port", str(port)]) == 3
    found = capsys.readouterr().err
    assert f"cannot listen on {port}" in found
    assert found.count("\n") == 1


def test_without_the_extra_one_line_says_so(monkeypatch, capsys):
    monkeypatch.setattr(documentation, "NEEDED", ("mkdocs-material-of-nobody",))
    assert cli.execute(["docs"]) == 3
    assert capsys.readouterr().err == (
        "mgr: missing mkdocs-material-of-nobody: need the extra docs, pip install -e '.[docs]'\n"
    )


def test_away_from_the_repository_there_are_no_pages(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(documentation, "CONFIGURATION", tmp_path / "site" / "mkdocs.yml")
    assert cli.execute(["docs"]) == 3
    assert "need a clone" in capsys.readouterr().err


def test_a_port_is_a_number(capsys):
    assert cli.execute(["docs", "--port", "http"]) == 2
    assert cli.execute(["docs", "--port", "65536"]) == 2
    assert capsys.readouterr().err.count("\n") == 2
