"""The knot-braid demo's plots as figures."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes

from demos.knot_braid.drawing import columns
from demos.plots import COLOURS, Draw, lines, loss, plain_axes

HALF = 0.5 * (1 - np.cos(np.pi * np.linspace(0, 1, 25)))
"""From 0 to 1, flat at both ends."""


def braid(axes: Axes, arrays: Mapping[str, np.ndarray]) -> None:
    """The closed braid: strands from left to right, the first below, each end led back above to its beginning."""
    count, word = int(arrays["count"]), [int(letter) for letter in arrays["word"]]
    placed = columns(word, count)
    middle, length = count - 0.4, float(len(placed))
    at, sources = list(range(count)), list(range(count))
    paths: list[list[tuple[np.ndarray, np.ndarray, bool]]] = [[] for _ in range(count)]
    for start, column in enumerate(placed):
        crossing = {abs(letter) - 1: letter for letter in column}
        for place in range(count):
            up, down = crossing.get(place), crossing.get(place - 1)
            rise = 1 if up else -1 if down else 0
            over = (down or 0) > 0 or (up or 0) < 0
            x = start + np.linspace(0, 1, len(HALF))
            paths[sources[place]].append((x, place + rise * HALF, over))
        for place in crossing:
            at[place], at[place + 1] = at[place + 1], at[place]
            sources[place], sources[place + 1] = sources[place + 1], sources[place]
    turn = np.linspace(-np.pi / 2, np.pi / 2, 40)
    for strand, pieces in enumerate(paths):
        colour = COLOURS[strand % len(COLOURS)]
        for x, y, over in pieces:
            if over:
                axes.plot(x, y, color="white", linewidth=9, zorder=2, solid_capstyle="butt")
            axes.plot(x, y, color=colour, linewidth=3, zorder=3 if over else 1, solid_capstyle="round")
        radius = middle - strand
        x = np.concatenate([length + radius * np.cos(turn), -radius * np.cos(turn[::-1])])
        y = np.concatenate([middle + radius * np.sin(turn), middle + radius * np.sin(turn[::-1])])
        axes.plot(np.append(x, 0), np.append(y, strand), color="0.75", linewidth=2, zorder=0)
    axes.text(length / 2, -0.6, "\n".join(arrays["caption"]), ha="center", va="top", fontsize=9)
    axes.set_aspect("equal")
    axes.set_axis_off()


def length(axes: Axes, arrays: Mapping[str, np.ndarray]) -> None:
    """Right answers by the length of the word."""
    shown = {name: values for name, values in arrays.items() if name != "trained"}
    axes.axvline(float(arrays["trained"]), color="0.8", linewidth=1)
    axes.text(float(arrays["trained"]) * 1.05, 0.02, "trained up to here", fontsize=8, color="0.5")
    lines(axes, shown, "letters", "o-")
    axes.set_xscale("log", base=2)
    axes.set_ylim(0, 1.04)
    plain_axes(axes, "letters of the word", "share of right answers")


FIGURES: dict[str, Draw] = {"braid": braid, "loss": loss, "length": length}
