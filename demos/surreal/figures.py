"""The surreal demo's plots as figures."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes

from demos.plots import COLOURS, Draw, lines, loss, plain_axes


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


FIGURES: dict[str, Draw] = {"birthdays": birthdays, "growth": growth, "loss": loss}
