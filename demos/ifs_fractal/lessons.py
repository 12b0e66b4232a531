"""What is learned: readers of both rules over several seeds, and facts that memories keep or forget."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from demos.ifs_fractal import memory
from demos.ifs_fractal.model import Reader, Task, initial, odds, train
from demos.stage import parameters
from demos.training import Weights

RULE, GAPPED = Task((1, 2, 3, 4)), Task((3, 4))
LENGTH = 64  # tokens of a training sequence; tested on twice as many
BATCH, TESTED = 16, 256
TASKS = 5  # that the memories are taught, one after the other
FILL = 2.0 ** np.arange(-2, 3.5, 0.5)  # facts written over cells


@dataclass(frozen=True, slots=True)
class Readers:
    """Readers of one rule.

    Args:
        weights: of the last seed, by kind.
        tokens: a test sequence.
        said: log-odds after each token of it, by kind; of the last seed.
        losses: mean over seeds, by kind.
        near: share of right bits within the trained length, by kind and seed.
        far: the same in as many tokens beyond it.
    """

    weights: dict[str, Weights]
    tokens: np.ndarray
    said: dict[str, np.ndarray]
    losses: dict[str, np.ndarray]
    near: dict[str, np.ndarray]
    far: dict[str, np.ndarray]

    @classmethod
    def learn(
        cls, random: np.random.Generator, task: Task, kinds: tuple[str, ...], ratio: float, steps: int, seeds: int
    ) -> Readers:
        weights: dict[str, Weights] = {}
        said: dict[str, np.ndarray] = {}
        losses: dict[str, list[np.ndarray]] = {kind: [] for kind in kinds}
        near: dict[str, list[float]] = {kind: [] for kind in kinds}
        far: dict[str, list[float]] = {kind: [] for kind in kinds}
        tokens, bits, scored = task.draw(random, 2 * LENGTH, TESTED)
        for _ in range(seeds):
            data = task.draw(random, LENGTH, steps, BATCH)
            for kind in kinds:
                model = Reader(kind, ratio)
                found, curve = train(initial(random, model), *data, model=model)
                said[kind] = np.asarray(odds(found, tokens, model=model))
                right = ((said[kind] > 0) == bits) & scored
                weights[kind] = found
                losses[kind].append(np.asarray(curve))
                near[kind].append(right[:, :LENGTH].sum() / scored[:, :LENGTH].sum())
                far[kind].append(right[:, LENGTH:].sum() / scored[:, LENGTH:].sum())
        return cls(
            weights,
            tokens[0],
            {kind: each[0] for kind, each in said.items()},
            {kind: np.mean(each, 0) for kind, each in losses.items()},
            {kind: np.array(each) for kind, each in near.items()},
            {kind: np.array(each) for kind, each in far.items()},
        )

    @property
    def parameters(self) -> int:
        """Numbers that each kind learns; the same for all."""
        (count,) = {parameters(each) for each in self.weights.values()}
        return count

    @property
    def layer(self) -> dict[str, np.ndarray]:
        """The trained suffix layer's matrices as the checks take them."""
        inner = self.weights["suffix"]["params"]
        return {name: np.asarray(inner[name]) for name in ("embed", "key", "value", "out")}


@dataclass(frozen=True, slots=True)
class Forgetting:
    """Errors on the first of several tasks after each, by learner; what the memory holds; facts per task."""

    errors: dict[str, np.ndarray]
    held: dict[str, Any]
    facts: int
    sizes: dict[str, int]

    @classmethod
    def learn(cls, random: np.random.Generator, ratio: float, depth: int, steps: int) -> Forgetting:
        cells = memory.ARITY**depth
        facts = 3 * cells // 16
        words = memory.unnumbered(random.permutation(cells)[: TASKS * facts], depth)
        errors, held = memory.forgetting(random, ratio, depth, np.split(words, TASKS), steps)
        control = memory.initial(random, memory.perceptron(depth), depth)
        kept = memory.room(depth) * (memory.VALUE + memory.CORNERS.shape[1])
        return cls(
            errors, held, facts, dict(zip(errors, (cells * memory.VALUE, parameters(control), kept), strict=True))
        )


def filled(random: np.random.Generator, ratio: float, depth: int) -> dict[str, np.ndarray]:
    """Facts that can be read back, over cells, after writing random words longer than the memory is deep."""
    cells = memory.ARITY**depth
    writes = np.round(FILL * cells).astype(int)
    words = random.integers(0, memory.ARITY, (writes[-1], depth + 4))
    places = memory.cell(memory.route(ratio, memory.write(ratio, words), depth))
    found = np.array([len(np.unique(places[:count])) for count in writes])
    return {
        "facts": writes / cells,
        "read back": found / cells,
        "expected": memory.survivors(cells, writes) * writes / cells,
        "list of keys": np.minimum(writes, memory.room(depth)) / cells,
    }
