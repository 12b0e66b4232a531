"""The report's pictures as inline SVG: no network, text stays text, colours follow the page's light or dark scheme."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nanochat.bench.jobs import Failure, thinned
from nanochat.bench.store import Outcome
from nanochat.bench.tuning import RUNGS
from nanochat.bench.verdicts import Verdicts

COLOURS = (
    *("#7a7f87", "#3b82d6", "#e0792b", "#2f9e6e", "#c257b3", "#8b6fd6"),
    *("#a8941c", "#d9534f", "#2aa5b8", "#7fa650", "#b0705a", "#5b6fb5"),
)
"""The baseline's grey, then one per arm; readable on white and on near-black."""

INK, FAINT = "#123456", "#654321"
"""Stand-ins that :func:`render` replaces by the page's own colours."""

WIDTH = 4.4
"""Inches: text of 9 points stays legible on a phone 400 pixels wide."""

STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "mgr",
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": FAINT,
    "grid.linewidth": 0.4,
    "figure.constrained_layout.use": True,
}

LONGEST = 22

MOST_TICKS = 6

POINTS = 50
"""Of a learning curve: each is the mean over a fiftieth of the run, since single batches are noise."""


def short(label: str) -> str:
    """A label that fits beside an axis."""
    return label if len(label) <= LONGEST else label[: LONGEST - 1] + "…"


def colour(index: int) -> str:
    """Of the arm with this index; the baseline has 0."""
    return COLOURS[index % len(COLOURS)]


def superscript(number: int) -> str:
    """Digits for an exponent."""
    return str(number).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def render(draw: Callable[[Axes], None], height: float, title: str) -> str:
    """One axes as an SVG element; ``title`` is what a screen reader says."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height))
        axes = figure.add_subplot()
        draw(axes)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<svg [^>]*?viewBox="([^"]+)"[^>]*>', r'<svg role="img" viewBox="\1"><title></title>', svg, count=1)
    svg = svg.replace("<title></title>", f"<title>{title}</title>", 1)
    return svg.replace(INK, "currentColor").replace(FAINT, "var(--faint)")


def forest(verdicts: Verdicts) -> str:
    """Difference to the baseline with its simultaneous interval, one row per arm, and the band of no interest."""
    arms = verdicts.contenders
    colours = {arm.label: colour(number) for number, arm in enumerate(verdicts.arms)}
    sesoi = verdicts.plan.config.sesoi

    def draw(axes: Axes) -> None:
        axes.axvspan(-sesoi, sesoi, color="#8a8f98", alpha=0.18, linewidth=0)
        axes.axvline(0, color=INK, linewidth=0.8)
        for row, arm in enumerate(arms):
            if arm.difference is None or arm.low is None or arm.high is None:
                axes.text(0, row, f"  {arm.verdict}", va="center")
                continue
            axes.plot([arm.low, arm.high], [row, row], color=colours[arm.label], linewidth=2.2, solid_capstyle="butt")
            axes.plot(arm.difference, row, "o", color=colours[arm.label], markersize=6)
        axes.set_yticks(range(len(arms)), [short(arm.label) for arm in arms])
        axes.set_ylim(len(arms) - 0.5, -0.5)
        axes.set_xlabel("Δ bits per byte (left is better)")

    return render(draw, 0.95 + 0.42 * len(arms), "Difference to the baseline with simultaneous confidence intervals")


def paired_seeds(verdicts: Verdicts) -> str:
    """Held-out bits per byte of every seed; a line joins the arms of one seed."""
    arms = verdicts.arms

    def draw(axes: Axes) -> None:
        most = max(len(arm.bpb) for arm in arms)
        rows = ([math.nan if bpb is None else bpb for bpb in arm.bpb] for arm in arms)
        values = np.array([row + [math.nan] * (most - len(row)) for row in rows])  # a decided arm has fewer seeds
        for seed in range(values.shape[1]):
            axes.plot(range(len(arms)), values[:, seed], color=FAINT, linewidth=0.7, zorder=1)
        for index in range(len(arms)):
            axes.plot([index] * values.shape[1], values[index], "o", color=colour(index), markersize=4.5, zorder=2)
        labels = [short(arm.label) for arm in arms]
        tilt = 0 if len("".join(labels)) < 44 else 30
        axes.set_xticks(range(len(arms)), labels, rotation=tilt, ha="right" if tilt else "center")
        axes.set_xlim(-0.4, len(arms) - 0.6)
        axes.set_ylabel("held-out bits per byte")

    return render(draw, 2.9, "Held-out bits per byte by arm; lines join the same seed")


def learning(verdicts: Verdicts, axis: str) -> str:
    """Mean training loss of the verdict runs with its range over seeds, against ``operations`` or ``seconds``."""
    plan = verdicts.plan
    power = math.floor(math.log10(plan.budget))
    scale = 10.0**power

    def draw(axes: Axes) -> None:
        for index, arm in enumerate(verdicts.arms):
            done = [
                outcome
                for job, outcome in verdicts.runs[arm.label]
                if job.stage == "verdict" and not isinstance(outcome, Failure) and not outcome.diverged
            ]
            if not done:
                continue
            steps, low, mean, high = _band(done)
            unit = plan.step_flops(arm.label) / scale if axis == "operations" else arm.step_seconds or 0.0
            axes.fill_between(steps * unit, low, high, color=colour(index), alpha=0.15, linewidth=0)
            axes.plot(steps * unit, mean, color=colour(index), linewidth=1.4)
        axes.set_xlabel(
            f"operations, in 10{superscript(power)}" if axis == "operations" else "seconds of training on one core"
        )
        axes.set_ylabel("training loss, nats per token")
        axes.grid(visible=True, axis="y")

    return render(draw, 2.9, f"Training loss against {axis}")


def _band(runs: Sequence[Outcome]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Steps, and the least, mean and largest loss over runs, as far as all of them go."""
    curves = [thinned(run.loss_curve, POINTS) for run in runs]
    length = min(map(len, curves))
    points = np.array([curve[:length] for curve in curves])
    losses = points[..., 1]
    return points[0, :, 0] + 1, losses.min(0), losses.mean(0), losses.max(0)


def learning_rates(verdicts: Verdicts) -> str:
    """Mean held-out score of every rate tried; the ring marks the choice."""
    plan = verdicts.plan
    last = len(RUNGS) - 1

    def draw(axes: Axes) -> None:
        tried: set[float] = set()
        for index, arm in enumerate(verdicts.arms):
            centre = plan.centre(arm.label)
            tried |= {centre * 2.0**point for point in arm.tuned.scores[0]}
            for rung, style in ((0, ":"), (last, "-")):
                points = [(centre * 2.0**at, bpb) for at, bpb in arm.tuned.scores[rung].items() if math.isfinite(bpb)]
                if points:
                    axes.plot(*zip(*points, strict=True), style, color=colour(index), marker=".")
            best = arm.tuned.scores[last][arm.tuned.point]
            if math.isfinite(best):
                axes.plot(
                    centre * 2.0**arm.tuned.point, best, "o", color=colour(index), fillstyle="none", markersize=10
                )
        axes.set_xscale("log", base=2)
        shown = sorted(tried)[:: -(-len(tried) // MOST_TICKS)]
        axes.set_xticks(shown, [f"{rate:.2g}" for rate in shown])
        axes.minorticks_off()
        axes.set_xlabel("peak learning rate")
        axes.set_ylabel("held-out bits per byte")
        axes.grid(visible=True, axis="y")

    return render(draw, 2.9, "Held-out bits per byte against the learning rate of the tuning runs")


COSTS = {
    "seconds": ("seconds of training on one core", 1.0),
    "peak_bytes": ("peak memory, MiB", 2.0**-20),
    "parameters": ("parameters, thousands", 1e-3),
}
"""What an arm costs beside the operations that all of them share: label and scale by field of its verdict."""


def pareto(verdicts: Verdicts, cost: str) -> str:
    """Held-out bits per byte against a cost; the line joins the arms that no other one beats in both."""
    label, scale = COSTS[cost]
    points = [
        (getattr(arm, cost) * scale, arm.mean, index)
        for index, arm in enumerate(verdicts.arms)
        if arm.mean is not None and getattr(arm, cost) is not None
    ]

    def draw(axes: Axes) -> None:
        front = undominated([(x, y) for x, y, _ in points])
        axes.step(*zip(*front, strict=True), where="post", color=FAINT, linewidth=1, zorder=1)
        for x, y, index in points:
            axes.plot(x, y, "o", color=colour(index), markersize=6, zorder=2)
        axes.margins(0.12)
        axes.set_xlabel(f"{label} (left is better)")
        axes.set_ylabel("held-out bits per byte")

    return render(draw, 2.6, f"Held-out bits per byte against {label}") if points else ""


def undominated(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points that no other one is at least as good as in both coordinates, from left to right; less is better."""
    front: list[tuple[float, float]] = []
    for x, y in sorted(set(points)):
        if not front or y < front[-1][1]:
            front.append((x, y))
    return front


def documents(verdicts: Verdicts) -> str:
    """Where the differences lie: how many held-out passages each arm reads better or worse by how much."""
    curves = {}
    for index, arm in enumerate(verdicts.arms):
        found = by_document(verdicts, arm.label) if arm.against else None
        if found is not None:
            curves[index] = np.sort(found)
    if not curves:
        return ""

    def draw(axes: Axes) -> None:
        axes.axvline(0, color=INK, linewidth=0.8)
        for index, values in curves.items():
            axes.plot(values, np.arange(1, len(values) + 1) / len(values), color=colour(index), linewidth=1.4)
        axes.set_xlabel("Δ bits per byte of a passage (left is better)")
        axes.set_ylabel("share of passages")
        axes.grid(visible=True, axis="y")

    return render(draw, 2.6, "Share of held-out passages by their difference to the baseline")


def by_document(verdicts: Verdicts, label: str) -> np.ndarray | None:
    """Mean over seeds of an arm's difference on every passage, bits per byte; None where pairs are not complete."""
    ours, theirs = (
        [outcome for job, outcome in verdicts.runs[name] if job.stage == "verdict"]
        for name in (label, verdicts.plan.against[label])
    )
    pairs = list(zip(ours, theirs, strict=False))
    differences = [
        np.array(a.document_nats) - np.array(b.document_nats)
        for a, b in pairs
        if isinstance(a, Outcome) and isinstance(b, Outcome) and a.document_nats and b.document_nats
    ]
    if not pairs or len(differences) < len(pairs):
        return None
    sizes = next(each.document_bytes for each in ours if isinstance(each, Outcome))
    return np.mean(differences, axis=0) / (np.log(2) * np.array(sizes))
