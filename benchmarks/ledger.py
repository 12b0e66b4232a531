"""What a training step costs by the formulas, and what it executes: every mechanism and option, every optimizer.

Run: ``python benchmarks/ledger.py [--only LABEL,LABEL] [--pages] [--json FILE]``; a minute on one core. Exit code 1 if
anything is off by more than 1 % (matmul) or 5 % (semiring, elementwise). ``--pages`` writes the table into
``guides/costs.md``.

Counted is one step over two sequences, operator by operator: forward pass, backward pass, and the update with all that
the optimizer looks at. Power: slope of log operations over log size, forward and backward passes of one layer, for
tokens at 32 channels and for channels at 64 tokens.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import timing
import torch

from nanochat.architecture import faults
from nanochat.bench.books import LENGTHS, SHAPES, Books, Options, books, exponents, knobs, label, variants
from nanochat.config import GPTConfig
from nanochat.optim import OPTIMIZERS
from nanochat.record import environment, write_bytes

PAGE = Path(__file__).resolve().parents[1] / "markdown_documentation" / "guides" / "costs.md"
BEGIN, END = "<!-- ledger:begin -->", "<!-- ledger:end -->"
GROWTH = {"sequence_len": (64, 128, 256, 512), "n_embd": (32, 64, 128, 256)}
BATCH = 2


def config_of(variant: tuple[str, Options], optimizer: str, **sizes: Any) -> GPTConfig:
    """One case."""
    return GPTConfig(**sizes, attention_type=variant[0], knobs=knobs(*variant), optimizer_type=optimizer)


def audit(variant: tuple[str, Options], optimizer: str) -> dict[str, Any]:
    """Both books at every shape and length, or why there are none."""
    found: dict[str, Books] = {}
    for shape, sizes in SHAPES.items():
        for length in LENGTHS:
            config = config_of(variant, optimizer, **sizes, sequence_len=length)
            if refused := faults(config):
                return {"refused": refused[0].partition("got ")[2].rstrip(".") or refused[0]}
            found[f"{shape}, {length} tokens"] = books(config, BATCH)
    return {
        "faults": [f"{case}: {fault}" for case, each in found.items() for fault in each.faults],
        "matmul": max(each.off["matmul"] for each in found.values()),
        "others": max(max(each.off["semiring"], each.off["elementwise"]) for each in found.values()),
        "cases": {case: plain(each) for case, each in found.items()},
    }


def plain(each: Books) -> dict[str, Any]:
    """For JSON."""
    stated, executed = each.totals
    sides = {
        name: {phase: asdict(counts) for phase, counts in getattr(each, name).items()}
        for name in ("stated", "executed")
    }
    return {**sides, "total": {"stated": stated, "executed": executed}}


def growth(variant: tuple[str, Options]) -> dict[str, tuple[float, float]]:
    """Exponents in tokens and channels, stated and executed."""
    base = {"n_layer": 1, "n_head": 4, "n_embd": 32, "sequence_len": 64, "vocab_size": 64}
    return {
        name: exponents({size: books(config_of(variant, "adamw", **{**base, name: size}), 1) for size in sizes})
        for name, sizes in GROWTH.items()
    }


def row(name: str, found: dict[str, Any]) -> list[str]:
    """One line of the table."""
    offs = [
        "refused" if "refused" in each else f"{each['matmul']:.2%} / {each['others']:.2%}".replace("%", " %")
        for each in found["optimizers"].values()
    ]
    total = list(found["optimizers"]["adamw"]["cases"].values())[1]["total"]
    slopes = [f"{stated:.3f} / {executed:.3f}" for stated, executed in found["growth"].values()]
    return [name, f"{total['stated']:,.0f}", f"{total['executed']:,.0f}", *offs, *slopes]


def lines_of(figures: dict[str, Any]) -> list[str]:
    """The table, and why pairs are refused."""
    head = ("one training step", "stated", "executed", *(f"{name}: off" for name in OPTIMIZERS.names()))
    rows = [row(name, found) for name, found in figures.items()]
    lines = timing.table((*head, "power of tokens", "power of width"), rows)
    reasons: dict[tuple[str, str], list[str]] = {}
    for name, found in figures.items():
        for optimizer, each in found["optimizers"].items():
            if "refused" in each:
                reasons.setdefault((optimizer, each["refused"]), []).append(name)
    told = [f"- {optimizer} with {', '.join(names)}: {reason}" for (optimizer, reason), names in reasons.items()]
    return [*lines, "", "Refused:", "", *told] if told else lines


def faults_of(figures: dict[str, Any]) -> list[str]:
    """Everything that is off by more than it may."""
    return [
        f"{name} with {optimizer}, {fault}"
        for name, found in figures.items()
        for optimizer, each in found["optimizers"].items()
        for fault in each.get("faults", ())
    ]


def caption(made: dict[str, Any], run: str, wrong: Sequence[str]) -> list[str]:
    """What the page says above the table."""
    date, torch_version = time.strftime("%Y-%m-%d", time.gmtime()), made["versions"]["torch"]
    return [
        f"`python benchmarks/ledger.py --pages`, {date}, torch {torch_version}, run {run}; a minute.",
        "",
        "The ledger (`nanochat/flops.py`) states what a step costs from the configuration alone; the counter",
        "(`nanochat/counter.py`) counts what is executed, operator by operator, and refuses any that it does not know.",
        f"*Stated*, *executed*: all operations of one AdamW step ({next(iter(SHAPES))}, {LENGTHS[1]} tokens, batch of",
        f"{BATCH}). "
        "*Off*: matmul / semiring and elementwise, the largest relative difference of a phase over two shapes and two",
        "lengths; 1 % and 5 % are allowed. *Power*: with which forward and backward pass of one layer grow, stated /",
        "executed: of tokens from 64 to 512 at 32 channels, and of channels from 32 to 256 at 64 tokens.",
        "Nothing is off by more." if not wrong else f"OFF: {'; '.join(wrong)}",
    ]


def with_section(page: str, content: Sequence[str]) -> str:
    """The page with its ledger section renewed, or put at its end."""
    section = "\n".join([BEGIN, *content, END])
    if BEGIN in page:
        return re.sub(f"{re.escape(BEGIN)}.*?{re.escape(END)}", lambda _: section, page, count=1, flags=re.DOTALL)
    return f"{page.rstrip()}\n\n## Operations stated and executed\n\n{section}\n"


def main(arguments: list[str] | None = None) -> int:
    """Count, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="labels by comma, as in gauge,gauge-group=u1; default: all")
    parser.add_argument("--pages", action="store_true", help="write the table into its page")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page")
    parser.add_argument("--artifacts-dir", type=Path, default=Path("artifacts"), help="the figures go to perf/ there")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    options = parser.parse_args(arguments)
    known = {label(*variant): variant for variant in variants()}
    wanted = [word.strip() for word in options.only.split(",")] if options.only else list(known)
    for word in wanted:
        if word not in known:
            parser.error(f"--only: got {word!r}, need some of {', '.join(known)}")
    torch.set_num_threads(1)
    figures = {}
    for name in wanted:
        per_optimizer = {optimizer: audit(known[name], optimizer) for optimizer in OPTIMIZERS.names()}
        figures[name] = {"optimizers": per_optimizer, "growth": growth(known[name])}
        print(" ".join(row(name, figures[name])), flush=True)
    made, lines, wrong = environment(), lines_of(figures), faults_of(figures)
    found = {
        "about": __doc__,
        "shapes": SHAPES,
        "lengths": LENGTHS,
        "batch": BATCH,
        "mechanisms": figures,
        "faults": wrong,
    }
    run = timing.store("ledger", options, lines, found, made)
    if options.pages:
        text = with_section(options.page.read_text(encoding="utf-8"), [*caption(made, run.name, wrong), "", *lines])
        write_bytes(options.page, text.encode())
        print(f"written: {options.page.name}")
    for fault in wrong:
        print(f"off: {fault}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
