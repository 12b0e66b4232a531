"""What each mechanism costs: training step against softmax attention, long contexts, bytes of decoding state.

Run: ``python benchmarks/mechanisms.py [--rounds 7] [--threads N] [--precision bf16] [--compile] [--only LABEL,LABEL]
[--no-long] [--json FILE]``; eight minutes on two idle cores. ``--quick`` runs all of it at sizes of seconds, to
see that it works.

Step: forward and backward pass of the whole model (4 layers, 256 wide, 4 heads, 256 tokens, batch 16, vocabulary 4096).
A step of ``standard`` is taken before each step of each mechanism; the ratio is the median over these pairs. The bars
are those that the project sets itself; a label without a bar of its own has that of its attention type.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import long_context
import timing
import torch

from nanochat.architecture import attention_types, mechanism, plan
from nanochat.attention.heads import key_value_bytes
from nanochat.gpt import GPT, GPTConfig

BASE = "standard"
BARS = {
    "gauge-group=u1": 1.15,
    "gauge": 1.3,
    "gauge-group=so4": None,
    "gauge-group=so": None,
    "quaternion": 1.4,
    "octonion": 3.0,
    "tropical": 1.4,
    "ultrametric": None,
    "ultrametric-mode=trie": 1.3,
    "simplicial": 2.5,
    "fractal": 1.6,
    "braid": 1.6,
    "surreal": 1.3,
    "reversible": 1.4,
}
"""Largest ratio to ``standard`` that is aimed at."""

VARIANTS = (
    "gauge-group=u1",
    "gauge-group=so4",
    "gauge-group=so",
    "tropical-score=maxplus",
    "ultrametric-mode=trie",
    "simplicial-form=determinant",
    "fractal-form=suffix",
    "braid-form=crossing",
    "reversible-exact=True",
)
"""Timed beside the defaults of every attention type."""

STATE_LENGTHS = (1024, 65536)


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of the model that is timed."""

    n_layer: int = 4
    n_head: int = 4
    n_embd: int = 256
    sequence_len: int = 256
    vocab_size: int = 4096
    batch: int = 16

    def config(self, label: str) -> GPTConfig:
        """The model with the mixer of this label."""
        sizes = {name: size for name, size in asdict(self).items() if name != "batch"}
        kind, knobs = long_context.parse(label)
        return GPTConfig(**sizes, attention_type=kind, knobs=knobs)


QUICK = Shape(n_layer=2, n_head=2, n_embd=32, sequence_len=32, vocab_size=64, batch=2)


def labels() -> list[str]:
    """Every attention type with its defaults, each followed by its variants."""
    found = []
    for kind in attention_types():
        found += [kind] * (kind != BASE) + [label for label in VARIANTS if label.partition("-")[0] == kind]
    return found


def bar(label: str) -> float | None:
    """The largest ratio allowed, None where none is set."""
    return BARS[label] if label in BARS else BARS.get(label.partition("-")[0])


def stepper(config: GPTConfig, batch: int, low: bool, compiled: bool) -> Callable[[], None]:
    """One forward and backward pass of a model of its own, as the trainer does it."""
    idx = torch.randint(config.vocab_size, (batch, config.sequence_len + 1), generator=torch.Generator().manual_seed(0))
    model = GPT(config)
    forward = torch.compile(model) if compiled else model

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            loss = forward(idx[:, :-1], idx[:, 1:])
        loss.backward()
        model.zero_grad(set_to_none=True)

    return step


def steps(shape: Shape, wanted: list[str], options: argparse.Namespace) -> dict[str, list[timing.Lap]]:
    """Laps of every label, and under ``before LABEL`` those of the baseline."""

    def make(label: str) -> Callable[[], None]:
        return stepper(shape.config(label), shape.batch, options.precision == "bf16", options.compile)

    base = make(BASE)
    contenders: dict[str, Callable[[], None]] = {}
    for label in wanted:
        contenders[f"before {label}"] = base
        contenders[label] = make(label)
    with torch._dynamo.config.patch(recompile_limit=2 * len(contenders) + 8):  # else the ninth model would run eagerly
        return timing.interleave(contenders, options.rounds)


def verdict(found: timing.Ratio, allowed: float | None) -> str:
    """Against the bar."""
    if allowed is None:
        return "-"
    return "pass" if found.median <= allowed else f"MISSED by {found.median - allowed:.2f}"


def step_table(report: timing.Report, laps: dict[str, list[timing.Lap]], wanted: list[str]) -> dict[str, Any]:
    """Say the ratios, worst against their bar last; returns them."""
    found = {label: timing.ratio(laps[label], laps[f"before {label}"]) for label in wanted}
    base = [lap for name, own in laps.items() if name.startswith("before ") for lap in own]
    rows = [[BASE, f"{1e3 * timing.seconds(base):.0f}", "1.00", "", "1.00", "", ""]]
    for label, each in sorted(found.items(), key=lambda item: item[1].median / (bar(item[0]) or 99)):
        allowed = bar(label)
        rows.append(
            [
                label, f"{1e3 * timing.seconds(laps[label]):.0f}", f"{each.median:.2f}",
                f"{each.low:.2f} to {each.high:.2f}", f"{each.processor:.2f}",
                "-" if allowed is None else f"{allowed:.2f}", verdict(each, allowed),
            ]
        )  # fmt: skip
    head = ("training step", "ms", f"/ {BASE}", "quartiles", "by processor time", "bar", "")
    report.table(head, rows)
    return {
        label: {**asdict(each), "bar": bar(label), "verdict": verdict(each, bar(label))}
        for label, each in found.items()
    }


def state_table(report: timing.Report, shape: Shape, wanted: list[str]) -> dict[str, Any]:
    """Say the bytes that decoding keeps of one sequence, as declared; the contract suite holds the caches to it."""
    found: dict[str, dict[str, int]] = {}
    rows = []
    for label in [BASE, *wanted]:
        config = shape.config(label)
        built = plan(config)
        state = {
            length: sum(each.state(config, 1, length) for each in built.mixers)
            + config.n_layer * built.block.state(config, 1, length)
            for length in STATE_LENGTHS
        }
        short, long = state.values()
        beside = long - config.n_layer * key_value_bytes(config, 1, STATE_LENGTHS[1])
        grows = "constant" if short == long else f"x {long / short:.0f}"
        rows.append([label, f"{short:,}", f"{long:,}", grows, f"{beside:,}" if beside >= 0 else "no keys"])
        found[label] = {str(length): size for length, size in state.items()}
    head = (
        "decoding state, bytes per sequence",
        *(f"{n} tokens" for n in STATE_LENGTHS),
        "grows",
        "beside keys, values",
    )
    report.table(head, rows)
    return found


def choose(text: str, known: list[str], parser: argparse.ArgumentParser) -> list[str]:
    """The labels asked for; ends the program with one line where one is unknown."""
    wanted = [word.strip() for word in text.split(",")] if text else known
    for word in wanted:
        kind = word.partition("-")[0]
        if kind == BASE or kind not in attention_types():
            parser.error(f"--only: got {word!r}, need some of {', '.join(known)}, or such with other options")
        try:
            long_context.parse(word)
        except (TypeError, ValueError) as error:
            parser.error(f"--only: got {word!r}: {error}; {kind} has {mechanism(kind).knobs.__name__}")
    return wanted


def main(arguments: list[str] | None = None) -> None:
    """Measure and say everything."""
    parser = timing.parser(str(__doc__), rounds=7)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="bf16 is autocast")
    parser.add_argument("--compile", action="store_true", help="torch.compile each model (adds ten minutes)")
    parser.add_argument("--only", default="", help="labels by comma, as in gauge,gauge-group=u1; default: all")
    parser.add_argument("--batch", type=timing.positive, help="sequences of a step")
    parser.add_argument("--no-long", action="store_true", help="leave long contexts out")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that it runs, measures nothing")
    options = parser.parse_args(arguments)
    wanted = choose(options.only, labels(), parser)
    shape = QUICK if options.quick else Shape()
    shape = replace(shape, batch=options.batch or shape.batch)
    compiled = "compiled" if options.compile else "eager"
    report = timing.Report("mechanisms", options, f"{shape}, {options.precision}, {compiled}")
    report.say()
    laps = steps(shape, wanted, options)
    figures: dict[str, Any] = {"shape": asdict(shape), "precision": options.precision, "compiled": options.compile}
    figures["step"] = step_table(report, laps, wanted)
    report.say()
    figures["state"] = state_table(report, shape, wanted)
    if not options.no_long:
        report.say()
        figures["long"] = long_context.study(report, wanted, options.quick)
    report.finish({**figures, "laps": timing.plain(laps)})


if __name__ == "__main__":
    main()
