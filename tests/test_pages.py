"""The pages lead somewhere: links, anchors and the files that they name exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("markdown_documentation", "examples", "artifacts", ".")
PAGES = sorted({page for folder in FOLDERS for page in (ROOT / folder).glob("*.md")} | set(ROOT.glob("*/guides/*.md")))
LINK = re.compile(r"\]\(([^)\s]+)\)")
FILE = re.compile(r"`((?:nanochat|demos|tests|benchmarks|examples|suites)/[\w./-]+\.(?:py|cpp|toml|md))(?:::\w+)?`")
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
EXAMPLES = ("CONTRIBUTING.md",)
"""Pages that name files which a reader is to write."""


def slug(heading: str) -> str:
    """The anchor of a heading: lower case, punctuation dropped, blanks as dashes."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    return {slug(line.lstrip("#")) for line in text.splitlines() if line.startswith("#")}


def broken(page: Path) -> list[str]:
    """Links of a page to files or anchors that are not there."""
    found = []
    for target in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        if target.startswith(("https://", "mailto:")):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            found.append(target)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    assert broken(page) == []


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.name not in EXAMPLES], ids=lambda page: str(page.relative_to(ROOT))
)
def test_files_that_a_page_names_exist(page):
    missing = [name for name in FILE.findall(page.read_text(encoding="utf-8")) if not (ROOT / name).exists()]
    assert missing == []


def test_every_page_is_reached_from_the_index():
    index = ROOT / "markdown_documentation" / "index.md"
    reached = {(index.parent / target.partition("#")[0]).resolve() for target in LINK.findall(index.read_text())}
    pages = set(index.parent.glob("*.md")) | set(index.parent.glob("guides/*.md"))
    assert {page.name for page in pages - reached - {index}} == set()


def test_a_dead_link_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# Here\n[a](#here) [b](#there) [c](page.md#here) [d](gone.md)\n```\n[e](in-code.md)\n```\n")
    assert broken(page) == ["#there", "gone.md"]
