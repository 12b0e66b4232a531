"""What was observed of heads, as numbers with intervals, as JSON, as text and as heat maps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import stdtrit

from nanochat.config import EnvironmentFault
from nanochat.observed import Observed

SHADES = " ░▒▓█"
LEVEL = 0.95


def half_width(values: np.ndarray) -> np.ndarray:
    """Half of Student's 95 % interval of the mean over the first axis, seeds; NaN where there is but one."""
    count = len(values)
    if count < 2:
        return np.full(values.shape[1:], np.nan)
    return stdtrit(count - 1, 0.5 + LEVEL / 2) * values.std(0, ddof=1) / math.sqrt(count)


def document(found: Observed) -> dict[str, Any]:
    """Everything as JSON values; null where a layer has no such measure, or where one run has no interval."""
    measures = {
        name: {
            "unit": measure.unit,
            "about": measure.about,
            "runs": _plain(found.values[name]),
            "mean": _plain(found.values[name].mean(0)),
            "half_width": _plain(half_width(found.values[name])),
            "layer_mean": _plain(found.values[name].mean((0, 2))),
            "layer_half_width": _plain(half_width(found.values[name].mean(2))),
        }
        for name, measure in found.measures.items()
    }
    return {
        "schema": "mgr.heads.v1",
        "runs": [str(folder) for folder in found.runs],
        "seeds": list(found.seeds),
        "mixers": list(found.mixers),
        "windows": found.windows,
        "tokens": found.tokens,
        "measures": measures,
        "sentences": sentences(found),
    }


def _plain(values: np.ndarray) -> Any:
    return [_plain(each) for each in values] if values.ndim else (float(values) if np.isfinite(values) else None)


def rows(found: Observed) -> list[list[str]]:
    """One row per head, then one per layer: layer, head, and every measure with its interval where seeds give one."""
    layers, heads = next(iter(found.values.values())).shape[1:]
    cells = {name: (value.mean(0), half_width(value)) for name, value in found.values.items()}
    means = {name: (value.mean((0, 2)), half_width(value.mean(2))) for name, value in found.values.items()}
    shown = []
    for layer in range(layers):
        for head in range(heads):
            numbers = [_number(mean[layer, head], half[layer, head]) for mean, half in cells.values()]
            shown.append([str(layer), str(head), *numbers])
        shown.append([str(layer), "mean", *(_number(mean[layer], half[layer]) for mean, half in means.values())])
    return shown


def _number(mean: float, half: float) -> str:
    if not np.isfinite(mean):
        return ""
    return f"{mean:.3g}" if not np.isfinite(half) else f"{mean:.3g} ±{half:.2g}"


def maps(found: Observed) -> list[str]:
    """Every measure as cells, a row per layer and a column per head, from its least to its largest value."""
    shown = []
    for name, measure in found.measures.items():
        mean = found.values[name].mean(0)
        low, high = float(np.nanmin(mean)), float(np.nanmax(mean))
        lines = [f"{name}, {measure.unit}: ' ' {low:.3g} to '█' {high:.3g}"]
        for layer, values in enumerate(mean):
            cells = ("??" if not np.isfinite(value) else 2 * _shade(value, low, high) for value in values)
            lines.append(f"  layer {layer:2} |{'|'.join(cells)}|")
        shown.append("\n".join(lines))
    return shown


def _shade(value: float, low: float, high: float) -> str:
    share = (value - low) / (high - low) if high > low else 0.5
    return SHADES[round(share * (len(SHADES) - 1))]


def sentences(found: Observed) -> list[str]:
    """What stands out: the extreme heads of every measure."""
    told = []
    for name, measure in found.measures.items():
        mean = found.values[name].mean(0)
        least, most = (np.unravel_index(at, mean.shape) for at in (np.nanargmin(mean), np.nanargmax(mean)))
        if least == most:
            continue
        ends = [f"layer {at[0]} head {at[1]} ({mean[at]:.3g})" for at in (most, least)]
        told.append(f"{name} ({measure.about}) is largest in {ends[0]}, least in {ends[1]}, {measure.unit}.")
    if len(found.runs) > 1:
        told.append(
            f"± is half of a t interval of 95 % over {len(found.runs)} seeds. Heads of other seeds have other weights: "
            "where nothing tells heads apart from the start, a head's number is only a name, and layer means say more."
        )
    return told


def draw(found: Observed, folder: Path, suffix: str) -> list[Path]:
    """A heat map of every measure.

    Raises:
        EnvironmentFault: the folder takes no files.
    """
    from matplotlib.figure import Figure

    paths = []
    for name, measure in found.measures.items():
        mean = found.values[name].mean(0)
        figure = Figure(figsize=(1.6 + 0.6 * mean.shape[1], 1.4 + 0.5 * mean.shape[0]), layout="constrained")
        axes = figure.add_subplot()
        image = axes.imshow(mean, aspect="auto")
        axes.set(xlabel="head", ylabel="layer", title=f"{name}, {measure.unit}")
        axes.set_xticks(range(mean.shape[1]))
        axes.set_yticks(range(mean.shape[0]))
        figure.colorbar(image)
        path = folder / f"{name}.{suffix}"
        try:
            figure.savefig(path, metadata=_undated(suffix))
        except OSError as error:
            raise EnvironmentFault(f"--plots: cannot write {path}: {error.strerror}") from error
        paths.append(path)
    return paths


def _undated(suffix: str) -> Mapping[str, None]:
    return {"Date": None} if suffix == "svg" else {}
