"""The matrix-gauge demo: what exponentials keep, what goes around a square, words multiplied by turning, and limits."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from demos import terminal
from demos.certificate import Certificate, certify
from demos.matrix_gauge import checks, maths
from demos.matrix_gauge.families import NAMES, holonomy_map, kept
from demos.matrix_gauge.fusion import STEPS, conservation, fusion, magnus_steps
from demos.matrix_gauge.model import (
    CHANNELS,
    EMITTED,
    FREQUENCIES,
    HEADS,
    LETTERS,
    WORDS,
    Reader,
    Words,
    draw,
    initial,
    train,
)
from demos.matrix_gauge.semigroups import STIFF, markov, stiff_chain
from demos.result import DemoConfig, Plot, Table, Text
from demos.stage import Scene, laws, loss_plot, parameters, staged
from demos.training import Weights
from demos.words import number

SPANS = ((1, LETTERS), (33, 64), (129, 256))  # letters of a word over which accuracies are averaged


@dataclass(frozen=True, slots=True)
class Size:
    """How much is computed: steps and words of training, models per arm, words of a test, random walks."""

    steps: int
    batch: int
    models: int
    tested: int
    walks: int


QUICK = Size(steps=200, batch=16, models=2, tested=16, walks=20_000)
FULL = Size(steps=1000, batch=32, models=4, tested=48, walks=200_000)


def scenes(config: DemoConfig, random: np.random.Generator) -> Iterator[Scene]:
    """The four acts of the matrix-gauge demo."""
    size = QUICK if config.quick else FULL
    group, words = str(config.options["group"]), WORDS[str(config.options["words"])]()
    yield show_object(random, group)
    yield show_laws(random, size)
    arms = (group, "softmax") if config.quick else tuple(dict.fromkeys((group, "u1", "softmax")))
    steps = config.iterations(size.steps)
    yield show_learning(random, words, Trained.learn(random, words, "product", size, steps, arms))
    yield show_limits(random, Trained.learn(random, words, "vote", size, steps, (group, "softmax")))


# --- object -------------------------------------------------------------------------------------------------------


def show_object(random: np.random.Generator, group: str) -> Scene:
    """Five families of matrices with what their exponentials keep, and the map of what is left around a square."""
    certificates, table = kept(random)
    plot, certificate, most = holonomy_map(group)
    parts = [
        Text(
            "A matrix A is a velocity, and e^A is where it leads in one unit of time. What A looks like decides what "
            "the motion keeps. Cayley's map (1 - A/2)^-1 (1 + A/2) needs no series and keeps most of it; a plain step "
            "1 + A keeps nothing but volume where A is triangular."
        ),
        table,
        Text(
            f"Turn by one angle, then by another, then undo the first and the second. In {NAMES[group]} "
            + (
                f"this leaves a turn by up to {most:.0f} degrees: the order of turns matters, and it is the order of "
                "words that a layer can keep in this way. Half turns about perpendicular axes (the corners) commute."
                if most > 1
                else "nothing is left: turns about one axis commute, so they cannot keep the order of anything."
            )
        ),
        plot,
    ]
    return Scene("Motions, and what they keep", parts, [*certificates, certificate], {"most": most})


# --- laws ---------------------------------------------------------------------------------------------------------


def show_laws(random: np.random.Generator, size: Size) -> Scene:
    """Conserved quantities, fused steps, uniformization with its bound, random walks."""
    path, euler = conservation(random)
    series, fused = fusion(random)
    steps, magnus = magnus_steps(random)
    chain, semigroup, broken = markov(random, size.walks)
    certified = {
        f"x^T F x is kept over {STEPS} Cayley steps": path,
        "k letters of the series: order k + 1": series,
        "Magnus steps: orders 2 and 4, rotations": steps,
        **chain,
    }
    controls = {f"1 + A keeps x^T F x over {STEPS} steps": (euler, 1e-2), "1 + tQ >= 0": (broken, 1e-2)}
    parts = [
        laws(certified, {}, controls),
        fused,
        magnus,
        Text(
            "A Markov chain jumps at random times, so e^tQ x is a mean over the number of jumps. Nothing cancels, "
            "and the Poisson tail bounds what is left out: the number of terms is known before anything is multiplied."
        ),
        semigroup,
    ]
    return Scene("What must hold, checked in float64", parts, list(certified.values()))


# --- learning -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Trained:
    """Arms trained on the same words, several models each; ``right`` by model and letter, ``pace`` seconds a step."""

    weights: dict[str, Weights]
    losses: dict[str, np.ndarray]
    right: dict[str, np.ndarray]
    pace: dict[str, float]

    @classmethod
    def learn(
        cls, random: np.random.Generator, words: Words, task: str, size: Size, steps: int, arms: tuple[str, ...]
    ) -> Trained:
        data = draw(random, words.table, task, LETTERS, size.models, steps, size.batch)
        tests, wanted = draw(random, words.table, task, SPANS[-1][1], size.tested)
        found, losses, right, pace = {}, {}, {}, {}
        for arm in arms:
            model = Reader(arm, len(words.table))
            start = time.perf_counter()
            found[arm], curve = train(initial(random, model, size.models), *data, model=model)
            losses[arm] = np.asarray(curve).mean(0)
            pace[arm] = (time.perf_counter() - start) / steps
            said = [read(layer(found[arm], copy), tests, arm).argmax(-1) for copy in range(size.models)]
            right[arm] = np.stack([(each == wanted).mean(0) for each in said])
        return cls(found, losses, right, pace)

    def accuracy(self, arm: str, span: tuple[int, int]) -> np.ndarray:
        """Share of right answers of each model over a span of letters."""
        return self.right[arm][:, span[0] - 1 : span[1]].mean(1)


def layer(weights: Weights, copy: int = 0) -> dict[str, np.ndarray]:
    """One model's weights as the checks take them."""
    return {name: np.asarray(next(iter(part.values())))[copy] for name, part in weights["params"].items()}


def read(weights: Mapping[str, np.ndarray], words: np.ndarray, arm: str) -> np.ndarray:
    """Scores after each letter, by the numpy form that the certificates compare with the trained layer."""
    group = "u1" if arm == "softmax" else arm
    qkv, made = checks.emitted(words, heads=HEADS, group=group, **weights)
    if arm != "softmax":
        return checks.answers(checks.carried(qkv, made), **weights)
    fixed = np.broadcast_to(FREQUENCIES, (*qkv.shape[1:4], len(FREQUENCIES)))
    return checks.answers(checks.carried(qkv, checks.elements(fixed, "u1"), values=False), **weights)


def show_learning(random: np.random.Generator, words: Words, trained: Trained) -> Scene:
    """Accuracy within and beyond the trained length, the squares that the letters learned, and the certificates."""
    arms, chance = list(trained.weights), 1 / len(words.table)
    group = arms[0]
    counts = {arm: parameters(layer(trained.weights[arm])) for arm in arms}
    assert len(set(counts.values())) == 1
    rows = [(arm, *(spread(trained.accuracy(arm, span)) for span in SPANS)) for arm in arms]
    rows.append(("guessing", *(f"{chance:.2f}" for _ in SPANS)))
    squares, plot = learned_squares(words, layer(trained.weights[group]), group)
    models = len(trained.right[group])
    numbers = {
        "right": float(trained.accuracy(group, SPANS[1]).mean()),
        "right_inside": float(trained.accuracy(group, SPANS[0]).mean()),
        "right_far": float(trained.accuracy(group, SPANS[2]).mean()),
        "softmax_right": float(trained.accuracy("softmax", SPANS[1]).mean()),
        "chance": chance,
        "parameters": float(counts[group]),
        **squares,
    }
    parts = [
        Text(
            f"Letters are {words.what}; asked is, after each letter, what the word so far multiplies to. Trained on "
            f"{LETTERS} letters, tested on {SPANS[-1][1]}. Each letter emits a turn, attention compares what was "
            "carried along: so3 by quaternions, u1 by angles, softmax has fixed positions. "
            f"{models} models per arm, {counts[group]} parameters each."
        ),
        Table(
            ("arm", *(f"{first} to {last}" for first, last in SPANS)),
            tuple(rows),
            title="Share of right answers by place in the word, mean (worst to best model)",
        ),
        reach_plot(trained),
        plot,
        loss_plot(trained.losses, detail=True),
    ]
    certificates = learned_certificates(random, words, layer(trained.weights[group]), group)
    return Scene("Words multiplied by turning", parts, certificates, numbers)


def spread(values: np.ndarray) -> str:
    """Mean, worst and best."""
    return f"{values.mean():.2f} ({values.min():.2f} to {values.max():.2f})"


def reach_plot(trained: Trained) -> Plot:
    """Accuracy by letter, in windows that double."""
    edges = np.unique(np.geomspace(1, SPANS[-1][1], 15).astype(int))
    middle = np.sqrt(edges[:-1] * (edges[1:] - 1.0 * (edges[1:] > edges[:-1] + 1)))
    found = {
        arm: np.array([right.mean(0)[a - 1 : b - 1].mean() for a, b in zip(edges, edges[1:], strict=False)])
        for arm, right in trained.right.items()
    }
    series = {arm: (middle, y) for arm, y in found.items()}
    text = terminal.chart(series, xlabel="letter", ylabel="right", logx=True, height=10)
    title = f"Right answers by letter; trained on {LETTERS}"
    return Plot(title, text, "reach", {"letter": middle, "trained": np.array(LETTERS), **found})


def learned_squares(words: Words, weights: Mapping[str, np.ndarray], group: str) -> tuple[dict[str, float], Plot]:
    """What one block leaves around the square of every two letters, beside whether the letters commute."""
    chords = squares_of(weights, group)
    degrees = np.degrees(2 * np.arcsin(np.minimum(chords / 8**0.5, 1)))
    flat = degrees.reshape(*degrees.shape[:2], -1)
    apart = words.table != words.table.T
    contrast = flat[apart].sum(0) / max(apart.sum(), 1) - flat[~apart].mean(0)
    shown = flat[..., contrast.argmax()]
    learned = [" ".join(f"{angle:4.0f}" for angle in row) for row in shown]
    known = [" ".join("x" if differ else "·" for differ in row) for row in apart]
    text = terminal.beside(("left around the square, degrees", learned), ("ab differs from ba", known))
    numbers = {
        "apart_degrees": float(shown[apart].mean()) if apart.any() else 0.0,
        "together_degrees": float(shown[~apart].mean()),
    }
    title = f"Squares of the {len(apart)} letters in the block that tells them apart best ({group})"
    return numbers, Plot(title, text, "squares", {"degrees": shown, "apart": apart})


def squares_of(weights: Mapping[str, np.ndarray], group: str) -> np.ndarray:
    """Distance of a b a^-1 b^-1 from 1 for all letters, by heads and blocks, from the definition in jax."""
    raw = (weights["embed"] @ weights["mix"]).reshape(len(weights["embed"]), HEADS, -1)[:-1, :, 3 * CHANNELS :]
    return np.asarray(jax.jit(partial(letter_squares, group=group))(raw))


def letter_squares(raw: Float[Array, "L H n"], group: str) -> Float[Array, "L L H blocks"]:
    """The same, as the turn of unit vectors by one-token frames."""
    frame = jax.vmap(lambda one: maths.frames(one[:, None], group)[:, 0])(raw)  # (L, H, c, blocks)
    if group == "u1":
        angle = jnp.arctan2(frame[:, :, 1], frame[:, :, 0])
        around = angle[:, None] + angle[None] - angle[:, None] - angle[None]
        return 2 * jnp.sqrt(2.0) * jnp.abs(jnp.sin(around / 2))
    a, b = frame[:, None], frame[None]
    around = maths.product(maths.product(a, b), maths.inverse(maths.product(b, a)))
    return jnp.sqrt(8.0) * jnp.linalg.norm(around[..., 1:, :], axis=-2)


def learned_certificates(
    random: np.random.Generator, words: Words, weights: dict[str, np.ndarray], group: str
) -> list[Certificate]:
    """Of the trained layer: two turns per token do for all pairs, local frames do not matter, rotations stay."""
    model = Reader(group, len(words.table))
    few, _ = draw(random, words.table, "product", LETTERS, 3)
    many, _ = draw(random, words.table, "product", 512, 2)
    whole: dict[str, Any] = {"heads": HEADS, "group": group, **weights}
    stacked = {
        "params": {name: {"embedding" if name == "embed" else "kernel": value} for name, value in weights.items()}
    }
    said = jax.jit(jax.vmap(partial(model.apply, stacked)))(few)
    qkv, made = checks.emitted(many, **whole)
    return [
        certify(
            "matrix-gauge.same_layer",
            "the trained layer equals attention by the way between every two tokens",
            1e-11,
            words=few,
            said=np.asarray(said),
            **whole,
        ),
        certify(
            "matrix-gauge.gauge",
            "a random frame at every token changes nothing in the trained layer but the frame of its answers",
            1e-11,
            words=few,
            turns=random.normal(size=(len(few), LETTERS + 1, HEADS, EMITTED[group])),
            **whole,
        ),
        certify(
            "matrix-gauge.drift",
            "frames of the trained layer are rotations after 512 letters",
            1e-11,
            words=many,
            last=checks.frames(made)[:, -1],
            **whole,
        ),
        certify(
            "matrix-gauge.plaquettes",
            "what is left around the squares of the trained letters is as said"
            + (", which is nothing" if group == "u1" else ""),
            1e-7,
            chords=squares_of(weights, group),
            **whole,
        ),
    ]


# --- limits -------------------------------------------------------------------------------------------------------


def show_limits(random: np.random.Generator, trained: Trained) -> Scene:
    """A vote in which order says nothing, the time of a step, and a chain whose rates are large."""
    group = next(iter(trained.weights))
    wrong = {arm: [1 - float(trained.accuracy(arm, span).mean()) for span in SPANS] for arm in trained.weights}
    terms, dense, sparse = stiff_chain(random)
    rows = [
        *(
            (
                f"most frequent so far, letters {first} to {last}, share wrong",
                *(f"{wrong[arm][at]:.3f}" for arm in wrong),
            )
            for at, (first, last) in enumerate(SPANS)
        ),
        ("one step of training, ms", number(1e3 * trained.pace[group]), number(1e3 * trained.pace["softmax"])),
    ]
    parts = [
        Text(
            "Where order says nothing, carrying is noise that has to be unlearned: the same layers were trained as "
            "long on the most frequent letter so far. And a mean over jumps needs as many terms as there are jumps."
        ),
        Table(("where it loses", group, "softmax"), tuple(rows)),
        Table(
            ("", "uniformization", "scipy's expm"),
            ((f"rate x time = {STIFF:.0e}: ms for 6 states", number(1e3 * sparse), number(1e3 * dense)),),
        ),
    ]
    numbers = {
        "vote_wrong": wrong[group][1],
        "vote_softmax_wrong": wrong["softmax"][1],
        "vote_wrong_inside": wrong[group][0],
        "vote_softmax_wrong_inside": wrong["softmax"][0],
        "slower": trained.pace[group] / trained.pace["softmax"],
        "terms": float(terms),
        "stiff_slower": sparse / dense,
    }
    return Scene("Where turning loses", parts, numbers=numbers)


def closing(config: DemoConfig, numbers: Mapping[str, float]) -> tuple[str, str]:
    """What was seen, from the numbers."""
    n, group = numbers, str(config.options["group"])
    first, last = SPANS[1]
    return (
        f"Around a square {NAMES[group]} leave up to {n['most']:.0f} degrees; carried by them, a layer trained on "
        f"{LETTERS} letters of {config.options['words']} is right in {n['right']:.0%} of letters {first} to {last} and "
        f"{n['right_far']:.0%} of {SPANS[2][0]} to {SPANS[2][1]}, softmax with the same {n['parameters']:.0f} "
        f"parameters in {n['softmax_right']:.0%} of the former, guessing in {n['chance']:.0%}.",
        f"Asked for the most frequent letter instead, it is wrong in {n['vote_wrong']:.0%} of letters {first} to "
        f"{last} ({n['vote_wrong_inside']:.1%} within the trained length), softmax in {n['vote_softmax_wrong']:.0%} "
        f"({n['vote_softmax_wrong_inside']:.1%}); a step of its training takes {number(n['slower'])} times as long, "
        f"and at rate x time {STIFF:.0e} uniformization adds up {n['terms']:.0f} terms, {number(n['stiff_slower'])} "
        "times the time of scipy.",
    )


def gist(_: DemoConfig, numbers: Mapping[str, float]) -> tuple[str, str]:
    """Learned and lost, for the table of all demos."""
    n = numbers
    return (
        f"words of {SPANS[1][1]}: {n['right']:.0%} right, softmax {n['softmax_right']:.0%}",
        f"a vote of letters: {n['vote_wrong_inside']:.1%} wrong, softmax {n['vote_softmax_wrong_inside']:.1%}",
    )


run = staged(scenes, closing, gist)
