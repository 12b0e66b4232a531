"""A mixer of this package in a PyTorch model of your own: a small model of bytes learns Python and writes some.

Run: ``python examples/own_model.py [NAME]`` with the name of any mixer, ``tropical`` if none is given.
"""

from __future__ import annotations

import argparse
import inspect

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanochat.attention import MIXERS, build, rotary_table

WIDTH, HEADS, LAYERS, LENGTH = 64, 4, 2, 64


class Block(nn.Module):
    """Your block: a mixer and a feed-forward part, each on a normalised copy of the stream."""

    def __init__(self, name: str, layer: int):
        super().__init__()
        self.mixer = build(name, n_embd=WIDTH, n_head=HEADS, n_kv_head=2, layer=layer, sequence_len=LENGTH)
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2))
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor], cache: object = None) -> Tensor:
        x = x + self.mixer(self.norms[0](x), rope, cache)
        return x + self.mlp(self.norms[1](x))


class ByteModel(nn.Module):
    """Your model."""

    def __init__(self, name: str):
        super().__init__()
        self.embed, self.head = nn.Embedding(256, WIDTH), nn.Linear(WIDTH, 256)
        self.blocks = nn.ModuleList(Block(name, layer) for layer in range(LAYERS))
        self.cos, self.sin = rotary_table(512, WIDTH // HEADS)

    def forward(self, idx: Tensor, caches: list | None = None, start: int = 0) -> Tensor:
        rope = self.cos[start : start + idx.shape[1]], self.sin[start : start + idx.shape[1]]
        x = self.embed(idx)
        for layer, block in enumerate(self.blocks):
            x = block(x, rope, None if caches is None else caches[layer])
        return self.head(x)


def train(model: ByteModel, text: Tensor, steps: int) -> None:
    """Your optimizer and loop."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(steps + 1):
        starts = torch.randint(len(text) - LENGTH - 1, (16,))
        batch = torch.stack([text[start : start + LENGTH + 1] for start in starts.tolist()])
        loss = F.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % (steps // 4) == 0:
            print(f"step {step:4}  {loss.item() / torch.log(torch.tensor(2.0)):.2f} bits per byte")


@torch.no_grad()
def write(model: ByteModel, prompt: bytes, count: int) -> bytes:
    """Greedy decoding, one byte at a time; each layer keeps what its mixer needs of the past."""
    caches = [block.mixer.init_cache(1, 512, torch.device("cpu"), torch.float32) for block in model.blocks]
    made, new = list(prompt), list(prompt)
    for _ in range(count):
        new = model(torch.tensor([new]), caches, len(made) - len(new))[0, -1:].argmax(-1).tolist()
        made += new
    return bytes(made)


def main() -> None:
    """Train, then write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", nargs="?", default="tropical", choices=MIXERS.names())
    parser.add_argument("--steps", type=int, default=300)
    options = parser.parse_args()
    torch.manual_seed(0)
    model = ByteModel(options.name)
    print(f"{sum(each.numel() for each in model.parameters())} parameters, {type(model.blocks[0].mixer).__name__}")
    train(model, torch.tensor(list(inspect.getsource(argparse).encode())), options.steps)
    print(write(model, b"    def __init__(self", 120).decode("utf-8", "replace"))


if __name__ == "__main__":
    main()
