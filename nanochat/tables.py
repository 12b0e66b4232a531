"""Plain tables as text, for what must answer at once: importing rich alone would take longer than the answer."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

GAP = 2


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], width: int = 80) -> str:
    """Left-aligned columns under a rule; the widest ones wrap where the whole would exceed ``width`` characters.

    Args:
        columns: headings.
        rows: cells; a line break in a cell starts a new line in it.
        width: characters of a line.

    Example:
        >>> print(table(["name", "what"], [["adamw", "AdamW, fused"]]))
        name   what
        ─────  ────────────
        adamw  AdamW, fused
    """
    cells = [list(columns), *(list(row) for row in rows)]
    widths = [
        max(1, *(len(line) for cell in column for line in cell.split("\n"))) for column in zip(*cells, strict=True)
    ]
    while sum(widths) + GAP * (len(widths) - 1) > width and max(widths) > 12:
        widths[widths.index(max(widths))] -= 1
    lines = [*_lines(cells[0], widths), *_lines(["─" * cell for cell in widths], widths)]
    for row in cells[1:]:
        lines += _lines(row, widths)
    return "\n".join(lines)


def _lines(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    wrapped = [
        [part for line in cell.split("\n") for part in textwrap.wrap(line, width) or [""]]
        for cell, width in zip(row, widths, strict=True)
    ]
    height = max(map(len, wrapped))
    padded = [lines + [""] * (height - len(lines)) for lines in wrapped]
    gap = " " * GAP
    return [
        gap.join(part.ljust(width) for part, width in zip(parts, widths, strict=True)).rstrip()
        for parts in zip(*padded, strict=True)
    ]
