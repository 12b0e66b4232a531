"""The tropical demo's plots as figures."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes

from demos.plots import COLOURS, Draw, loss, plain_axes


def curve(axes: Axes, arrays: Mapping[str, np.ndarray]) -> None:
    """The curve, and inset its dual: the Newton polygon with an edge for each pair of regions that touch."""
    winners, span, exponents = arrays["winners"], arrays["span"], arrays["exponents"]
    across, upward = winners[:, 1:] != winners[:, :-1], winners[1:, :] != winners[:-1, :]
    rows, columns = np.nonzero(across)
    axes.scatter(span[columns], span[rows], s=1, color=COLOURS[0], rasterized=True)
    rows, columns = np.nonzero(upward)
    axes.scatter(span[columns], span[rows], s=1, color=COLOURS[0], rasterized=True)
    for index in np.unique(winners):
        rows, columns = np.nonzero(winners == index)
        i, j = exponents[index]
        place = span[int(np.median(columns))], span[int(np.median(rows))]
        axes.annotate(f"${power(i, j)}$", place, ha="center", va="center", fontsize=8, color="0.35")
    axes.set_aspect("equal")
    plain_axes(axes, "x", "y")
    dual = axes.inset_axes((1.08, 0.25, 0.5, 0.5))
    for left, right in touching(winners):
        dual.plot(*exponents[[left, right]].T, "-", color=COLOURS[1], linewidth=1)
    dual.plot(*exponents.T, ".", color="0.2", markersize=5)
    dual.set_title("Newton polygon, subdivided", fontsize=8)
    dual.set_aspect("equal")
    dual.set_axis_off()


def power(i: int, j: int) -> str:
    """A monomial in TeX."""
    return (("x" if i == 1 else f"x^{i}") if i else "") + (("y" if j == 1 else f"y^{j}") if j else "") or "1"


def touching(winners: np.ndarray, least: int = 3) -> list[tuple[int, int]]:
    """Pairs of regions with a common border of at least ``least`` pixels; fewer is a corner."""
    borders = [(winners[:, 1:], winners[:, :-1]), (winners[1:, :], winners[:-1, :])]
    pairs = np.concatenate([np.stack([np.minimum(a, b), np.maximum(a, b)], -1)[a != b] for a, b in borders])
    found, counts = np.unique(pairs, axis=0, return_counts=True)
    return [(int(left), int(right)) for (left, right), count in zip(found, counts, strict=True) if count >= least]


def radius(axes: Axes, arrays: Mapping[str, np.ndarray]) -> None:
    """Distribution of the certified radii."""
    labels = {"cache": "change of keys and values (exact)", "inputs": "change of the inputs (sound)"}
    for (name, label), colour in zip(labels.items(), COLOURS, strict=False):
        axes.step(arrays[name], arrays["share"], label=label, color=colour)
    axes.legend(frameon=False)
    plain_axes(axes, "radius (units of distance)", "share of winners below")


FIGURES: dict[str, Draw] = {"curve": curve, "loss": loss, "radius": radius}
