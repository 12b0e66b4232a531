"""The simplicial demo's plots as figures."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection

from demos.plots import COLOURS, Draw, lines, loss, plain_axes
from demos.simplicial.surfaces import field


def flow(axes: Axes, arrays: Mapping[str, np.ndarray]) -> None:
    """The flow and two of its parts small, the harmonic part large; arrows at the middles of triangles."""
    axes.set_axis_off()
    low, high = arrays["corners"].min((0, 1)), arrays["corners"].max((0, 1))
    strongest = max(strength(arrays, name).max() for name in ("flow", "harmonic"))
    for row, name in enumerate(("flow", "gradient", "curl")):
        panel(axes.inset_axes((0.0, 0.68 - 0.34 * row, 0.36, 0.3)), arrays, name, strongest, low, high)
    panel(axes.inset_axes((0.38, 0.0, 0.62, 0.96)), arrays, "harmonic", strongest, low, high)


def strength(arrays: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    """Lengths of a flow's vectors at the middles of triangles."""
    return np.linalg.norm(field(arrays["corners"], arrays[name], arrays["corners"].mean(1)), axis=-1)


def panel(
    axes: Axes, arrays: Mapping[str, np.ndarray], name: str, strongest: float, low: np.ndarray, high: np.ndarray
) -> None:
    """One flow on the triangulation, arrows darker where it is stronger."""
    corners = arrays["corners"]
    middles = corners.mean(1)
    vectors = field(corners, arrays[name], middles)
    axes.add_collection(PolyCollection(list(corners), facecolor="0.97", edgecolor="0.85", linewidth=0.3))
    size = np.linalg.norm(vectors, axis=-1)
    shown = size > 0.02 * strongest
    if shown.any():
        axes.quiver(
            *middles[shown].T, *vectors[shown].T, size[shown], cmap="viridis_r", clim=(0, strongest), pivot="mid",
            angles="xy", scale_units="xy", scale=6 * strongest, width=0.006,
        )  # fmt: skip
    axes.set(xlim=(low[0] - 0.03, high[0] + 0.03), ylim=(low[1] - 0.03, high[1] + 0.03))
    axes.set_aspect("equal")
    axes.set_axis_off()
    axes.set_title({"flow": "a flow", "curl": "eddies", "harmonic": "harmonic part"}.get(name, name), fontsize=8)


def diffusion(axes: Axes, arrays: Mapping[str, np.ndarray]) -> None:
    """What is left by time."""
    lines(axes, arrays, "time", "o-")
    axes.set(xscale="log", yscale="log")
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
