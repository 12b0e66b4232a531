"""The ultrametric demo's plots as figures."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.patches import Circle

from demos.plots import COLOURS, Draw, lines, logarithmic, loss, plain_axes


def tree(axes: Axes, arrays: Mapping[str, np.ndarray]) -> None:
    """Z_p as disks in disks, one for each ball; the darker, the nearer to 1."""
    base = int(arrays["base"])
    depth = {2: 4, 3: 3}.get(base, 2)
    shades = colormaps["Blues"](np.linspace(0.08, 0.85, depth + 1))
    room = 0.92 * np.sin(np.pi / base) / (1 + np.sin(np.pi / base))

    def place(centre: complex, radius: float, residue: int, level: int, shared: int) -> None:
        middle = centre.real, centre.imag
        axes.add_patch(Circle(middle, radius, facecolor=shades[shared], edgecolor="0.35", linewidth=0.6))
        if level == depth:
            colour = "white" if shared > depth / 2 else "0.2"
            axes.annotate(str(residue), middle, ha="center", va="center", fontsize=100 * radius, color=colour)
            return
        for digit in range(base):
            turn = np.exp(2j * np.pi * digit / base + 0.5j * np.pi) * radius * (1 - room) * 0.97
            same = shared + (shared == level and digit == (level == 0))
            place(centre + turn, radius * room, residue + digit * base**level, level + 1, same)

    place(0j, 1.0, 0, 0, 0)
    axes.set(xlim=(-1.02, 1.02), ylim=(-1.02, 1.02))
    axes.set_aspect("equal")
    axes.set_axis_off()
    axes.annotate(f"numbers mod ${base}^{depth}$, darker: nearer to 1", (0, -1.08), ha="center", va="top", fontsize=8)


def scaling(axes: Axes, arrays: Mapping[str, np.ndarray]) -> None:
    """Time by number of keys."""
    lines(axes, arrays, "keys", "o-")
    logarithmic(axes)
    plain_axes(axes, "keys stored", "ns for one")


def choice(axes: Axes, arrays: Mapping[str, np.ndarray]) -> None:
    """Errors of all learners on unseen keys, of the nested and of the rough function."""
    where = np.arange(len(arrays))
    for offset, label, colour in ((0, "nested in powers of 3", COLOURS[0]), (1, "no tree", COLOURS[3])):
        heights = [pair[offset] for pair in arrays.values()]
        axes.bar(where + 0.4 * offset - 0.2, heights, 0.38, label=label, color=colour)
    axes.set_xticks(where, [name.replace(" ", "\n", 1) for name in arrays])
    axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    plain_axes(axes, "", "error on unseen keys")


def fusion(axes: Axes, arrays: Mapping[str, np.ndarray]) -> None:
    """Recall by number of heads."""
    lines(axes, arrays, "heads", "o-")
    axes.set_ylim(0, 1.02)
    plain_axes(axes, "heads of 12 bits", "share of queries that find their point")


FIGURES: dict[str, Draw] = {"tree": tree, "scaling": scaling, "choice": choice, "loss": loss, "fusion": fusion}
