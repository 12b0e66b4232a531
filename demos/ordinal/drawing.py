"""Pictures of ordinals in a terminal: trees, and descents beside a ruler of ordinals."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from demos import terminal
from demos.ordinal.arithmetic import Hydra, Ordinal, natural, omega_to
from demos.ordinal.checks import bound

ROOM = 16  # columns of a tree
TALLEST = 2  # edges from the root to the highest head that is drawn


def segments(tree: Hydra) -> np.ndarray:
    """Edges of a tree as rows x0, y0, x1, y1: the root at the bottom in the middle, heads evenly spaced in [0, 1]."""
    found: list[tuple[float, float, float, float]] = []
    leaves = max(1, _leaves(tree))
    seen = 0

    def place(branch: Hydra, height: int) -> float:
        nonlocal seen
        if not branch:
            seen += 1
            return (seen - 0.5) / leaves
        above = [place(each, height + 1) for each in branch]
        middle = sum(above) / len(above)
        found.extend((middle, height, x, height + 1) for x in above)
        return middle

    place(tree, 0)
    return np.array(found, float).reshape(-1, 4)


def _leaves(tree: Hydra) -> int:
    return sum(_leaves(branch) for branch in tree) or 1


def trees(battle: Mapping[str, np.ndarray]) -> str:
    """Trees side by side, each under its caption."""
    across, upward = terminal.Axis(0, 1), terminal.Axis(0, TALLEST)
    panels = []
    for caption, edges in battle.items():
        share = np.linspace(0, 1, 60)[:, None]
        x = (edges[:, 0] + share * (edges[:, 2] - edges[:, 0])).ravel()
        y = (edges[:, 1] + share * (edges[:, 3] - edges[:, 1])).ravel()
        panels.append((caption, terminal.dots(x, y, across=across, upward=upward, width=ROOM, height=5)))
    return terminal.beside(*panels, gap=3)


def polynomial(a: int, b: int, c: int) -> Ordinal:
    """omega^2 a + omega b + c."""
    square, single = omega_to(natural(2)) * natural(a), omega_to(natural(1)) * natural(b)
    return square + single + natural(c)


def left(ranks: np.ndarray, knobs: Mapping[str, int]) -> np.ndarray:
    """Events that can still come: a(B + 1)(C + 1) + b(C + 1) + c, in the order of the ranks."""
    full = knobs["patience"] + 1
    return ranks @ np.array([(knobs["anneals"] + 1) * full, full, 1])


def descent(ranks: Mapping[str, np.ndarray], knobs: Mapping[str, int], height: int = 12) -> str:
    """Ranks of several streams by step, on a scale of ordinals."""
    first = polynomial(knobs["restarts"], knobs["anneals"], knobs["patience"])
    marks = {int(left(np.array([a, 0, 0]), knobs)): str(polynomial(a, 0, 0)) for a in range(knobs["restarts"] + 1)}
    marks[bound(knobs)] = str(first)
    wide = max(0, max(map(len, marks.values())) - terminal.MARGIN)
    taken = {name: (np.arange(len(rows)), left(rows, knobs)) for name, rows in ranks.items()}
    lines = terminal.chart(taken, xlabel="losses heard", ylabel="rank", width=76 - wide, height=height).split("\n")
    upward = terminal.Axis.around(np.concatenate([y for _, y in taken.values()]))
    rows = {height - int(upward.place(np.array([at]), height)[0]): mark for at, mark in marks.items()}
    labels = {1 + row: "" for row in range(height)} | {row: mark for row, mark in rows.items() if row <= height}
    return "\n".join(
        f"{labels[row]:>{terminal.MARGIN + wide}}{line[terminal.MARGIN :]}" if row in labels else f"{'':{wide}}{line}"
        for row, line in enumerate(lines)
    )
