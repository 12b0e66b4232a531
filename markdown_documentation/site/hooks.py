"""What mkdocs does not do by itself: MathJax from its package, and the pages that stand outside of this folder."""

from __future__ import annotations

import posixpath
import re
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTATION = "markdown_documentation/"
OUTSIDE = {
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "examples/README.md": "examples.md",
    "artifacts/README.md": "artifacts.md",
}
"""File of the repository -> its place on the site."""

MATHJAX = "site/tex-svg-full.js"
MATHJAX_FILE = "mathjax/static/mathjax/es5/tex-svg-full.js"
LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)\s#]+)")


def on_files(files: Files, config: Any) -> Files:
    """Add MathJax (one file, all extensions and fonts in it) and the outside pages."""
    mathjax = str(distribution("django-static-mathjax").locate_file(MATHJAX_FILE))
    files.append(File.generated(config, MATHJAX, abs_src_path=mathjax))
    for source, place in OUTSIDE.items():
        files.append(File.generated(config, place, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Lead links between the pages and the outside pages to where these stand on the site."""
    own = page.file.src_uri
    source = next((name for name, place in OUTSIDE.items() if place == own), DOCUMENTATION + own)

    def moved(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), link[1]))
        place = OUTSIDE.get(target, target.removeprefix(DOCUMENTATION))
        return posixpath.relpath(place, posixpath.dirname(own) or ".")

    return LINK.sub(moved, markdown)
