"""The reversible demo's plots as figures."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from demos.plots import COLOURS, Draw, lines, loss, plain_axes


def orbits(axes: Axes, arrays: Mapping[str, np.ndarray]) -> None:
    """Both orbits around the same sun."""
    for (name, path), colour in zip(arrays.items(), COLOURS, strict=False):
        axes.plot(*path.T, ".-", markersize=2, linewidth=0.5, label=name, color=colour)
    axes.plot(0, 0, "o", color="0.2", markersize=5)
    axes.set_aspect("equal")
    axes.legend(frameon=False)
    plain_axes(axes, "x", "y")


def kepler(axes: Axes, arrays: Mapping[str, np.ndarray]) -> None:
    """Relative energy error after every step, faint, and its largest value on each turn."""
    turns = arrays["turn"]
    errors = {name: values for name, values in arrays.items() if name != "turn"}
    for values, colour in zip(errors.values(), COLOURS, strict=False):
        time = (np.arange(len(values)) + 1) * len(turns) / len(values)
        axes.plot(time, values, color=colour, linewidth=0.5, alpha=0.5)
    worst = {name: values.reshape(len(turns), -1).max(1) for name, values in errors.items()}
    lines(axes, {"turn": turns, **worst}, "turn", "o-" if len(turns) <= 20 else "-")
    axes.set_yscale("log")
    axes.set_ylim(bottom=min(values.min() for values in worst.values()) / 30)  # an error that changes sign has no end
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    plain_axes(axes, "turns around the sun", "relative energy error")


def drift(axes: Axes, arrays: Mapping[str, np.ndarray]) -> None:
    """Energy drift by number of passes."""
    lines(axes, arrays, "passes")
    axes.set(xscale="log", yscale="log")
    plain_axes(axes, "passes of the learned flow", "median energy drift")


def memory(axes: Axes, arrays: Mapping[str, np.ndarray]) -> None:
    """Working bytes by depth."""
    lines(axes, {name: values / (1 if name == "depth" else 1024) for name, values in arrays.items()}, "depth", "o-")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    plain_axes(axes, "layers", "working memory of the gradient, KiB")


FIGURES: dict[str, Draw] = {"orbits": orbits, "kepler": kepler, "drift": drift, "memory": memory, "loss": loss}
