"""The nonstandard demo's plots as figures."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Ellipse

from demos.nonstandard.numbers import POINTS, VIEWS
from demos.plots import COLOURS, Draw, lines, logarithmic, plain_axes

POINT_LETTERS = tuple(name[0] for name in POINTS)
NAMES = tuple(name.translate(str.maketrans({"ε": r"$\varepsilon$", "²": "$^2$"})) for name in POINTS)


def microscope(axes: Axes, arrays: Mapping[str, np.ndarray]) -> None:
    """One line for each lens; what looks like one point above is spread below."""
    before = {}
    for height, ((title, seen), (_, _, centre)) in enumerate(zip(arrays.items(), VIEWS, strict=True)):
        y = -float(height)
        axes.plot([-1.5, 1.5], [y, y], color="0.6", linewidth=1, zorder=1)
        label = title.replace("²", "$^2$").replace("ε", r"$\varepsilon$")
        axes.annotate(label, (-1.5, y + 0.08), fontsize=9, color="0.3")
        kept = seen[np.abs(seen[:, 1]) <= 1.5]
        spots = np.unique(kept[:, 1])
        for x, right in zip(spots, [*spots[1:], np.inf], strict=True):
            row = right - x < 0.6  # a name whose neighbour is near goes below it
            names = ",  ".join(NAMES[int(i)] for i in kept[kept[:, 1] == x, 0])
            axes.annotate(names, (x, y - 0.1 - 0.14 * row), ha="center", va="top", fontsize=8)
        axes.plot(kept[:, 1], 0 * kept[:, 1] + y, "o", color=COLOURS[0], markersize=6)
        if height:
            axes.fill([before[centre], -1.5, 1.5], [y + 0.97, y + 0.03, y + 0.03], color="0.95", zorder=0)
        before = {POINT_LETTERS[int(i)]: x for i, x in kept}
    axes.set(xlim=(-1.55, 1.75), ylim=(-2.5, 0.3))
    axes.set_axis_off()


def trajectories(axes: Axes, arrays: Mapping[str, np.ndarray]) -> None:
    """Paths in the valley over its level lines."""
    condition = float(arrays["condition"])
    low = min(-0.15, *(float(arrays[name][:, 1].min()) for name in ("series", "Adam")))
    along, across = np.linspace(-0.12, 1.12, 300), np.linspace(1.1 * low, 1.12, 300)
    grid = along[None] ** 2 + condition * across[:, None] ** 2
    axes.contour(along, across, grid, levels=np.linspace(0.05, 1.1, 8) ** 2 * condition, colors="0.88", linewidths=0.7)
    axes.plot(*arrays["flow"].T, color="0.2", linewidth=1.2, label="the flow")
    axes.plot(*arrays["series"].T, "-", color=COLOURS[1], linewidth=2.2, alpha=0.6, label=str(arrays["series_name"]))
    axes.plot(*arrays["Adam"].T, "-", color=COLOURS[2], linewidth=1.2, label="Adam")
    axes.plot(*arrays["macro"].T, "o", color=COLOURS[0], markersize=4.5, label="macro steps")
    axes.plot(0, 0, "+", color="0.1", markersize=9)
    axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, fontsize=8)
    plain_axes(axes, "along the valley", "across it")


def scales(axes: Axes, arrays: Mapping[str, np.ndarray]) -> None:
    """Both numbers over time, and the steps."""
    axes.plot(arrays["times"], arrays["flow"][:, 1], "--", color="0.5", linewidth=1.2, label="flow, across the valley")
    axes.plot(arrays["times"], arrays["flow"][:, 0], "-", color="0.3", linewidth=1.2, label="flow, along it")
    taken = [(name, pair) for name, pair in arrays.items() if name not in ("times", "flow")]
    for (name, pair), colour in zip(taken, COLOURS, strict=False):
        axes.plot(*pair, "o", color=colour, markersize=4, label=name)
    logarithmic(axes, "x")
    axes.legend(frameon=False, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4)
    plain_axes(axes, "time of the flow", "distance from the minimum")


def cloud(axes: Axes, arrays: Mapping[str, np.ndarray]) -> None:
    """Where many walkers are, and the ellipses of two standard deviations of the process itself."""
    values, vectors = np.linalg.eigh(arrays["covariance"])
    angle = float(np.degrees(np.arctan2(vectors[1, 1], vectors[0, 1])))
    for shift, (name, colour) in enumerate((("macro", COLOURS[0]), ("Euler", COLOURS[1]))):
        centre = 7.5 * shift
        axes.plot(arrays[name][:, 0] + centre, arrays[name][:, 1], ".", color=colour, markersize=2.5, alpha=0.6)
        width, height = 4 * np.sqrt(values[::-1])
        axes.add_patch(Ellipse((centre, 0), width, height, angle=angle, fill=False, color="0.1", linewidth=1.2))
        axes.annotate(f"{name} steps", (centre, 3.2), ha="center", fontsize=9)
    axes.set(xlim=(-3.6, 11.1), ylim=(-3.4, 3.6))
    axes.set_aspect("equal")
    axes.set_axis_off()


def work(axes: Axes, arrays: Mapping[str, np.ndarray]) -> None:
    """Loss by the work done for it."""
    for (name, values), colour in zip(arrays.items(), COLOURS, strict=False):
        axes.plot(values[0], values[1], label=name, color=colour)
    axes.legend(frameon=False)
    logarithmic(axes)
    plain_axes(axes, "gradients, or their worth in Hessian products", "loss")


def rates(axes: Axes, arrays: Mapping[str, np.ndarray]) -> None:
    """Final loss by learning rate."""
    lines(axes, arrays, "rate", "o-")
    logarithmic(axes)
    plain_axes(axes, "learning rate", "loss at the end")


FIGURES: dict[str, Draw] = {
    "microscope": microscope,
    "trajectories": trajectories,
    "scales": scales,
    "cloud": cloud,
    "work": work,
    "rates": rates,
}
