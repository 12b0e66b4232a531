"""Keeps a finished suite as a golden and writes its tables into the page about it.

Run: ``python benchmarks/study.py SUITE_FOLDER NAME [--times FILE] [--seconds SUITE_FOLDER] [--page FILE]``, such as
``python benchmarks/study.py artifacts/bench/suites/all-types first-study``; a second. Kept in
``artifacts/goldens/NAME/``: ``verdict.json`` (everything that was ruled, with every score), ``summary.json`` (the same
without single runs), ``run.md``, ``times.json`` (step times, by ``benchmarks/suite_times.py --json``), ``seconds.json``
(the comparison at equal seconds of a suite of some of the arms). The tables stand between two remarks of the page.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from math import inf
from pathlib import Path
from statistics import fmean, median
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from demos.plots import COLOURS, REPEATABLE, logarithmic, plain_axes
from nanochat.bench.stages import EQUAL_TIME, VERDICT
from nanochat.bench.wording import FLAGS, number, number_text, probability, signed, span
from nanochat.record import write_bytes, write_json

ROOT = Path(__file__).resolve().parents[1]
GOLDENS = ROOT / "artifacts" / "goldens"
GUIDES = ROOT / "markdown_documentation" / "guides"
IMAGES = ROOT / "markdown_documentation" / "images"
BEGIN, END = "<!-- study:begin -->", "<!-- study:end -->"
WHOLE = ("verdict.json", "run.md")

Arm = Mapping[str, Any]
Columns = Sequence[tuple[str, Callable[[Arm], str]]]


def without_runs(summary: Mapping[str, Any]) -> dict[str, Any]:
    """A summary whose arms do not list their runs: those stand in ``verdict.json``."""
    arms = [{name: value for name, value in arm.items() if name != "runs"} for arm in summary["arms"]]
    return {**summary, "arms": arms}


def keep(suite: Path, golden: Path) -> None:
    """Copy what is small and worth keeping."""
    golden.mkdir(parents=True, exist_ok=True)
    for name in WHOLE:
        write_bytes(golden / name, (suite / name).read_bytes())
    found = json.loads((suite / "summary.json").read_text(encoding="utf-8"))
    write_json(golden / "summary.json", without_runs(found), indent=1)


def equal_seconds(summary: Mapping[str, Any], ruled: Mapping[str, Any]) -> dict[str, Any]:
    """The comparison at equal seconds of a suite of the study's arms, or some of them, at the study's scores.

    Raises:
        ValueError: an arm has other scores.
    """
    before = {arm["label"]: arm["bpb"] for arm in ruled["arms"]}
    arms = []
    for arm in summary["arms"]:
        if arm["bpb"] != before.get(arm["label"]):
            raise ValueError(f"{arm['label']}: got other runs than design {ruled['design'][:16]}, need the same")
        stage = EQUAL_TIME if arm["against"] else VERDICT
        runs = [run for run in arm["runs"] if run["stage"] == stage]
        kept = {name: arm[name] for name in ("label", "against", "time", "time_ratio", "time_ratio_interval")}
        arms.append({**kept, "runs": runs})
    return {"design": summary["design"], "command": summary["command"], "arms": arms}


def keep_seconds(suite: Path, golden: Path) -> None:
    """Copy what the suite says of equal seconds."""
    ruled = json.loads((golden / "verdict.json").read_text(encoding="utf-8"))
    summary = json.loads((suite / "summary.json").read_text(encoding="utf-8"))
    write_json(golden / "seconds.json", equal_seconds(summary, ruled), indent=1)


def verdict(arm: Arm) -> str:
    """The word, with what qualifies it."""
    flags = ", ".join(FLAGS[flag] for flag in arm["flags"])
    return f"{arm['verdict']} ({flags})" if flags else arm["verdict"]


def again(found: Mapping[str, Any] | None) -> str:
    """A comparison elsewhere: word, difference, and how surely it differs from that at the full budget."""
    if found is None:
        return ""
    change = f", changed p = {probability(found['change_p'])}" if found["change_p"] is not None else ""
    return f"{found['verdict']} {signed(found['difference'])}{change}"


def worth(arm: Arm) -> str:
    """Compute-equivalent gain with its interval; a star where it was extrapolated."""
    found = (arm["effects"] or {}).get("gain")
    if found is None:
        return ""
    return f"{found['factor']:.2f} [{found['low']:.2f}, {found['high']:.2f}]{'*' * found['extrapolated']}"


def untuned(arm: Arm) -> str:
    """The difference at the baseline's learning rate."""
    found = arm["untuned"]
    return "" if found is None else "diverges" if found["difference"] is None else signed(found["difference"])


def verdict_columns(arms: Sequence[Arm]) -> Columns:
    """What was asked."""
    return (
        ("arm", lambda arm: arm["label"]),
        ("verdict", verdict),
        ("Δ bits per byte", lambda arm: signed(arm["difference"])),
        ("simultaneous 95 % interval", lambda arm: span(arm["low"], arm["high"])),
        ("p, corrected", lambda arm: probability(arm["p_adjusted"])),
        ("p, sign flips", lambda arm: probability(arm["p_sign_flip"])),
        ("pairs", lambda arm: str(len(arm["bpb"])) if arm["against"] else ""),
        ("bits per byte", lambda arm: number(arm["mean"], ".4f")),
    )


def other_columns(arms: Sequence[Arm]) -> Columns:
    """The same question asked otherwise."""
    shares = sorted({share for arm in arms for share in arm["shares"]})

    def at(share: str) -> Callable[[Arm], str]:
        return lambda arm: again(arm["shares"].get(share))

    return (
        ("arm", lambda arm: arm["label"]),
        ("worth in compute", worth),
        *((f"at {share} of the budget", at(share)) for share in shares),
        ("Δ at the baseline's rate", untuned),
    )


def cost_columns(times: Mapping[str, Any]) -> Columns:
    """What it takes; ``times`` is what ``benchmarks/suite_times.py`` found."""

    def step_time(arm: Arm) -> str:
        return ratio(arm, *(times[arm["label"]][name] for name in ("median", "low", "high")))

    return (
        ("arm", lambda arm: arm["label"]),
        ("steps", lambda arm: f"{arm['steps']:,}"),
        ("weights", lambda arm: f"{arm['parameters']:,}"),
        ("step time", step_time),
        ("seconds per run", lambda arm: f"{run_seconds(arm, times):.0f}"),
        ("peak memory, MiB", lambda arm: number(arm["peak_bytes"] and arm["peak_bytes"] * 2.0**-20, ".0f")),
        ("learning rate", lambda arm: number(arm["tuning"]["learning_rate"], ".2g")),
    )


def run_seconds(arm: Arm, times: Mapping[str, Any]) -> float:
    """Seconds of a run's steps at the step time that was measured in turns."""
    return arm["steps"] * times[arm["label"]]["milliseconds"] / 1e3


def ratio(arm: Arm, middle: float, low: float, high: float) -> str:
    """Of step times, with its interval where there is another arm."""
    return f"{middle:.2f}×" + (f" [{low:.2f}, {high:.2f}]" if arm["against"] else "")


def seconds_columns(arms: Sequence[Arm]) -> Columns:
    """The verdict at equal seconds."""

    def middle(name: str, form: str) -> Callable[[Arm], str]:
        return lambda arm: format(median(run[name] for run in arm["runs"]), form)

    return (
        ("arm", lambda arm: arm["label"]),
        ("verdict", lambda arm: arm["time"]["verdict"] if arm["time"] else "BASELINE"),
        ("Δ bits per byte", lambda arm: signed((arm["time"] or {}).get("difference"))),
        ("95 % interval", lambda arm: span(*((arm["time"] or {}).get(name) for name in ("low", "high")))),
        ("p", lambda arm: probability((arm["time"] or {}).get("p"))),
        ("step time", lambda arm: ratio(arm, arm["time_ratio"], *arm["time_ratio_interval"])),
        ("steps", middle("steps", ",.0f")),
        ("seconds per run", middle("wall_seconds", ".1f")),
        ("bits per byte", lambda arm: format(fmean(run["bpb"] for run in arm["runs"]), ".4f")),
    )


def table(columns: Columns, arms: Sequence[Arm]) -> list[str]:
    """Markdown; a column that is empty for every arm is left out."""
    columns = [column for column in columns if any(column[1](arm) for arm in arms)]
    rows = [" | ".join(show(arm) for _, show in columns) for arm in arms]
    head = " | ".join(heading for heading, _ in columns)
    return [f"| {head} |", "|:--|" + "--:|" * (len(columns) - 1), *(f"| {row} |" for row in rows)]


def section(
    summary: Mapping[str, Any], times: Mapping[str, Any], seconds: Mapping[str, Any] | None = None
) -> list[str]:
    """What stands between the remarks: the tables, best arm first; equal seconds where they were compared."""
    baseline = [arm for arm in summary["arms"] if not arm["against"]]
    others = sorted((arm for arm in summary["arms"] if arm["against"]), key=lambda arm: arm["difference"])
    hours = summary["core_seconds"] / 3600
    return [
        f"Design `{summary['design'][:16]}`, {number_text(summary['budget'])} operations a run, "
        f"{len(summary['seeds'])} paired seeds at most, {hours:.1f} core-hours.",
        "",
        *table(verdict_columns(summary["arms"]), [*baseline, *others]),
        "",
        "**Asked otherwise**",
        "",
        *table(other_columns(others), others),
        "",
        "**What it takes**",
        "",
        *table(cost_columns(times), [*baseline, *others]),
        *(seconds_section(seconds) if seconds else ()),
    ]


def seconds_section(seconds: Mapping[str, Any]) -> list[str]:
    """Equal seconds, best arm first; an arm without a difference last."""
    arms = sorted(seconds["arms"], key=lambda arm: (bool(arm["against"]), _sorting(arm)))
    head = f"**At equal seconds** (design `{seconds['design'][:16]}`)"
    return ["", head, "", *table(seconds_columns(arms), arms)]


def _sorting(arm: Arm) -> float:
    found = (arm["time"] or {}).get("difference")
    return inf if found is None else found


def kept(golden: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any] | None]:
    """What the tables show: summary, step times, and equal seconds where they were compared."""

    def content(name: str) -> dict[str, Any]:
        return json.loads((golden / name).read_text(encoding="utf-8"))

    return (
        content("summary.json"),
        content("times.json")["arms"],
        content("seconds.json") if (golden / "seconds.json").is_file() else None,
    )


def with_section(page: str, lines: Sequence[str]) -> str:
    """The page with its tables renewed; unchanged where it has no place for them."""
    content = "\n".join([BEGIN, *lines, END])
    return re.sub(f"{re.escape(BEGIN)}.*?{re.escape(END)}", lambda _: content, page, count=1, flags=re.DOTALL)


def draw(golden: Path, name: str) -> list[Path]:
    """The figures of a study."""
    ruled = json.loads((golden / "verdict.json").read_text(encoding="utf-8"))
    summary, times, _ = kept(golden)
    arms = [{**arm, "seconds": run_seconds(arm, times)} for arm in summary["arms"]]
    paths = []
    for kind, panels, height, picture in (
        ("pairs", 2, 0.9 + 0.3 * len(ruled["arms"]), pairs),
        ("costs", 2, 4.2, costs),
    ):
        figure = Figure(figsize=(8.4, height), layout="constrained")
        FigureCanvasAgg(figure)
        picture(figure.subplots(1, panels, sharey=True), ruled, {**summary, "arms": arms})
        paths.append(IMAGES / f"{name}-{kind}.svg")
        with rc_context({**REPEATABLE, "svg.fonttype": "none"}):  # letters as text: half the size
            figure.savefig(paths[-1], metadata={"Date": None})
    return paths


def pairs(panels: Sequence[Axes], ruled: Mapping[str, Any], summary: Mapping[str, Any]) -> None:
    """Differences pair by pair with the simultaneous interval: all of them, and those near zero."""
    arms = sorted((arm for arm in ruled["arms"] if arm["against"]), key=lambda arm: -arm["difference"])
    near = 1.15 * sorted(max(abs(arm["low"]), abs(arm["high"])) for arm in arms)[len(arms) * 2 // 5]
    for axes, title in zip(panels, ("all", "near zero"), strict=True):
        axes.axvspan(-ruled["sesoi"], ruled["sesoi"], color="0.9", linewidth=0)
        axes.axvline(0, color="0.4", linewidth=0.8)
        dots = [(value, row + 0.22) for row, arm in enumerate(arms) for value in arm["differences"]]
        axes.plot(*zip(*dots, strict=True), ".", color=COLOURS[0], alpha=0.35)
        axes.hlines(
            range(len(arms)), [arm["low"] for arm in arms], [arm["high"] for arm in arms], color=COLOURS[1], linewidth=2
        )
        axes.plot([arm["difference"] for arm in arms], range(len(arms)), "o", color=COLOURS[1], markersize=5)
        plain_axes(axes, "Δ bits per byte (left is better)", "")
        axes.set_title(title, fontsize=9)
        axes.set_yticks(range(len(arms)), [arm["label"] for arm in arms])
    panels[1].set_xlim(-near, near)


def costs(panels: Sequence[Axes], ruled: Mapping[str, Any], summary: Mapping[str, Any]) -> None:
    """Loss against operations, with the baseline's own curve, and against seconds."""
    base = next(arm for arm in ruled["arms"] if not arm["against"])
    curve = {1.0: base["bpb"]} | {
        float(stage.partition(" ")[2]): [run["bpb"] for run in base["runs"] if run["stage"] == stage]
        for stage in {run["stage"] for run in base["runs"]}
        if stage.startswith("share ")
    }
    points = sorted((share * ruled["budget"], fmean(scores)) for share, scores in curve.items())
    panels[0].plot(*zip(*points, strict=True), "-o", color="0.5", markersize=4, label=f"{base['label']}, other budgets")
    panels[0].legend(frameon=False, fontsize=8)
    for axes, name, label in (
        (panels[0], "operations", "operations of a run"),
        (panels[1], "seconds", "seconds of a run"),
    ):
        for place, arm in enumerate(sorted(summary["arms"], key=lambda arm: arm["mean"])):
            colour = COLOURS[1] if arm["against"] else "black"
            axes.plot(arm[name], arm["mean"], "o", color=colour, markersize=5)
            right = not crowded(arm, summary["arms"], name) if name == "seconds" else place % 2 == 0
            axes.annotate(
                arm["label"],
                (arm[name], arm["mean"]),
                (7 if right else -7, 0),
                textcoords="offset points",
                ha="left" if right else "right",
                va="center",
                fontsize=7,
            )
        plain_axes(axes, label, "held-out bits per byte" if axes is panels[0] else "")
    logarithmic(panels[0], "x")


def crowded(arm: Arm, arms: Sequence[Arm], name: str) -> bool:
    """Whether a label to its right would lie on another point."""
    wide, high = (max(each[key] for each in arms) - min(each[key] for each in arms) for key in (name, "mean"))
    return any(
        0 < other[name] - arm[name] < 0.15 * wide and abs(other["mean"] - arm["mean"]) < 0.03 * high for other in arms
    )


def main(arguments: list[str] | None = None) -> int:
    """Keep, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", type=Path, help="folder of a finished suite, with summary.json")
    parser.add_argument("name", help="of the golden and, unless --page says otherwise, of the guide")
    parser.add_argument("--times", type=Path, help="what benchmarks/suite_times.py --json wrote; default: the golden's")
    parser.add_argument("--seconds", type=Path, help="folder of a suite with equal seconds, with summary.json")
    parser.add_argument("--page", type=Path, help="default: markdown_documentation/guides/NAME.md")
    options = parser.parse_args(arguments)
    for folder in (options.suite, options.seconds):
        if folder is not None and not (folder / "summary.json").is_file():
            parser.error(f"got {folder}, need the folder of a finished suite")
    page = options.page or GUIDES / f"{options.name}.md"
    if not page.is_file() or BEGIN not in page.read_text(encoding="utf-8"):
        parser.error(f"--page: got {page}, need a page with {BEGIN} {END}")
    keep(options.suite, GOLDENS / options.name)
    if options.times is not None:
        write_bytes(GOLDENS / options.name / "times.json", options.times.read_bytes())
    if options.seconds is not None:
        keep_seconds(options.seconds, GOLDENS / options.name)
    lines = section(*kept(GOLDENS / options.name))
    write_bytes(page, with_section(page.read_text(encoding="utf-8"), lines).encode())
    drawn = draw(GOLDENS / options.name, options.name)
    print("written:", GOLDENS / options.name, page, *drawn, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
