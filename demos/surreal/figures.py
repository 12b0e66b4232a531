"""The surreal demo's plots as figures."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes

from demos.plots import COLOURS, Draw, lines, logarithmic, loss, plain_axes


def birthdays(axes: Axes, arrays: Mapping[str, np.ndarray]) -> None:
    """Numbers over the day they are born, each joined to the older number it grew from."""
    value, day = arrays["value"], arrays["day"]
    for x, born in zip(value, day, strict=True):
        if born:
            older = value[day < born]
            near = older[np.abs(older - x).argmin()]
            parents = older[(np.abs(older - x) == abs(near - x))]
            parent = max(parents, key=lambda each: int(day[value == each][0]))
            axes.plot([parent, x], [day[value == parent][0], born], color="0.8", linewidth=0.8, zorder=1)
    axes.scatter(value, day, s=60 / (1 + day), color=COLOURS[0], zorder=2)
    axes.invert_yaxis()
    axes.set_yticks(np.arange(day.max() + 1))
    plain_axes(axes, "value", "day")


def growth(axes: Axes, arrays: Mapping[str, np.ndarray]) -> None:
    """Measured over predicted."""
    axes.axhline(1.0, color="0.8", linewidth=1)
    lines(axes, {name: values for name, values in arrays.items() if name != "mean"}, "step", "o-")
    axes.plot(arrays["step"], arrays["mean"], "o-", color="0.5", label="mean")
    axes.legend(frameon=False)
    axes.set_xticks(arrays["step"])
    axes.set_ylim(0.5, 1.5)
    plain_axes(axes, "size (smallest to largest)", "measured / predicted")


def dominance(axes: Axes, arrays: Mapping[str, np.ndarray]) -> None:
    """Terms on logarithmic axes, the leading one bold at each x, a dot where the lead changes, ranks at infinity."""
    x, crossings, heights = (arrays[name] for name in ("x", "crossings", "heights"))
    terms = {name: values for name, values in arrays.items() if name not in ("x", "crossings", "heights")}
    largest = np.max(list(terms.values()), axis=0)
    ranks = ("wins at infinity", "second", "third", "fourth")
    for (name, values), colour, rank in zip(terms.items(), COLOURS, ranks, strict=True):
        axes.plot(x, values, color=colour, label=f"{name}: {rank}")
        axes.plot(x, np.where(values == largest, values, np.nan), color=colour, linewidth=5, alpha=0.5)
    axes.plot(crossings, heights, "o", color="0.2", markersize=6, zorder=3)
    for at, height in zip(crossings, heights, strict=True):
        axes.annotate(f"x = {at:.0f}", (at, height), (-4, 8), textcoords="offset points", ha="right", fontsize=9)
    logarithmic(axes)
    axes.legend(frameon=False)
    plain_axes(axes, "x", "value of the term")


FIGURES: dict[str, Draw] = {"birthdays": birthdays, "dominance": dominance, "growth": growth, "loss": loss}
