"""Attractors and grey pictures in characters."""

from __future__ import annotations

import numpy as np

from demos import terminal

LETTERS = "abcdefgh"
SHADES = " ░▒▓█"
WIDEST, HIGHEST = 24, 16


def frame(points: np.ndarray) -> tuple[terminal.Axis, terminal.Axis, int, int]:
    """Axes, width and height in characters that show a set in its proportions; a character is twice as high as wide."""
    across, upward = (terminal.Axis.around(column) for column in points.T)
    slope = (upward.high - upward.low) / (across.high - across.low)
    height = min(HIGHEST, max(4, round(WIDEST * slope / 2)))
    return across, upward, min(WIDEST, round(2 * height / slope)), height


def attractor(points: np.ndarray, symbols: np.ndarray, start: np.ndarray, steps: int) -> str:
    """Side by side: what some steps make of a square, the attractor, and its pieces by the map that made them."""
    across, upward, width, height = frame(points)
    seen = {
        f"a square, {steps} steps on": start,
        "the attractor": points,
    }
    panels = [
        (name, terminal.dots(x[:, 0], x[:, 1], across=across, upward=upward, width=width, height=height))
        for name, x in seen.items()
    ]
    grid = [[" "] * width for _ in range(height)]
    columns, rows = across.place(points[:, 0], width), height - 1 - upward.place(points[:, 1], height)
    for row, column, symbol in zip(rows.tolist(), columns.tolist(), symbols.tolist(), strict=True):
        grid[row][column] = LETTERS[symbol]
    return terminal.beside(*panels, ("its pieces", ["".join(line) for line in grid]))


def greys(images: dict[str, np.ndarray]) -> str:
    """Pictures side by side in shades, row 0 on top; a character is the mean of its pixels."""
    panels = []
    for name, image in images.items():
        coarse = pooled(pooled(image, WIDEST // 2, 0), WIDEST, 1)
        levels = np.clip((coarse * len(SHADES)).astype(int), 0, len(SHADES) - 1)
        panels.append((name, ["".join(SHADES[level] for level in line) for line in levels]))
    return terminal.beside(*panels, gap=2)


def pooled(image: np.ndarray, count: int, axis: int) -> np.ndarray:
    """Means of ``count`` groups of neighbouring rows or columns."""
    groups = np.array_split(image, count, axis)
    return np.stack([group.mean(axis) for group in groups], axis)
