"""How far fp32 and bf16 are from float64, for every attention type: outputs, cached decoding, gradients.

Run: ``python benchmarks/numerics.py [--only LABEL,LABEL] [--pages] [--json FILE]``; minutes on one core. ``--pages``
writes each mechanism's rows into the section "Numerics" of its page.

One mixer (of ``reversible``: a stack of four layers, whose backward pass rebuilds its activations) with random weights
on normal inputs, 256 wide, 4 heads on 2 heads of keys and values. All types see the same weights, inputs and rotary
tables, so that differences are those of the arithmetic. Errors are relative, the root of the mean square of the
difference over that of the float64 result, and the largest of three seeds:

- fp32: outputs; bf16: outputs under autocast, as in training;
- decode: outputs in fp32, token by token through the cache, against the whole sequence at once;
- gradient: in fp32, of the input or the parameter that is furthest off.
"""

from __future__ import annotations

import argparse
import copy
import re
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import long_context
import mechanisms
import timing
import torch
from torch import Tensor, nn

from nanochat.architecture import mechanism, plan
from nanochat.attention import rotary_table
from nanochat.config import GPTConfig
from nanochat.initialise import Draw
from nanochat.record import environment, write_bytes

WIDTH, HEADS, KV_HEADS, LAYERS = 256, 4, 2, 4
LENGTHS, SEEDS = (64, 512), (0, 1, 2)
COLUMNS = ("fp32", "bf16", "decode", "gradient")
PAGES = Path(__file__).resolve().parents[1] / "markdown_documentation"
BEGIN, END = "<!-- numerics:begin -->", "<!-- numerics:end -->"
Errors = dict[str, dict[str, dict[str, float]]]
"""By label, length and column."""

BEFORE = "\n## Status\n"
"""The heading before which a page without the section gets it."""


def subject(label: str, length: int, seed: int) -> nn.Module:
    """The mixer or the block stack, no branch of it silent."""
    kind, knobs = long_context.parse(label)
    config = GPTConfig(
        n_layer=LAYERS, n_head=HEADS, n_kv_head=KV_HEADS, n_embd=WIDTH, sequence_len=length, attention_type=kind,
        knobs=knobs,
    )  # fmt: skip
    built = plan(config)
    alone = mechanism(kind) in built.mixers
    module = built.mixers[0].load()(config, 0) if alone else built.block.load()(config)
    module.init_weights(Draw(seed))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            if not parameter.any():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * parameter.shape[-1] ** -0.5)
    return module


def error(found: Tensor, exact: Tensor) -> float:
    """Root mean square of the difference over that of the exact one."""
    return ((found.double() - exact.double()).norm() / exact.double().norm()).item()


def gradients(module: nn.Module, x: Tensor, direction: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Outputs, and the gradients of their product with a direction with respect to input and parameters."""
    x = x.clone().requires_grad_()
    y = module(x, rotary_table(x.shape[1], WIDTH // HEADS))
    return y.detach(), list(torch.autograd.grad((y * direction).sum(), [x, *module.parameters()]))


@torch.no_grad()
def decoded(module: nn.Module, x: Tensor) -> Tensor:
    """Outputs token by token."""
    cos, sin = rotary_table(x.shape[1], WIDTH // HEADS)
    cache = module.init_cache(1, x.shape[1], x.device, x.dtype)
    steps = range(x.shape[1])
    return torch.cat([module(x[:, t : t + 1], (cos[t : t + 1], sin[t : t + 1]), cache) for t in steps], 1)


def errors(label: str, length: int, seed: int) -> dict[str, float]:
    """All columns for one seed."""
    module = subject(label, length, seed)
    generator = torch.Generator().manual_seed(seed)
    x, direction = (torch.randn(1, length, WIDTH, generator=generator) for _ in range(2))
    exact, exact_gradients = gradients(copy.deepcopy(module).double(), x.double(), direction.double())
    single, single_gradients = gradients(module, x, direction)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        half = module(x, rotary_table(length, WIDTH // HEADS))
    found = (error(one, other) for one, other in zip(single_gradients, exact_gradients, strict=True))
    return {
        "fp32": error(single, exact),
        "bf16": error(half, exact),
        "decode": error(decoded(module, x), single),
        "gradient": max(found),
    }


def measure(label: str, lengths: Iterable[int]) -> dict[str, dict[str, float]]:
    """The largest of every column over the seeds, by length."""
    measured = {}
    for length in lengths:
        by_seed = [errors(label, length, seed) for seed in SEEDS]
        measured[str(length)] = {column: max(each[column] for each in by_seed) for column in COLUMNS}
    return measured


def lines_of(figures: Errors, width: int = 0) -> list[str]:
    """The table, its labels at least so wide."""
    rows = [
        [label.ljust(width), length, *(f"{each[column]:.1e}" for column in COLUMNS)]
        for label, by_length in figures.items()
        for length, each in by_length.items()
    ]
    return timing.table(("relative error", "T", *COLUMNS), rows)


def caption(made: dict[str, Any], run: str) -> str:
    """What a page says above its table."""
    return (
        f"Measured with `python benchmarks/numerics.py --pages`, {time.strftime('%Y-%m-%d', time.gmtime())}, "
        f"{made['processor']}, torch {made['versions']['torch']}, run {run}.\n"
        "Errors relative to float64, the largest of three seeds: outputs in fp32 and under bf16 autocast; outputs in\n"
        "fp32 token by token through the cache against the whole sequence; the gradient in fp32 that is furthest off."
    )


def with_section(page: str, content: Sequence[str]) -> str:
    """The page with its section "Numerics" renewed, or put before "Status"."""
    section = "\n".join([BEGIN, *content, END])
    if BEGIN in page:
        return re.sub(f"{re.escape(BEGIN)}.*?{re.escape(END)}", lambda _: section, page, count=1, flags=re.DOTALL)
    before, heading, after = page.partition(BEFORE)
    return f"{before}\n## Numerics\n\n{section}\n{heading}{after}"


def write_pages(figures: Errors, made: dict[str, Any], run: str, folder: Path) -> list[Path]:
    """Put each mechanism's rows, after those of softmax attention, on its page; returns the pages."""
    by_page: dict[str, list[str]] = {}
    for label in figures:
        page = mechanism(label.partition("-")[0]).page
        by_page.setdefault(page, [mechanisms.BASE]).append(label)
    by_page.pop("", None)
    for page, shown in by_page.items():
        path = folder / page
        rows = lines_of({label: figures[label] for label in dict.fromkeys(shown) if label in figures})
        text = with_section(path.read_text(encoding="utf-8"), [caption(made, run), "", *rows])
        write_bytes(path, text.encode())
    return [folder / page for page in by_page]


def main(arguments: list[str] | None = None) -> None:
    """Measure, say, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="labels by comma, as in gauge,gauge-group=u1; default: all")
    parser.add_argument("--pages", action="store_true", help="write the tables into the pages of what is measured")
    parser.add_argument("--pages-dir", type=Path, default=PAGES, help="where the pages are")
    parser.add_argument("--quick", action="store_true", help="16 tokens only, to see that it works")
    parser.add_argument("--artifacts-dir", type=Path, default=Path("artifacts"), help="the figures go to perf/ there")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    options = parser.parse_args(arguments)
    words = [word for word in options.only.split(",") if word and word != mechanisms.BASE]
    chosen = mechanisms.choose(",".join(words), mechanisms.labels(), parser)
    torch.set_num_threads(1)  # sums in one order
    made = environment()
    lengths = (16,) if options.quick else LENGTHS
    wanted = list(dict.fromkeys([mechanisms.BASE, *chosen]))
    figures: Errors = {}
    for label in wanted:
        figures[label] = measure(label, lengths)
        lines = lines_of({label: figures[label]}, max(map(len, wanted)))
        print("\n".join(lines[0 if len(figures) == 1 else 2 :]), flush=True)
    found = {"about": __doc__, "width": WIDTH, "heads": HEADS, "kv_heads": KV_HEADS, "seeds": SEEDS, "errors": figures}
    run = timing.store("numerics", options, lines_of(figures), found, made)
    if options.pages:
        for path in write_pages(figures, made, run.name, options.pages_dir):
            print(f"written: {path.name}")


if __name__ == "__main__":
    main()
