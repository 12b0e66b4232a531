"""The report's pictures. Each is an arm beside its baseline, or all arms at once where that can still be read."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from scipy.special import stdtrit

from nanochat.bench.chart import Chart, Point, around, round_numbers, tick_texts
from nanochat.bench.jobs import Failure, thinned
from nanochat.bench.stages import VERDICT, share_stage
from nanochat.bench.store import Outcome
from nanochat.bench.suite import GAIN_SHARES
from nanochat.bench.tuning import RUNGS, rate_on
from nanochat.bench.verdicts import ArmVerdict, Verdicts
from nanochat.bench.wording import number_text, signed, span, superscript

POINTS = 40
"""Of a learning curve: each is the mean over a fortieth of the run, since single batches are noise."""

SKIPPED = 0.05
"""Share of a run that its learning curve leaves out: from there the loss falls too steeply to see anything else."""

MARGIN = 0.2
"""Room above and below mean learning curves, as a share of their range; an interval may reach further and is cut."""

BINS = 24
MOST_NAMED = 12

Picture = tuple[str, str]
"""An SVG element and its caption; the element is empty where there is nothing to draw."""


def outcomes(verdicts: Verdicts, label: str, stage: str = VERDICT) -> list[Outcome]:
    """Finished runs of one stage that did not diverge, by seed."""
    runs = (outcome for job, outcome in verdicts.runs[label] if job.stage == stage)
    return [run for run in runs if not isinstance(run, Failure) and not run.diverged]


def forest(verdicts: Verdicts, arms: Sequence[ArmVerdict], link: Callable[[ArmVerdict], str]) -> str:
    """Rows of differences with simultaneous intervals, the best first; the band is of no interest.

    Args:
        verdicts: the suite; all its forests have one axis.
        arms: contenders.
        link: the name of an arm as HTML.
    """
    sesoi = verdicts.plan.config.sesoi
    drawn = [each for arm in verdicts.contenders for each in (arm.low, arm.high) if each is not None]
    low, high = around((*drawn, -2 * sesoi, 2 * sesoi), 0.04)

    def at(value: float) -> str:
        return f"{100 * (value - low) / (high - low):.2f}%"

    band = f'<rect class="none" x="{at(-sesoi)}" width="{200 * sesoi / (high - low):.2f}%" height="100%"/>'
    zero = f'<line class="zero" x1="{at(0)}" x2="{at(0)}" y1="0" y2="100%"/>'
    rows = []
    for arm in sorted(arms, key=lambda arm: math.inf if arm.difference is None else arm.difference):
        marks, told = "", '<span class="soft">no comparison</span>'
        if arm.difference is not None and arm.low is not None and arm.high is not None:
            marks = f'<line class="span" x1="{at(arm.low)}" x2="{at(arm.high)}" y1="12" y2="12"/>'
            marks += f'<circle cx="{at(arm.difference)}" cy="12" r="5"/>'
            told = f"{signed(arm.difference)} <span>{span(arm.low, arm.high)}</span>"
        chip = f'<span><b class="word {arm.verdict}">{arm.verdict}</b></span>'
        rows.append(
            f'<li><span class="who">{link(arm)}</span><svg class="{arm.verdict}" aria-hidden="true">{band}{zero}{marks}'
            f'</svg><span class="told">{chip} <span>{told}</span></span></li>'
        )
    ticks = round_numbers(low, high, 5)
    labels = "".join(
        f'<text x="{at(tick)}" y="13">{text}</text>' for tick, text in zip(ticks, tick_texts(ticks), strict=True)
    )
    axis = f'<span>← better</span><svg aria-hidden="true">{labels}</svg><span>worse →</span>'
    return f'<ul class="forest">{"".join(rows)}<li class="axis" aria-hidden="true">{axis}</li></ul>'


@dataclass(frozen=True, slots=True)
class Portrait:
    """Pictures of one arm beside its baseline.

    Args:
        verdicts: the suite.
        arm: a contender.
    """

    verdicts: Verdicts
    arm: ArmVerdict

    @property
    def base(self) -> ArmVerdict:
        return next(arm for arm in self.verdicts.arms if arm.label == self.arm.against)

    def pictures(self) -> list[Picture]:
        """All that there is something to see in."""
        drawn = (
            self.seeds(),
            self.learning("operations"),
            self.learning("seconds"),
            self.learning_rates(),
            self.documents(),
        )
        return [picture for picture in drawn if picture[0]]

    def seeds(self) -> Picture:
        """Held-out score of every seed, joined with the baseline's on the same seed."""
        pairs = list(zip(self.base.bpb, self.arm.bpb, strict=False))
        whole = [(theirs, ours) for theirs, ours in pairs if theirs is not None and ours is not None]
        if not whole:
            return "", ""
        better = sum(ours < theirs for theirs, ours in whole)
        told = f"better than the baseline in {better} of {len(pairs)} seeds"
        lost = len(pairs) - len(whole)
        told += f"; {lost} without a result" if lost else ""
        title = f"{self.arm.label}: held-out score of every seed beside the baseline's"
        chart = self._chart(title, told, (-0.35, 1.35), around(sum(whole, ())), "")
        chart.x_ticks = [(0.0, "baseline"), (1.0, "this arm")]
        for theirs, ours in whole:
            chart.line([(0, theirs), (1, ours)], "pair better" if ours < theirs else "pair worse")
        for seed, (theirs, ours) in enumerate(pairs):
            if theirs is not None:
                chart.dot((0, theirs), "base", f"seed {seed}: {theirs:.4f}")
            if ours is not None:
                chart.dot((1, ours), "arm", f"seed {seed}: {ours:.4f}")
        return chart.svg(), f"<b>Seeds</b> {told}"

    def _chart(
        self, title: str, description: str, x: Point, y: Point, x_label: str, y_label: str = "held-out bits per byte"
    ) -> Chart:
        return Chart(title, description, x, y, x_label, y_label)

    def learning(self, axis: str) -> Picture:
        """Mean training loss with its interval over seeds, against ``operations`` or ``seconds``."""
        power = math.floor(math.log10(self.verdicts.plan.budget))
        curves = []
        for arm, kind in ((self.base, "base"), (self.arm, "arm")):
            runs = outcomes(self.verdicts, arm.label)
            if not runs:
                return "", ""
            flops = self.verdicts.plan.step_flops(arm.label) / 10.0**power
            curves.append((kind, *curve(runs, flops if axis == "operations" else arm.step_seconds or 0.0)))
        ends = [float(each[1][-1]) for each in curves]
        ends_of_y = around([float(value) for each in curves for value in each[3]], MARGIN)
        label = f"operations, in 10{superscript(power)}" if axis == "operations" else "seconds of training on one core"
        told = f"ends at {curves[1][3][-1]:.3f} nats per token, the baseline at {curves[0][3][-1]:.3f}"
        title = f"{self.arm.label}: training loss against {axis}"
        chart = self._chart(title, told, (0.0, 1.02 * max(ends)), ends_of_y, label, "training loss, nats per token")
        for kind, at, low, mean, high in curves:
            columns = [np.column_stack([at, np.clip(each, *ends_of_y)]).tolist() for each in (low, mean, high)]
            chart.band(columns[0], columns[2], f"band {kind}")
            chart.line(columns[1], f"curve {kind}")
        if axis == "operations":
            return chart.svg(), f"<b>Learning, by operations</b> {told}"
        ratio = self.arm.time_ratio
        pace = "" if ratio is None else f"{ratio:.2f} times the baseline's seconds per step"
        return chart.svg(), f"<b>Learning, by seconds</b> {pace}"

    def learning_rates(self) -> Picture:
        """Mean held-out score of every rate tried; the ring marks the choice."""
        plan, last = self.verdicts.plan, len(RUNGS) - 1
        centres = {arm.label: plan.centre(arm.label) for arm in (self.base, self.arm)}
        finite = [
            bpb
            for arm in (self.base, self.arm)
            for scores in arm.tuned.scores.values()
            for bpb in scores.values()
            if math.isfinite(bpb)
        ]
        tried = sorted(
            rate_on(rung, centres[arm.label], at)
            for arm in (self.base, self.arm)
            for rung, scores in arm.tuned.scores.items()
            for at in scores
        )
        if not finite or not tried:
            return "", ""
        title, told = f"{self.arm.label}: held-out score against the learning rate", f"{self.arm.tuned.rate:.3g}"
        told = f"{told} used at the full budget" + (", at the edge of what was tried" * self.arm.tuned.at_edge)
        chart = self._chart(title, told, around(tried, 0.05, log=True), around(finite), "peak learning rate")
        chart.log = True
        kept = sorted(set(tried))
        chart.x_ticks = [(rate, f"{rate:.2g}") for rate in kept[:: -(-len(kept) // 4)]]
        for arm, kind in ((self.base, "base"), (self.arm, "arm")):
            centre = centres[arm.label]
            for rung, scores in arm.tuned.scores.items():
                stroke = "short" if rung == 0 else "long"
                points = [(rate_on(rung, centre, at), bpb) for at, bpb in sorted(scores.items()) if math.isfinite(bpb)]
                chart.line(points, f"curve {kind} {stroke}")
                for point in points:
                    chart.dot(point, kind, f"{point[0]:.3g}: {point[1]:.4f}", 2.2)
                for at in (at for at, bpb in scores.items() if not math.isfinite(bpb)):
                    chart.cross(rate_on(rung, centre, at), kind)
            best = arm.tuned.scores.get(last, {}).get(arm.tuned.point, math.inf)
            if math.isfinite(best):
                chart.dot((arm.tuned.rate, best), f"ring {kind}", "the choice", 6)
        return chart.svg(), f"<b>Learning rate</b> {told}"

    def documents(self) -> Picture:
        """How many held-out passages are read better or worse by how much."""
        found = by_document(self.verdicts, self.arm.label)
        if found is None:
            return "", ""
        better = int((found < 0).sum())
        told = f"{better} of {len(found)} read better than by the baseline"
        width = max((float(found.max()) - float(found.min())) / BINS, 1e-9)
        bins = np.floor(found / width).astype(int)  # zero is an edge: no column holds both signs
        counts = {int(at): int((bins == at).sum()) for at in np.unique(bins)}
        ends = around([min(counts) * width, (max(counts) + 1) * width, 0.0], 0.02)
        title = f"{self.arm.label}: passages by their difference"
        chart = self._chart(title, told, ends, (0.0, 1.08 * max(counts.values())), "Δ bits per byte", "passages")
        for at, count in counts.items():
            chart.bar(at * width, (at + 1) * width, count, "better" if at < 0 else "worse")
        chart.upright(0.0, "zero")
        return chart.svg(), f"<b>Passages</b> {told}"


def curve(runs: Sequence[Outcome], unit: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Place (step times ``unit``), and the low end, mean and high end of the 95 % interval of the loss over seeds."""
    curves = [thinned(run.loss_curve, POINTS) for run in runs]
    length = min(map(len, curves))
    points = np.array([each[:length] for each in curves])
    points = points[:, min(int(SKIPPED * length), length - 1) :]
    losses, n = points[..., 1], len(points)
    mean = losses.mean(0)
    half = stdtrit(n - 1, 0.975) * losses.std(0, ddof=1) / np.sqrt(n) if n > 1 else np.zeros_like(mean)
    return (points[0, :, 0] + 1) * unit, mean - half, mean, mean + half


@dataclass(frozen=True, slots=True)
class Cost:
    """What an arm costs: a heading with its unit, a short name, and the number."""

    label: str
    name: str
    of: Callable[[ArmVerdict], float | None]


COSTS = (
    Cost("seconds of training on one core", "seconds", lambda arm: arm.seconds),
    Cost("peak memory, MiB", "memory", lambda arm: None if arm.peak_bytes is None else arm.peak_bytes * 2.0**-20),
    Cost("parameters, thousands", "parameters", lambda arm: arm.parameters * 1e-3),
)
"""Beside the operations that all arms share."""


def comparable(verdicts: Verdicts) -> list[ArmVerdict]:
    """Arms that a front may rest on: with a score, no failed audit, no diverged run."""
    return [arm for arm in verdicts.arms if arm.mean is not None and arm.verdict not in ("INVALID", "UNSTABLE")]


def undominated(points: Sequence[Point]) -> list[Point]:
    """The points that no other one is at least as good as in both coordinates, from left to right; less is better."""
    front: list[Point] = []
    for x, y in sorted(set(points)):
        if not front or y < front[-1][1]:
            front.append((x, y))
    return front


def on_front(verdicts: Verdicts, cost: Cost) -> list[ArmVerdict]:
    """The arms that no other one beats in both loss and cost."""
    points = {arm.label: (cost.of(arm), arm.mean) for arm in comparable(verdicts)}
    front = undominated([(x, y) for x, y in points.values() if x is not None and y is not None])
    return [arm for arm in comparable(verdicts) if points[arm.label] in front]


def pareto(verdicts: Verdicts, cost: Cost) -> Picture:
    """Held-out bits per byte against a cost; the line joins the arms that no other one beats in both."""
    placed = [(arm, (x, arm.mean)) for arm in comparable(verdicts) if (x := cost.of(arm)) is not None]
    points = {arm.label: (x, y) for arm, (x, y) in placed if y is not None}
    if not points:
        return "", ""
    front = on_front(verdicts, cost)
    names = ", ".join(arm.label for arm in front)
    chart = _wide(
        f"Held-out bits per byte against {cost.label}", f"On the front: {names}.", list(points.values()), cost.label
    )
    chart.line(undominated(list(points.values())), "front", steps=True)
    _named_dots(chart, verdicts, points, front)
    return chart.svg(), f"<b>Loss against {cost.name}</b> on the front: {escape(names)}"


def budgets(verdicts: Verdicts) -> Picture:
    """Held-out bits per byte against operations, at every budget that was run; a line joins an arm's budgets."""
    plan = verdicts.plan
    curves: dict[str, list[Point]] = {}
    for arm in comparable(verdicts):
        full = arm.operations / plan.budget if plan.config.match == "time" else 1.0
        found = [(full, arm.mean)]
        for share in {*plan.preset.shares, *GAIN_SHARES}:
            scores = [run.bpb for run in outcomes(verdicts, arm.label, share_stage(share)) if run.bpb is not None]
            found += [(full * share, sum(scores) / len(scores))] if scores else []
        curves[arm.label] = sorted((x, y) for x, y in found if y is not None)
    points = [point for each in curves.values() for point in each]
    if not points:
        return "", ""
    front = undominated(points)
    best = [arm for arm in comparable(verdicts) if set(curves[arm.label]) & set(front)]
    names = ", ".join(arm.label for arm in best)
    said = f"on the front: {names}"
    if plan.config.match != "time" and len({x for x, _ in points}) == 1:
        said = "the same for all, by design"
    label = f"operations, in units of {number_text(plan.budget)}"
    chart = _wide("Held-out bits per byte against operations", f"On the front: {names}.", points, label, log=True)
    chart.x_ticks = [(share, f"{share:g}") for share in sorted({round(x, 2) for x, _ in points})][:6]
    for arm in comparable(verdicts):
        if len(curves[arm.label]) > 1:
            chart.line(curves[arm.label], "thin base" if not arm.against else "thin")
    ends = {label: next(p for p in each if p[0] > 0.99 or p is each[-1]) for label, each in curves.items()}
    for label, each in curves.items():
        for point in each:
            if point != ends[label]:
                chart.dot(point, "other", f"{label}: {point[1]:.4f}", 2.2)
    _named_dots(chart, verdicts, ends, best)
    return chart.svg(), f"<b>Loss against operations</b> {escape(said)}"


def _wide(title: str, description: str, points: Sequence[Point], label: str, *, log: bool = False) -> Chart:
    xs, ys = ([point[axis] for point in points] for axis in (0, 1))
    x, y = around(xs, 0.12, log=log), around(ys, 0.1)
    return Chart(title, description, x, y, label, "held-out bits per byte", 400.0, 265.0, log)


def _named_dots(chart: Chart, verdicts: Verdicts, points: dict[str, Point], front: Sequence[ArmVerdict]) -> None:
    kinds = {arm.label: "base" if not arm.against else "arm" if arm in front else "other" for arm in verdicts.arms}
    first = [arm.label for arm in front]
    rest = (*verdicts.plan.baselines, *verdicts.plan.labels) if len(points) <= MOST_NAMED else ()
    for label in sorted(points, key=lambda label: kinds[label] == "other", reverse=True):
        x, y = points[label]
        chart.dot(points[label], kinds[label], f"{label}: {y:.4f} at {x:.4g}", 4)
    named = [(points[label], label) for label in dict.fromkeys((*first, *rest)) if label in points]
    chart.names(named, list(points.values()))


def by_document(verdicts: Verdicts, label: str) -> np.ndarray | None:
    """Mean over seeds of an arm's difference on every passage, bits per byte; None where pairs are not complete."""
    ours, theirs = (
        [outcome for job, outcome in verdicts.runs[name] if job.stage == VERDICT]
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
