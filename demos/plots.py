"""Figures on request: every plot of a result as PNG (or SVG), drawn by the demo's own ``figures`` module."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

from demos.result import Result

Draw = Callable[[Axes, Mapping[str, np.ndarray]], None]
STYLE = {"figsize": (6.4, 4.0), "layout": "constrained"}
REPEATABLE: dict[Any, Any] = {"svg.hashsalt": "mgr"}  # two runs with the same numbers write the same file
COLOURS = ("#0b6e99", "#d1495b", "#66a182", "#edae49")  # distinct in greyscale and for colour-blind readers

SHORT = 300  # a logarithmic axis on which two or three powers of ten would be all


def save(result: Result, directory: Path, suffix: str = "png") -> list[Path]:
    """Draw every named plot of a result into ``directory`` and give the paths, in order.

    Args:
        result: from a demo's ``run``.
        directory: made if it is not there.
        suffix: ``png`` or ``svg``.

    Raises:
        ValueError: for another suffix.
        OSError: when the directory cannot be written.
    """
    if suffix not in ("png", "svg"):
        raise ValueError(f"figure format: got {suffix!r}, need png or svg")
    directory.mkdir(parents=True, exist_ok=True)
    figures: Mapping[str, Draw] = importlib.import_module(
        f"demos.{result.config.name.replace('-', '_')}.figures"
    ).FIGURES
    paths = []
    for plot in result.plots():
        if not plot.name:
            continue
        figure = Figure(**STYLE)
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        figures[plot.name](axes, plot.arrays)
        figure.suptitle(plot.title, fontsize=10)
        paths.append(directory / f"{result.config.name}-{plot.name}.{suffix}")
        with rc_context(REPEATABLE):
            figure.savefig(paths[-1], dpi=150, metadata={"Date": None} if suffix == "svg" else {})
    return paths


def plain_axes(axes: Axes, xlabel: str, ylabel: str) -> None:
    """Label the axes and take away the frame that carries no information."""
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.spines[["top", "right"]].set_visible(False)


def lines(axes: Axes, arrays: Mapping[str, np.ndarray], shared: str, style: str = "-") -> None:
    """Every other array over the one named ``shared``, in the house colours, with a legend."""
    series = [(name, values) for name, values in arrays.items() if name != shared]
    for (name, values), colour in zip(series, COLOURS, strict=False):
        axes.plot(arrays[shared], values, style, label=name, color=colour)
    axes.legend(frameon=False)


def logarithmic(axes: Axes, which: str = "xy") -> None:
    """Logarithmic axes of what was drawn, labelled at 1, 2 and 5 where there are few decades, else at powers of ten.

    The default labels every tick of a short axis, and they overlap.
    """
    for letter in which:
        axes.set(**{f"{letter}scale": "log"})
        low, high = axes.get_xlim() if letter == "x" else axes.get_ylim()
        axis = axes.xaxis if letter == "x" else axes.yaxis
        axis.set_minor_formatter(NullFormatter())
        if high < SHORT * low:
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter(FormatStrFormatter("%g"))


def loss(axes: Axes, arrays: Mapping[str, np.ndarray]) -> None:
    """Loss by training step, of what :func:`demos.stage.loss_plot` made."""
    lines(axes, arrays, "steps")
    logarithmic(axes)
    plain_axes(axes, "training step", "loss")
