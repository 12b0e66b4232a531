"""The simplicial demo's plots as figures."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection

from demos.plots import COLOURS, Draw, lines, logarithmic, loss, plain_axes
from demos.simplicial.surfaces import SPACING, field


def flow(axes: Axes, arrays: Mapping[str, np.ndarray]) -> None:
    """The flow and two of its parts small and on one scale, the harmonic part large; arrows in triangles' middles."""
    axes.set_axis_off()
    middles = arrays["corners"].mean(1)
    vectors = {name: field(arrays["corners"], arrays[name], middles) for name in NAMES}
    longest = {name: float(np.linalg.norm(each, axis=-1).max()) for name, each in vectors.items()}
    for row, name in enumerate(("flow", "gradient", "curl")):
        place = axes.inset_axes((0.0, 0.69 - 0.345 * row, 0.36, 0.27))
        panel(place, arrays["corners"], vectors[name], longest["flow"], NAMES[name])
    large = axes.inset_axes((0.38, 0.0, 0.62, 0.96))
    panel(large, arrays["corners"], vectors["harmonic"], max(longest["harmonic"], 1e-9), NAMES["harmonic"])


NAMES = {"flow": "a flow", "gradient": "gradient", "curl": "eddies", "harmonic": "harmonic part"}


def panel(axes: Axes, corners: np.ndarray, vectors: np.ndarray, longest: float, title: str) -> None:
    """One flow on the triangulation, the longest arrow as long as an edge, and darker where it is stronger."""
    axes.add_collection(PolyCollection(list(corners), facecolor="0.97", edgecolor="0.85", linewidth=0.3))
    size = np.linalg.norm(vectors, axis=-1)
    shown = size > 0.02 * longest
    if shown.any():
        axes.quiver(
            *corners.mean(1)[shown].T,
            *vectors[shown].T,
            size[shown],
            cmap="viridis_r",
            clim=(-0.3 * longest, longest),  # the palest yellow is too pale
            pivot="mid",
            angles="xy",
            scale_units="xy",
            scale=longest / SPACING,
            width=0.006,
        )
    low, high = corners.min((0, 1)) - 0.03, corners.max((0, 1)) + 0.03
    axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    axes.set_aspect("equal")
    axes.set_axis_off()
    axes.set_title(title, fontsize=8, pad=2)


def diffusion(axes: Axes, arrays: Mapping[str, np.ndarray]) -> None:
    """What is left by time."""
    lines(axes, arrays, "time", "o-")
    logarithmic(axes)
    plain_axes(axes, "time", "share that is left")


def barcode(axes: Axes, arrays: Mapping[str, np.ndarray]) -> None:
    """All bars, pieces below loops, long ones first."""
    bars = arrays["bars"]
    order = np.lexsort((bars[:, 1] - bars[:, 2], bars[:, 0]))
    for row, (dimension, birth, death) in enumerate(bars[order]):
        axes.plot([birth, death], [row, row], color=COLOURS[int(dimension)], linewidth=1.8, solid_capstyle="butt")
    for dimension, name in enumerate(("pieces", "loops")):
        axes.plot([], [], color=COLOURS[dimension], label=name)
    axes.set(xlim=(0, float(arrays["farthest"])))
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.legend(frameon=False)
    plain_axes(axes, "distance", "")


FIGURES: dict[str, Draw] = {"flow": flow, "diffusion": diffusion, "barcode": barcode, "loss": loss}
