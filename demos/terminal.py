"""Compact pictures in plain Unicode, at most 80 columns, readable without colour. Each function returns a string."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

GLYPHS = "●○×+"
BRAILLE = 0x2800
DOTS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])  # bit of each dot in a 4 x 2 Braille cell
MARGIN = 9  # columns of the axis labels


@dataclass(frozen=True, slots=True)
class Axis:
    """A data interval; ``log`` means base-10 logarithmic."""

    low: float
    high: float
    log: bool = False

    @classmethod
    def around(cls, values: np.ndarray, log: bool = False) -> Axis:
        """The interval the values span; never empty."""
        finite = values[np.isfinite(values) & ((values > 0) | (not log))]
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (1.0, 2.0)
        if low == high:
            low, high = (low / 2, high * 2) if log else (low - 0.5, high + 0.5)
        return cls(low, high, log)

    def place(self, values: np.ndarray, cells: int) -> np.ndarray:
        """Cell of each value, 0 to ``cells`` - 1; -1 for what lies outside or is not finite."""
        bad = ~np.isfinite(values) | ((values <= 0) & self.log)
        safe = np.where(bad, self.low, values)
        low, high = (np.log10(self.low), np.log10(self.high)) if self.log else (self.low, self.high)
        share = ((np.log10(safe) if self.log else safe) - low) / (high - low)
        cell = np.round(share * (cells - 1)).astype(int)
        return np.where(bad | (share < -1e-9) | (share > 1 + 1e-9), -1, cell)


def chart(
    series: Mapping[str, tuple[np.ndarray, np.ndarray]],
    *,
    xlabel: str = "",
    ylabel: str = "",
    logx: bool = False,
    logy: bool = False,
    width: int = 76,
    height: int = 12,
) -> str:
    """Line chart of up to four series with a legend and the ends of both axes labelled.

    Args:
        series: ``label -> (x, y)``; each gets a glyph of its own, and the first lies on top.
        xlabel, ylabel: names of the axes.
        logx, logy: logarithmic axes.
        width, height: size in characters, axes included.
    """
    columns = width - MARGIN - 2
    across = Axis.around(np.concatenate([np.asarray(x, float) for x, _ in series.values()]), logx)
    upward = Axis.around(np.concatenate([np.asarray(y, float) for _, y in series.values()]), logy)
    grid = [[" "] * columns for _ in range(height)]
    for glyph, (x, y) in reversed(list(zip(GLYPHS, series.values(), strict=False))):
        for column, row in _path(across.place(np.asarray(x, float), columns), np.asarray(y, float), upward, height):
            grid[height - 1 - row][column] = glyph
    labels = {0: f"{upward.high:.3g}", height - 1: f"{upward.low:.3g}"}
    body = [f"{labels.get(row, ''):>{MARGIN}} ┤{''.join(cells).rstrip()}" for row, cells in enumerate(grid)]
    ends = f"{across.low:.3g}", f"{across.high:.3g}"
    name = f"{xlabel}{' (log)' if logx else ''}"
    foot = ends[0] + name.center(columns - len(ends[0]) - len(ends[1])) + ends[1]
    legend = "   ".join(f"{glyph} {label}" for glyph, label in zip(GLYPHS, series, strict=False))
    head = f"{ylabel}{' (log)' if logy else ''}"
    return "\n".join([f"{head:<{MARGIN + 2}} {legend}", *body, " " * MARGIN + " └" + "─" * columns, " " * 11 + foot])


def _path(columns: np.ndarray, y: np.ndarray, upward: Axis, height: int) -> list[tuple[int, int]]:
    """Cells of a polyline: its points, and straight interpolation in the columns between them."""
    rows = upward.place(y, height)
    shown = [(int(column), int(row)) for column, row in zip(columns, rows, strict=True) if min(column, row) >= 0]
    cells = shown[:1]
    for (left, bottom), (right, top) in zip(shown, shown[1:], strict=False):
        steps = max(abs(right - left), 1)
        cells += [
            (left + (right - left) * s // steps, round(bottom + (top - bottom) * s / steps))
            for s in range(1, steps + 1)
        ]
    return cells


def dots(x: np.ndarray, y: np.ndarray, *, across: Axis, upward: Axis, width: int = 36, height: int = 14) -> list[str]:
    """Points as Braille dots, 2 x 4 to a character: ``height`` lines of ``width`` characters."""
    column, row = across.place(np.asarray(x), 2 * width), upward.place(np.asarray(y), 4 * height)
    keep = (column >= 0) & (row >= 0)
    column, row = column[keep], 4 * height - 1 - row[keep]
    cells = np.zeros((height, width), int)
    np.bitwise_or.at(cells, (row // 4, column // 2), DOTS[row % 4, column % 2])
    return ["".join(chr(BRAILLE + cell) if cell else " " for cell in line) for line in cells]


def beside(*panels: tuple[str, list[str]], gap: int = 4) -> str:
    """Panels of equal height side by side, each under its caption."""
    widths = [max(len(line) for line in [caption, *lines]) for caption, lines in panels]
    rows = [[caption for caption, _ in panels], *zip(*[lines for _, lines in panels], strict=True)]
    return "\n".join(
        (" " * gap).join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def bars(values: Mapping[str, float], *, unit: str = "", width: int = 40, log: bool = False) -> str:
    """Horizontal bars with the number behind each.

    Args:
        values: ``label -> number``, none negative.
        unit: printed behind the number.
        width: columns of the longest bar.
        log: length by logarithm; the shortest bar then has one cell.
    """
    numbers = np.maximum(np.array(list(values.values()), float), 0)
    if log:
        floor = numbers[numbers > 0].min(initial=1.0)
        lengths = np.log10(np.maximum(numbers, floor) / floor)
        lengths = 1 + lengths / max(lengths.max(), 1e-12) * (width - 1)
    else:
        lengths = numbers / max(numbers.max(), 1e-300) * width
    label = max(len(name) for name in values)
    return "\n".join(
        f"{name:<{label}} {_bar(length)} {number:.3g}{' ' + unit if unit else ''}"
        for (name, number), length in zip(values.items(), lengths, strict=True)
    )


def _bar(length: float) -> str:
    full, eighths = divmod(round(length * 8), 8)
    return "█" * full + ("" if eighths == 0 else " ▏▎▍▌▋▊▉"[eighths])


def regions(labels: np.ndarray, glyphs: str, boundary: str = " ") -> str:
    """A map of integer regions, row 0 at the bottom: each region's glyph, ``boundary`` where two regions meet."""
    padded = np.pad(labels, ((0, 1), (0, 1)), mode="edge")
    edge = (padded[1:, :-1] != labels) | (padded[:-1, 1:] != labels)
    rows = [
        "".join(boundary if border else glyphs[int(label)] for label, border in zip(line, borders, strict=True))
        for line, borders in zip(labels, edge, strict=True)
    ]
    return "\n".join(row.rstrip() for row in reversed(rows))
