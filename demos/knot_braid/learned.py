"""The layers of the knot-braid demo: trained, tested on longer words, and what is certified of the one that braids."""

from __future__ import annotations

import random as letters_random
from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from demos.certificate import Certificate, certify
from demos.knot_braid import checks, crossings, maths, tasks, words
from demos.knot_braid.model import BRAIDS, STRANDS, Reader, answers, initial, models, settled, train
from demos.training import Weights

TESTED = (8, 16, 32, 64, 128)
"""Letters of the words in tests."""

SETTLED = "strands, orders rounded"


@dataclass(frozen=True, slots=True)
class Size:
    """How much is computed: moves that scramble a word, pairs of words, training, models, words of a test."""

    letters: int
    pairs: int
    steps: int
    batch: int
    copies: int
    tests: int


@dataclass(frozen=True, slots=True)
class Trained:
    """Models of both kinds, trained on the same words.

    Args:
        law: of the crossings.
        modulus: of the matrices.
        tests: longer words.
        models: by kind.
        weights: by kind, leading axis models.
        losses: by kind, (models, steps).
        right: by kind, share of right answers of each model after each letter.
        said: scores after the last letter of the tests, (models, tests, classes), of the layers that are certified:
            those with strands, their orders rounded where that makes the matrices finitely many.
    """

    law: str
    modulus: int
    tests: np.ndarray
    models: dict[str, Reader]
    weights: dict[str, Weights]
    losses: dict[str, np.ndarray]
    right: dict[str, np.ndarray]
    said: np.ndarray

    @classmethod
    def learn(cls, random: np.random.Generator, size: Size, task: str, law: str, modulus: int, steps: int) -> Trained:
        asked = tasks.TASKS[task]
        letters = random.integers(0, len(tasks.LETTERS), (steps, size.batch, tasks.TRAINED))
        tests = random.integers(0, len(tasks.LETTERS), (size.tests, TESTED[-1]))
        wanted = asked(tests, modulus)
        made = models(law, len(tasks.steps(modulus)))
        weights, losses, said = {}, {}, {}
        for name, model in made.items():
            start = initial(random, model, size.copies)
            weights[name], curve = train(start, letters, asked(letters, modulus), model=model)
            losses[name] = np.asarray(curve)
            said[name] = np.asarray(answers(weights[name], tests, model=model))
            if name == STRANDS and law == "ybe":
                said[SETTLED] = np.asarray(answers(settled(weights[name]), tests, model=model))
        right = {name: (scores.argmax(-1) == wanted).mean(1) for name, scores in said.items()}
        final = said.get(SETTLED, said[STRANDS])[:, :, -1]
        return cls(law, modulus, tests, made, weights, losses, right, final)

    def best(self, kind: str) -> int:
        """The model of least training loss at the end."""
        return int(self.losses[kind][:, -20:].mean(-1).argmin())

    def shares(self, kind: str) -> np.ndarray:
        """Shares of right answers of the model of least training loss, by number of letters."""
        return self.right[kind][self.best(STRANDS if kind == SETTLED else kind)]

    def beyond(self, kind: str) -> np.ndarray:
        """:meth:`shares` at all lengths beyond those of training."""
        return self.shares(kind)[tasks.TRAINED :]

    def solved(self, kind: str) -> int:
        """Models that are right on over 99 % of the words at every length beyond those of training."""
        return int((self.right[kind][:, tasks.TRAINED :].min(1) > 0.99).sum())

    @property
    def layer(self) -> dict[str, np.ndarray]:
        """The best layer that carries strands as the checks take it; its orders rounded where that has a meaning."""
        weights = self.weights[STRANDS]
        chosen = settled(weights) if self.law == "ybe" else weights
        inner = jax.tree.map(lambda leaf: np.asarray(leaf[self.best(STRANDS)]), chosen)["params"]
        return {name: leaf if name == "angle" else leaf["kernel"] for name, leaf in inner.items()}


def learned_certificates(random: np.random.Generator, trained: Trained) -> tuple[list[Certificate], float]:
    """Of the trained layer; and how much respelling a braid changes what it carries."""
    layer, law, letters = trained.layer, trained.law, trained.tests[:12]
    missed = int(checks.missed(letters, trained.modulus, law, **layer))
    left = checks.spelled(letters[:, :12], layer["crossing"])
    right = respelled(random, left)
    apart = checks.moved(left, right, layer["angle"]) if law == "ybe" else drawn_apart(layer["angle"])
    certificates = [
        certify(
            "knot-braid.reader",
            f"recomputed, the trained layer says the same after {letters.shape[1]} letters",
            1e-9,
            letters=letters[:4],
            said=trained.said[trained.best(STRANDS), :4],
            law=law,
            **layer,
        ),
        certify(
            "knot-braid.missed",
            f"after {letters.shape[1]} letters the trained layer misses the state of {missed} of {len(letters)} words",
            float(missed),
            letters=letters,
            modulus=trained.modulus,
            law=law,
            **layer,
        ),
    ]
    if law == "ybe":
        certificates += braid_certificates(layer, left, right)
    return certificates, apart


def respelled(random: np.random.Generator, found: np.ndarray) -> np.ndarray:
    """The braid words (W, T, n) after random moves, filled with letters that stay."""
    generator = letters_random.Random(int(random.integers(2**32)))
    words_of = [
        [words.shuffled(checks.word(row[:, n]), 3, 12, generator) for n in range(row.shape[1])] for row in found
    ]
    longest = max(len(word) for row in words_of for word in row)
    return np.array([[(*word, *(0,) * (longest - len(word))) for word in row] for row in words_of]).swapaxes(1, 2)


def drawn_apart(angle: np.ndarray) -> float:
    """How far s1 s2 s1 and s2 s1 s2 are apart under the restricted law, in the braid where they are furthest."""
    one, two = (np.array(word)[None, :, None].repeat(len(angle), 2) for word in crossings.RELATIONS["R3"])
    ends = [checks.carried(word, angle, "restricted")[0, -1] for word in (one, two)]
    return float(np.abs(ends[0] - ends[1]).max())


def braid_certificates(layer: Mapping[str, np.ndarray], left: np.ndarray, right: np.ndarray) -> list[Certificate]:
    """What the trained layer carries are Burau matrices of braids, however these are spelled."""
    choice = jnp.moveaxis(jax.nn.one_hot(crossings.CHOICE[left], 5, dtype=jnp.float64), -1, -2)
    table = maths.generators(jnp.broadcast_to(layer["angle"], (len(left), BRAIDS)))
    frames = np.asarray(jax.jit(maths.frames)(choice, table))[:, -1]
    return [
        certify(
            "knot-braid.artin",
            "the trained layer's crossings are unitary and satisfy s1 s2 s1 = s2 s1 s2",
            1e-12,
            table=np.stack([np.asarray(each)[0] for each in table]),
        ),
        certify(
            "knot-braid.executed",
            "what the trained layer carries are the Burau matrices of the words that it spells",
            1e-10,
            letters=left,
            angle=layer["angle"],
            quaternion=frames[..., :BRAIDS],
            phase=frames[:, :2, BRAIDS:],
        ),
        certify(
            "knot-braid.moved",
            "random R2 and R3 moves of the words leave what the trained layer carries as it is",
            1e-11,
            left=left,
            right=right,
            angle=layer["angle"],
        ),
    ]
