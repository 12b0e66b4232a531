"""The octonion demo's plots as figures."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes

from demos.plots import COLOURS, Draw, lines, logarithmic, loss, plain_axes

VIEW = np.array([[0.94, 0.34, 0.0], [-0.12, 0.32, 0.94]])  # of the sphere: to the right, upwards


def orbits(axes: Axes, arrays: Mapping[str, np.ndarray]) -> None:
    """The orbits on the sphere, drawn thin where they run behind it."""
    turn = np.linspace(0, 2 * np.pi, 200)
    ring = np.stack([np.cos(turn), np.sin(turn), 0 * turn], -1)
    axes.plot(np.cos(turn), np.sin(turn), color="0.3", linewidth=1)
    for tilt in range(3):
        axes.plot(*(np.roll(ring, tilt, 1) @ VIEW.T).T, color="0.85", linewidth=0.7, zorder=0)
    towards = np.cross(*VIEW)
    for (name, path), colour in zip(arrays.items(), COLOURS, strict=False):
        flat, front = path @ VIEW.T, path @ towards > 0
        axes.plot(*np.where(front[:, None], flat, np.nan).T, color=colour, linewidth=2, label=name)
        axes.plot(*np.where(front[:, None], np.nan, flat).T, ":", color=colour, linewidth=1.2)
    start = next(iter(arrays.values()))[0] @ VIEW.T
    axes.plot(*start, "o", color="0.1", markersize=5)
    axes.set_aspect("equal")
    axes.set_axis_off()
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))


def reach(axes: Axes, arrays: Mapping[str, np.ndarray]) -> None:
    """Error by number of observers."""
    lines(axes, arrays, "observers", "o-")
    axes.set_xscale("log", base=2)
    logarithmic(axes, "y")
    plain_axes(axes, "observers", "distance from the answer")


FIGURES: dict[str, Draw] = {"orbits": orbits, "loss": loss, "reach": reach}
