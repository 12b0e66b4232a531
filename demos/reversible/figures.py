"""The reversible demo's plots as figures."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from demos.plots import COLOURS, Draw, lines, logarithmic, loss, plain_axes


def orbits(axes: Axes, arrays: Mapping[str, np.ndarray]) -> None:
    """Both orbits around the same sun."""
    for (name, path), colour in zip(arrays.items(), COLOURS, strict=False):
        axes.plot(*path.T, ".-", markersize=2, linewidth=0.5, label=name, color=colour)
    axes.plot(0, 0, "o", color="0.2", markersize=5)
    axes.set_aspect("equal")
    axes.legend(frameon=False)
    plain_axes(axes, "x", "y")


def kepler(axes: Axes, arrays: Mapping[str, np.ndarray]) -> None:
    """Largest relative energy error on each turn; the leapfrog's after every step, which comes and goes, faint."""
    turns = arrays["turn"]
    errors = {name: values for name, values in arrays.items() if name != "turn"}
    swinging = errors["leapfrog"]
    time = (np.arange(len(swinging)) + 1) * len(turns) / len(swinging)
    axes.plot(time, swinging, color=COLOURS[0], linewidth=0.5, alpha=0.5)
    worst = {name: values.reshape(len(turns), -1).max(1) for name, values in errors.items()}
    lines(axes, {"turn": turns, **worst}, "turn", "o-" if len(turns) <= 20 else "-")
    logarithmic(axes, "y")
    axes.set_ylim(
        bottom=min(values.min() for values in worst.values()) / 30
    )  # where an error changes sign it has no logarithm
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    plain_axes(axes, "turns around the sun", "relative energy error")


def drift(axes: Axes, arrays: Mapping[str, np.ndarray]) -> None:
    """Energy drift by number of passes."""
    lines(axes, arrays, "passes")
    logarithmic(axes)
    plain_axes(axes, "passes of the learned flow", "median energy drift")


def memory(axes: Axes, arrays: Mapping[str, np.ndarray]) -> None:
    """Working bytes by depth."""
    lines(axes, {name: values / (1 if name == "depth" else 1024) for name, values in arrays.items()}, "depth", "o-")
    axes.set_xscale("log", base=2)
    logarithmic(axes, "y")
    plain_axes(axes, "layers", "working memory of the gradient, KiB")


FIGURES: dict[str, Draw] = {"orbits": orbits, "kepler": kepler, "drift": drift, "memory": memory, "loss": loss}
