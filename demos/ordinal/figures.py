"""The ordinal demo's plots as figures."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes

from demos.ordinal.checks import bound
from demos.ordinal.drawing import left, polynomial
from demos.plots import COLOURS, Draw, logarithmic, plain_axes

KNOBS = "knobs"  # key of the array A, B, C


def ruler(axes: Axes, knobs: Mapping[str, int]) -> None:
    """Ordinals below the first rank as a scale: long marks at multiples of omega^2, short ones at those of omega."""
    for a in range(knobs["restarts"] + 1):
        for b in range(knobs["anneals"] + 1):
            at = float(left(np.array([a, b, 0]), knobs))
            axes.axhline(at, color="0.75" if b == 0 else "0.92", linewidth=0.9 if b == 0 else 0.7, zorder=0)
    shown = range(0, knobs["restarts"] + 1, max(1, knobs["restarts"] // 4))
    ticks = {float(left(np.array([a, 0, 0]), knobs)): written(str(polynomial(a, 0, 0))) for a in shown}
    top = polynomial(knobs["restarts"], knobs["anneals"], knobs["patience"])
    ticks[float(bound(knobs))] = written(str(top))
    axes.set_yticks(list(ticks), list(ticks.values()))


def written(ordinal: str) -> str:
    """An ordinal as matplotlib sets formulas."""
    return "$" + ordinal.replace("ω", r"\omega").replace("·", r"\cdot ") + "$"


def counts(arrays: Mapping[str, np.ndarray]) -> dict[str, int]:
    """A, B and C from the arrays of a plot."""
    return dict(zip(("restarts", "anneals", "patience"), arrays[KNOBS].tolist(), strict=True))


def descent(axes: Axes, arrays: Mapping[str, np.ndarray]) -> None:
    """Ranks on four streams of losses."""
    knobs = counts(arrays)
    ruler(axes, knobs)
    streams = [(name, ranks) for name, ranks in arrays.items() if name != KNOBS]
    for (name, ranks), colour in zip(streams, COLOURS, strict=False):
        axes.plot(left(ranks, knobs), label=name, color=colour, linewidth=1.6)
    axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4)
    plain_axes(axes, "losses heard", "rank")


def run(axes: Axes, arrays: Mapping[str, np.ndarray]) -> None:
    """The rank of the run that was trained; lines in three shades: full, first and second cut of the rate."""
    knobs = counts(arrays)
    ruler(axes, knobs)
    rank, factors = left(arrays["ranks"], knobs), arrays["factors"]
    steps = np.arange(len(rank))
    for factor, colour in zip(np.unique(factors)[::-1], COLOURS, strict=False):
        axes.plot(steps, np.where(factors == factor, rank, np.nan), color=colour, linewidth=2.2, label=f"{factor:g}")
    for step in arrays["shifts"]:
        axes.axvline(step, color="0.3", linestyle=":", linewidth=1)
    axes.legend(frameon=False, title="rate over peak", loc="upper right")
    plain_axes(axes, "training step (dotted: the curve shifts)", "rank")


def errors(axes: Axes, arrays: Mapping[str, np.ndarray]) -> None:
    """Error of each schedule on the stream of the run."""
    series = [(name, values) for name, values in arrays.items() if name not in ("steps", "shifts")]
    for (name, values), colour in zip(series, COLOURS, strict=False):
        axes.plot(arrays["steps"], values, color=colour, label=name, linewidth=1.4)
    for step in arrays["shifts"]:
        axes.axvline(step, color="0.3", linestyle=":", linewidth=1)
    logarithmic(axes, "y")
    axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4)
    plain_axes(axes, "training step (dotted: the curve shifts)", "error")


def hydra(axes: Axes, arrays: Mapping[str, np.ndarray]) -> None:
    """Trees of a battle side by side, heads as dots."""
    for place, (caption, edges) in enumerate(arrays.items()):
        x = 1.35 * place
        for x0, y0, x1, y1 in edges:
            axes.plot([x + x0, x + x1], [y0, y1], color="0.35", linewidth=1.1, zorder=1)
        ends = {(x0, y0) for x0, y0, _, _ in edges}
        heads = np.array([(x1, y1) for _, _, x1, y1 in edges if (x1, y1) not in ends]).reshape(-1, 2)
        axes.plot(x + heads[:, 0], heads[:, 1], "o", color=COLOURS[1], markersize=5, zorder=2)
        axes.plot(x + edges[edges[:, 1] == 0, 0].min(initial=1.0), 0, "s", color=COLOURS[0], markersize=6, zorder=2)
        cut, _, rank = caption.partition(": ")
        axes.annotate(f"{cut}\n{written(rank)}", (x + 0.5, -0.25), ha="center", va="top", fontsize=9)
    axes.set_ylim(-0.8, 2.2)
    axes.set_axis_off()


FIGURES: dict[str, Draw] = {"hydra": hydra, "descent": descent, "errors": errors, "run": run}
