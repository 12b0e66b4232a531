"""The matrix-gauge demo's plots as figures."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes

from demos.plots import COLOURS, Draw, lines, loss, plain_axes


def holonomy(axes: Axes, arrays: Mapping[str, np.ndarray]) -> None:
    """What is left around a square as colour; what the commutator alone says as lines."""
    angles = arrays["angles"]
    drawn = axes.contourf(angles, angles, arrays["left"].T, np.arange(0, 181, 22.5), cmap="YlGnBu")
    if arrays["commutator"].any():
        levels = (45, 90, 135, 180)
        found = axes.contour(angles, angles, arrays["commutator"].T, levels, colors=COLOURS[1], linewidths=0.9)
        axes.clabel(found, fmt="%d°", fontsize=7)
        axes.plot([], [], color=COLOURS[1], linewidth=0.9, label="by the commutator [A, B] alone")
        axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), fontsize=8)
    axes.figure.colorbar(drawn, ax=axes, label="turn left around the square (degrees)", ticks=range(0, 181, 45))
    axes.set(aspect="equal", xticks=range(-180, 181, 90), yticks=range(-180, 181, 90))
    plain_axes(axes, "turn a (degrees)", "turn b (degrees)")


def reach(axes: Axes, arrays: Mapping[str, np.ndarray]) -> None:
    """Accuracy by letter."""
    axes.axvspan(1, float(arrays["trained"]), color="0.93", linewidth=0, label="trained")
    lines(axes, {name: values for name, values in arrays.items() if name != "trained"}, "letter", "o-")
    axes.set_xscale("log", base=2)
    axes.set_ylim(0, 1.03)
    plain_axes(axes, "letter of the word", "share of right answers")


def squares(axes: Axes, arrays: Mapping[str, np.ndarray]) -> None:
    """What is left around the squares of the letters; framed where the letters do not commute."""
    degrees, apart = arrays["degrees"], arrays["apart"]
    drawn = axes.imshow(degrees, cmap="YlGnBu", vmin=0, vmax=180)
    for (row, column), angle in np.ndenumerate(degrees):
        colour = "white" if angle > 110 else "0.2"
        weight = "bold" if apart[row, column] else "normal"
        axes.annotate(f"{angle:.0f}", (column, row), ha="center", va="center", fontsize=8, color=colour, weight=weight)
    axes.figure.colorbar(drawn, ax=axes, label="degrees", ticks=range(0, 181, 45))
    axes.set(xticks=range(len(apart)), yticks=range(len(apart)))
    plain_axes(axes, "letter b; bold: ab differs from ba", "letter a")


FIGURES: dict[str, Draw] = {"holonomy": holonomy, "reach": reach, "squares": squares, "loss": loss}
