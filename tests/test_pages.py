"""The pages lead somewhere: links, anchors and the files that they name exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("markdown_documentation", "examples", "artifacts", ".")
PAGES = sorted({page for folder in FOLDERS for page in (ROOT / folder).glob("*.md")} | set(ROOT.glob("*/guides/*.md")))
SITE = ROOT / "markdown_documentation" / "site"
LINK = re.compile(r"""(?:\]\(|\bsrc=")([^)"\s]+)[)"]""")
FILE = re.compile(r"`((?:nanochat|demos|tests|benchmarks|examples|suites)/[\w./-]+\.(?:py|cpp|toml|md))(?:::\w+)?`")
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
FRAMEWORKS = sorted((ROOT / "markdown_documentation").glob("[a-z]*.md"))
SECTIONS = (
    "Idea",
    "Theorems",
    "Train it",
    "The demo",
    "Exercises",
    "Status",
    "Where it should lose",
    "References",
)
NO_INLINE = re.compile(r"^```.*?^```|^\$\$.*?\$\$|`[^`]*`", re.MULTILINE | re.DOTALL)
"""Code and formulas on lines of their own."""
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


def formulas(page: Path) -> list[str]:
    """Formulas within lines of text."""
    return re.findall(r"\$([^$]+)\$", NO_INLINE.sub("", page.read_text(encoding="utf-8")))


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


def test_every_page_has_a_place_in_the_navigation_of_the_site():
    named = re.findall(r"^ +- .*: (\S+\.md)$", (SITE / "mkdocs.yml").read_text(), re.MULTILINE)
    documentation = SITE.parent
    pages = {str(page.relative_to(documentation)) for page in documentation.rglob("*.md")}
    outside = set(re.findall(r'".*\.md": "(.*\.md)"', (SITE / "hooks.py").read_text()))
    assert len(named) == len(set(named))
    assert set(named) == pages | outside


def test_every_picture_is_small_and_on_a_page():
    used = {(page.parent / target).resolve() for page in PAGES for target in LINK.findall(page.read_text())}
    pictures = set((SITE.parent / "images").iterdir())
    assert {picture.name for picture in pictures - used} == set()
    assert {picture.name for picture in pictures if picture.stat().st_size > 60 * 1024} <= {"report.png"}


@pytest.mark.parametrize("name", ["mkdocs.yml", "style.css", "mathjax.js"])
def test_the_site_is_configured_to_load_nothing_from_elsewhere(name):
    text = (SITE / name).read_text()
    assert re.findall(r"(?<!\S)//\S+|https?:\S+|@import.*", text) == []
    assert name != "mkdocs.yml" or "font: false" in text  # the theme would ask for a font otherwise


@pytest.mark.parametrize("page", FRAMEWORKS, ids=lambda page: page.stem)
def test_inline_formulas_survive_markdown(page):
    """Where Markdown comes first, as on GitHub, a backslash before punctuation is an escape and lost to the formula."""
    assert [formula for formula in formulas(page) if re.search(r"\\[^A-Za-z\s]|\\operatorname", formula)] == []


@pytest.mark.parametrize("page", [page for page in FRAMEWORKS if page.stem != "index"], ids=lambda page: page.stem)
def test_pages_are_built_alike(page):
    """The order that the reading guide promises; what a page has of its own stands in between."""
    text = page.read_text(encoding="utf-8")
    found = [heading for heading in re.findall(r"^## (.+)", text, re.MULTILINE) if heading in SECTIONS]
    assert found == list(SECTIONS)
    assert "(guides/reading.md)" in text.partition("## Idea")[0]


def test_an_escaped_formula_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("$a$, $\\{b\\}$ and `$c$`\n\n$$\n\\{d\\}\n$$\n\n```\n$e$\n```\n")
    assert formulas(page) == ["a", r"\{b\}"]


def test_a_dead_link_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# Here\n[a](#here) [b](#there) [c](page.md#here) [d](gone.md)\n"
        '<img src="gone.png">\n```\n[e](in-code.md)\n```\n'
    )
    assert broken(page) == ["#there", "gone.md", "gone.png"]
