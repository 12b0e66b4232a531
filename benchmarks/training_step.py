"""Training throughput of our trunk against a minimal eager GPT, interleaved in one run.

Run: ``python benchmarks/training_step.py [--rounds 10] [--threads N] [--json FILE]``

The peer is the smallest honest GPT one would write by hand: nn.Linear, pre-norm RMSNorm, rotary positions,
``scaled_dot_product_attention``, squared ReLU, fused AdamW, fp32, eager. All contenders have the same sizes, take the
same batches and run one step each in turn, so that a drifting machine slows them alike; the ratio is the median over
rounds of (contender's tokens/s) / (peer's tokens/s) of the same round.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import timing
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanochat.attention.heads import rotary_table
from nanochat.gpt import GPT, GPTConfig

PEER = "minimal eager SDPA GPT"


@dataclass(frozen=True)
class Shape:
    """Sizes shared by every contender."""

    layers: int = 4
    heads: int = 4
    width: int = 256
    length: int = 256
    batch: int = 16
    vocab: int = 4096


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions, as one writes them by hand."""
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, a * sin + b * cos), -1)


class MinimalBlock(nn.Module):
    """One block of the peer."""

    def __init__(self, shape: Shape):
        super().__init__()
        self.heads = shape.heads
        self.qkv = nn.Linear(shape.width, 3 * shape.width, bias=False)
        self.out = nn.Linear(shape.width, shape.width, bias=False)
        self.up = nn.Linear(shape.width, 4 * shape.width, bias=False)
        self.down = nn.Linear(4 * shape.width, shape.width, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, length, width = x.shape
        q, k, v = self.qkv(F.rms_norm(x, (width,))).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        dim = q.shape[-1]
        q, k = rotate(F.rms_norm(q, (dim,)), cos, sin), rotate(F.rms_norm(k, (dim,)), cos, sin)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(x.shape))
        return x + self.down(F.relu(self.up(F.rms_norm(x, (width,)))).square())


class MinimalGPT(nn.Module):
    """The peer."""

    def __init__(self, shape: Shape):
        super().__init__()
        self.embed = nn.Embedding(shape.vocab, shape.width)
        self.blocks = nn.ModuleList(MinimalBlock(shape) for _ in range(shape.layers))
        self.head = nn.Linear(shape.width, shape.vocab, bias=False)
        cos, sin = rotary_table(shape.length, shape.width // shape.heads, 10000.0)
        self.register_buffer("cos", cos)
        self.register_buffer("sin", sin)

    def forward(self, idx: Tensor, targets: Tensor) -> Tensor:
        x = self.embed(idx)
        for block in self.blocks:
            x = block(x, self.cos, self.sin)
        logits = self.head(F.rms_norm(x, (x.shape[-1],)))
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.view(-1))


def stepper(model: nn.Module, idx: Tensor, targets: Tensor, dtype: torch.dtype) -> Callable[[], None]:
    """One training step: forward, backward, clip, fused AdamW."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, fused=True)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss = model(idx, targets)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def contenders(shape: Shape, kinds: list[str], compiled: bool) -> dict[str, Callable[[], None]]:
    """The peer first, then each attention type eager fp32, and with our defaults for long runs (bf16, compiled)."""
    torch.manual_seed(0)
    idx = torch.randint(shape.vocab, (shape.batch, shape.length))
    targets = idx.roll(-1, 1)
    steps = {PEER: stepper(MinimalGPT(shape), idx, targets, torch.float32)}
    for kind in kinds:
        config = GPTConfig(
            n_layer=shape.layers,
            n_head=shape.heads,
            n_embd=shape.width,
            sequence_len=shape.length,
            vocab_size=shape.vocab,
            attention_type=kind,
        )
        steps[f"{kind} eager fp32"] = stepper(GPT(config), idx, targets, torch.float32)
        steps[f"{kind} eager bf16"] = stepper(GPT(config), idx, targets, torch.bfloat16)
        if compiled:
            steps[f"{kind} compiled bf16"] = stepper(torch.compile(GPT(config)), idx, targets, torch.bfloat16)
    return steps


def main() -> None:
    """Print the table."""
    parser = timing.parser(str(__doc__), rounds=10)
    parser.add_argument("--kinds", nargs="*", default=["standard", "tropical", "reversible"])
    parser.add_argument("--compile", action="store_true", help="also torch.compile each (adds minutes)")
    options = parser.parse_args()
    shape = Shape()
    report = timing.Report("training_step", options, str(shape))
    laps = timing.interleave(contenders(shape, options.kinds, options.compile), options.rounds, warm_up=2)
    figures: dict[str, dict[str, float]] = {}
    for name, own in laps.items():
        speed = timing.ratio(laps[PEER], own).median
        figures[name] = {"tokens_per_second": shape.batch * shape.length / timing.seconds(own), "ratio_to_peer": speed}
    rows = [[name, f"{own['tokens_per_second']:.0f}", f"{own['ratio_to_peer']:.2f}"] for name, own in figures.items()]
    report.say()
    report.table(["", "tokens/s", "times the peer's"], rows)
    report.finish({"shape": vars(shape), "rows": figures})


if __name__ == "__main__":
    main()
