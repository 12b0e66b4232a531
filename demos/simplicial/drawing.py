"""Flows as arrows and bars of a filtration, in characters."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from demos import terminal
from demos.simplicial.complexes import Bar
from demos.simplicial.surfaces import Surface, field, side_flows

ARROWS = "→↗↑↖←↙↓↘"
FAINT = 0.12  # of the strongest arrow anywhere: weaker ones are dots


def grid(surface: Surface, columns: int) -> np.ndarray:
    """Points (rows, columns, 2) in square cells over the whole drawing, the highest row first."""
    low, high = surface.corners.min((0, 1)), surface.corners.max((0, 1))
    cell = (high[0] - low[0]) / columns
    rows = round((high[1] - low[1]) / cell)
    x = low[0] + (np.arange(columns) + 0.5) * cell
    y = high[1] - (np.arange(rows) + 0.5) * (high[1] - low[1]) / rows
    return np.stack(np.meshgrid(x, y), -1)


def arrows(surface: Surface, flows: Mapping[str, np.ndarray], columns: int) -> str:
    """Flows side by side, an arrow for each cell of the surface."""
    points = grid(surface, columns)
    vectors = {
        name: field(surface.corners, side_flows(surface.complex, flow), points.reshape(-1, 2)).reshape(points.shape)
        for name, flow in flows.items()
    }
    strongest = max(float(np.nanmax(np.linalg.norm(each, axis=-1))) for each in vectors.values())
    return terminal.beside(*((name, arrow_rows(each, FAINT * strongest)) for name, each in vectors.items()))


def arrow_rows(vectors: np.ndarray, faint: float) -> list[str]:
    """One character and a blank for each vector: nothing for NaN, a dot below ``faint``, else the nearest of eight."""
    turn = np.arctan2(vectors[..., 1], vectors[..., 0]) / (np.pi / 4)
    signs = np.array([*ARROWS, "·", " "])
    chosen = np.where(np.linalg.norm(vectors, axis=-1) > faint, np.nan_to_num(np.round(turn)).astype(int) % 8, 8)
    chosen = np.where(np.isnan(vectors[..., 0]), 9, chosen)
    return [" ".join(row) for row in signs[chosen]]


def barcode(bars: list[Bar], farthest: float, width: int = 58, shown: int = 3) -> str:
    """The longest bars of pieces and loops, from distance 0 on the left to the farthest on the right."""
    lines = []
    for dimension, name, most in ((0, "piece", 2), (1, "loop", shown)):
        found = sorted((bar for bar in bars if bar.dimension == dimension), key=lambda bar: bar.birth - bar.death)
        for bar in found[:most]:
            start, end = (round(min(value, farthest) / farthest * (width - 1)) for value in bar[1:])
            last = "▶" if np.isinf(bar.death) else "━"
            until = "for ever" if np.isinf(bar.death) else f"to {bar.death:.2f}"
            line = " " * start + "━" * (end - start) + last
            lines.append(f"{name:<6}{line:<{width}} {bar.birth:.2f} {until}")
        if len(found) > most:
            lines.append(f"{'':6}and {len(found) - most} shorter {name}s")
    return "\n".join(lines)
