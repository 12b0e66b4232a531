"""Initial weights mixed with the pattern of an elementary cellular automaton, at unchanged variance.

    W' = sqrt(1 - alpha^2) W + alpha s P,   P in {-1, +1} centred and scaled to mean 0, variance 1,

where s^2 is the variance of the drawn W, so that Var W' = s^2 for every alpha. P is the space-time diagram of the rule
from a random first row; it is computed and mixed in fp32 and cast last.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nanochat.initialise import generator_for

RULES = {"rule30": 30, "rule116": 116}


def automaton(rule: int, first: Tensor, steps: int) -> Tensor:
    """Space-time diagram (steps, width) of an elementary rule on a ring, as 0/1 bytes.

    Cell i of the next row is bit 4 l + 2 c + r of the rule number, with l, c, r its left neighbour,
    itself and its right one.
    """
    table = torch.tensor([(rule >> bit) & 1 for bit in range(8)], dtype=torch.uint8)
    rows = [first]
    for _ in range(steps - 1):
        row = rows[-1].long()
        rows.append(table[4 * row.roll(1) + 2 * row + row.roll(-1)])
    return torch.stack(rows)


def pattern(rule: int, shape: tuple[int, int], seed: int, name: str) -> Tensor:
    """The automaton's diagram as fp32 of mean 0 and variance 1; zero if the rule dies out to a constant."""
    first = torch.randint(2, (shape[1],), generator=generator_for(seed, f"ca.{name}", shape), dtype=torch.uint8)
    cells = automaton(rule, first, shape[0]).float()
    centred = cells - cells.mean()
    deviation = centred.square().mean().sqrt()
    return centred / deviation if deviation > 0 else centred


@torch.no_grad()
def mix_automaton(model: nn.Module, rule: str, alpha: float, seed: int) -> None:
    """Mix the pattern into every linear and embedding weight that is not zero by design.

    What the finite sample leaves of correlation between W and P is scaled out, so that the mean square stays exactly
    that of W. Where the rule has died out to a constant, the weight stays as drawn.
    """
    done: set[int] = set()
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear | nn.Embedding) or id(module.weight) in done:
            continue
        done.add(id(module.weight))
        weight = module.weight.float()
        deviation = weight.square().mean().sqrt()
        cells = pattern(RULES[rule], (weight.shape[0], weight.shape[1]), seed, name).to(weight.device)
        if deviation > 0 and cells.any():
            mixed = (1 - alpha**2) ** 0.5 * weight + alpha * deviation * cells
            module.weight.copy_(mixed * (deviation / mixed.square().mean().sqrt()))
