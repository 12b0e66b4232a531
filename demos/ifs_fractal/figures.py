"""The fractal demo's plots as figures."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes

from demos.plots import COLOURS, Draw, lines, loss, plain_axes

PIECES = (*COLOURS, "#5f4b8b", "#8c564b", "#7f7f7f", "#17becf")


def collage(axes: Axes, arrays: Mapping[str, np.ndarray]) -> None:
    """The attractor in the colours of its pieces, a frame around it, and the frame's image under each map."""
    points, symbols = arrays["points"], arrays["symbols"]
    axes.scatter(*points.T, s=max(0.3, 8000 / len(points)), c=np.array(PIECES)[symbols], linewidths=0, rasterized=True)
    axes.plot(*arrays["outline"].T, color="0.6", linewidth=0.8)
    for index, (corners, colour) in enumerate(zip(arrays["frames"], PIECES, strict=False)):
        axes.plot(*corners.T, color=colour, linewidth=1, label=f"image under map {'abcdefgh'[index]}")
    axes.set_aspect("equal")
    axes.set_axis_off()
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.02, 0.5), fontsize=8)


def picture(axes: Axes, arrays: Mapping[str, np.ndarray]) -> None:
    """The picture, and what becomes of a chessboard."""
    axes.set_axis_off()
    for index, (name, image) in enumerate(arrays.items()):
        panel = axes.inset_axes((0.26 * index - 0.01, 0.2, 0.24, 0.6))
        panel.imshow(image, cmap="gray", vmin=0, vmax=1)
        panel.set_title(name, fontsize=8)
        panel.set_axis_off()


def forgetting(axes: Axes, arrays: Mapping[str, np.ndarray]) -> None:
    """Error on the first task."""
    lines(axes, arrays, "tasks", "o-")
    axes.set_xticks(arrays["tasks"])
    plain_axes(axes, "tasks learned, one after the other", "error on the first task")


def capacity(axes: Axes, arrays: Mapping[str, np.ndarray]) -> None:
    """Facts read back by facts written."""
    lines(axes, arrays, "facts", "o-")
    axes.set_xscale("log", base=2)
    plain_axes(axes, "facts written / cells", "facts read back / cells")


def letters(axes: Axes, arrays: Mapping[str, np.ndarray]) -> None:
    """Letters in one point."""
    lines(axes, arrays, "s", "o-")
    axes.axvline(0.5, color="0.7", linewidth=0.8)
    axes.annotate("pieces overlap", (0.51, axes.get_ylim()[1] * 0.9), fontsize=8, color="0.4")
    plain_axes(axes, "contraction s", "letters that one point holds (float64)")


FIGURES: dict[str, Draw] = {
    "collage": collage,
    "picture": picture,
    "loss": loss,
    "forgetting": forgetting,
    "capacity": capacity,
    "letters": letters,
}
