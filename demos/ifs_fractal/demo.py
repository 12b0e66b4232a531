"""The fractal demo: attractors and a picture made of itself, a memory of words, suffixes matched, and what is lost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from demos import terminal
from demos.certificate import Certificate, certify
from demos.ifs_fractal import checks, maths, memory, picture
from demos.ifs_fractal.attractors import ATTRACTORS, Attractor
from demos.ifs_fractal.exhibits import attractor_parts, means, picture_parts, rms, word_parts
from demos.ifs_fractal.lessons import GAPPED, LENGTH, RULE, TASKS, Forgetting, Readers, filled
from demos.ifs_fractal.model import SHARPNESS
from demos.result import DemoConfig, Part, Plot, Table, Text
from demos.stage import Scene, laws, loss_plot, staged
from demos.words import against, number

RATIOS = (0.15, 0.2, 0.25, 0.3, 1 / 3, 0.36, 0.4, 0.43, 0.46, 0.48, 0.5, 0.55, 0.6, 0.7, 0.8)
ELSEWHERE = 0.3  # the contraction to which a memory is moved


@dataclass(frozen=True, slots=True)
class Size:
    """How much is computed: points drawn, pixels on a side, training steps of a reader and of a memory, seeds."""

    points: int
    pixels: int
    steps: int
    lessons: int
    models: int


QUICK = Size(points=12000, pixels=32, steps=120, lessons=300, models=1)
FULL = Size(points=60000, pixels=64, steps=500, lessons=1500, models=3)


def scenes(config: DemoConfig, random: np.random.Generator) -> Iterator[Scene]:
    """The four acts of the fractal demo."""
    size = QUICK if config.quick else FULL
    attractor = ATTRACTORS[str(config.options["attractor"])]
    ratio, depth = float(config.options["contraction"]), int(config.options["depth"])
    first = show_object(random, size, attractor, ratio, depth)
    yield first
    yield show_laws(random, attractor, ratio, depth)
    steps, lessons = config.iterations(size.steps), config.iterations(size.lessons)
    readers = Readers.learn(random, RULE, ("suffix", "softmax", "convolution"), ratio, steps, size.models)
    yield show_learning(readers, Forgetting.learn(random, ratio, depth, lessons), ratio)
    gapped = Readers.learn(random, GAPPED, ("suffix", "convolution"), ratio, steps, size.models)
    unseen = memory.unseen(random, depth, lessons)
    landscape = first.numbers["picture_error"], first.numbers["means_error"]
    yield show_limits(random, size, (readers, gapped), unseen, landscape, ratio, depth)


def show_object(random: np.random.Generator, size: Size, attractor: Attractor, ratio: float, depth: int) -> Scene:
    """The attractor and its pieces, a picture that is one too, words written into points."""
    parts = attractor_parts(random, attractor, size.points)
    drawn, certificates, numbers = picture_parts(random, size.pixels, ratio)
    parts += [*drawn, *word_parts(random, ratio, depth)]
    return Scene("Contractions, and the one set they leave", parts, certificates, numbers)


# --- laws ---------------------------------------------------------------------------------------------------------


def show_laws(random: np.random.Generator, attractor: Attractor, ratio: float, depth: int) -> Scene:
    """Contraction, fixed point, collage; separation, reading and re-indexing of the memory; dimensions."""
    maps = {"matrices": attractor.matrices, "offsets": attractor.offsets}
    s = checks.factor(attractor.matrices)
    x, y = random.uniform(-3, 3, (2, 64, 2))
    steps = 3
    sketch = attractor.points(random, 24)[0] * 1.1 + 0.1
    certified = {
        "maps shrink every distance": certify(
            "ifs-fractal.contraction",
            f"every map of the {attractor.name} shrinks by {s:.3g} or more",
            1e-12,
            x=x,
            y=y,
            s=s,
            **maps,
        ),
        "every start, one attractor": certify(
            "ifs-fractal.fixed_point",
            f"n steps bring any two sets nearer by {s:.3g}^n",
            1e-12,
            one=x[:12],
            other=y[:8] + 5,
            steps=steps,
            **maps,
        ),
        "collage theorem": certify(
            "ifs-fractal.collage",
            "a sketch is as near to what the maps make of it as its first collage promises",
            1e-12,
            target=sketch,
            steps=steps,
            **maps,
        ),
    }
    if ratio < 0.5:
        certified |= memory_laws(random, ratio, depth)
    moran = abs(float(maths.similarity_dimension(jnp.full(3, 0.5))) - np.log(3) / np.log(2))
    expanding = 3 * attractor.matrices / s, attractor.offsets
    broken = {
        "expanding maps have one attractor": (apart(expanding, x[:12], y[:8] + 5), 1.0),
        "collage without 1 / (1 - s)": (unbounded_collage(ratio), 1e-2),
        "pieces stay apart at s = 0.6": (overlap(random, 0.6), 1e-2),
    }
    return Scene(
        "What must hold, checked in float64",
        [laws(certified, {"Moran's root of the gasket is log 3 / log 2": (moran, 1e-12)}, broken)],
        list(certified.values()),
    )


def memory_laws(random: np.random.Generator, ratio: float, depth: int) -> dict[str, Certificate]:
    """Of the memory's own maps, where its pieces stay apart."""
    words = memory.unnumbered(np.arange(memory.ARITY**3), 3)
    long = random.integers(0, memory.ARITY, (24, depth))
    noise = random.uniform(-1, 1, (24, 2)) * 0.49 * (1 - 2 * ratio) * ratio ** (depth - 1)
    return {
        "words apart by (1 - 2s) s^l": certify(
            "ifs-fractal.separation",
            f"words that part after l letters are written at least {1 - 2 * ratio:.3g} times {ratio:g}^l apart",
            1e-14,
            words=words,
            points=memory.write(ratio, words),
            ratio=ratio,
        ),
        "words read back despite noise": certify(
            "ifs-fractal.read",
            f"the router reads {depth} letters from points moved by almost half the gap",
            0.0,
            words=long,
            points=memory.write(ratio, long) + noise,
            ratio=ratio,
        ),
    } | reindexing_laws(random, ratio, depth)


def reindexing_laws(random: np.random.Generator, ratio: float, depth: int) -> dict[str, Certificate]:
    """A full memory moved to another contraction, given one level more, and two levels read as one: same values."""
    deeper = depth + 1
    words = random.integers(0, memory.ARITY, (64, deeper))
    cells = random.normal(size=(memory.ARITY**depth, memory.VALUE))
    points = memory.write(ratio, words)
    children = np.repeat(cells, memory.ARITY, 0)
    whole = children if deeper % 2 == 0 else cells
    before: dict[str, Any] = {"before_points": points, "before_cells": cells, "before_ratio": ratio}
    after = {
        "moved": ("moved to another contraction", memory.write(ELSEWHERE, words), cells, ELSEWHERE),
        "deeper": ("with a level more", points, children, ratio),
    }
    found = {
        f"same values {text}": certify(
            f"ifs-fractal.reindexed:{name}",
            f"a memory {text} gives every word the value it had",
            0.0,
            after_points=places,
            after_cells=held,
            after_ratio=s,
            after_corners=memory.CORNERS,
            **before,
        )
        for name, (text, places, held, s) in after.items()
    }
    found["same values with two levels in one"] = certify(
        "ifs-fractal.reindexed:paired",
        f"the maps f_i f_j, {memory.ARITY**2} of them with contraction {ratio**2:.3g}, lead to the same cells",
        0.0,
        after_points=points,
        after_cells=whole,
        after_ratio=ratio**2,
        after_corners=memory.paired(ratio),
        **before,
    )
    return found


def apart(maps: tuple[np.ndarray, np.ndarray], one: np.ndarray, other: np.ndarray) -> float:
    """Distance of two sets after three steps over their distance before."""
    after = checks.hausdorff(checks.union(*maps, one, steps=3), checks.union(*maps, other, steps=3))
    return after / checks.hausdorff(one, other)


def unbounded_collage(ratio: float) -> float:
    """By how much the attractor of the memory's maps is farther from a point than the point from its collage."""
    maps = ratio * np.tile(np.eye(2), (memory.ARITY, 1, 1)), (1 - ratio) * memory.CORNERS
    target = np.array([[5.0, 5.0]])
    attractor = checks.union(*maps, memory.CORNERS, steps=4)
    return checks.hausdorff(attractor, target) - checks.hausdorff(target, checks.union(*maps, target))


def overlap(random: np.random.Generator, ratio: float) -> float:
    """How deep the pieces of words that begin with a and with b reach into each other."""
    tails = random.integers(0, memory.ARITY, (2, 128, 12))
    left, right = (memory.write(ratio, np.c_[np.full(128, first), tails[first]])[:, 0] for first in (0, 1))
    return float(left.max() - right.min())


# --- learning -----------------------------------------------------------------------------------------------------


def show_learning(readers: Readers, forgetting: Forgetting, ratio: float) -> Scene:
    """A rule of order k by suffixes, and tasks that are learned one after the other."""
    near, far = ({kind: float(share.mean()) for kind, share in x.items()} for x in (readers.near, readers.far))
    seeds = len(readers.near["suffix"])
    names = {
        "suffix": "inverse distance of histories",
        "softmax": "softmax of queries and keys",
        "convolution": "the same, short convolution",
    }
    rows = [
        (
            names[kind],
            str(readers.parameters),
            percent(near[kind]),
            percent(far[kind]),
            percent(readers.far[kind].min()),
        )
        for kind in names
    ]
    last = {name: float(errors[-1]) for name, errors in forgetting.errors.items()}
    numbers = {
        "parameters": float(readers.parameters),
        **{f"{kind}_near": near[kind] for kind in names},
        **{f"{kind}_far": far[kind] for kind in names},
        "memory_forgets": last["address memory"],
        "mlp_forgets": last["MLP"],
        "list_forgets": last["list of keys"],
    }
    sizes = ", ".join(f"{name} {size}" for name, size in forgetting.sizes.items())
    parts: list[Part] = [
        Text(
            f"A history is a point too: h = {ratio:g} h + step(token). Attention by inverse powers of the distance "
            "between our history and the one before each token reads what followed the pasts that end like ours. Bits "
            f"follow a rule of the last {RULE.order}, new for every sequence; a guess is right half of the time."
        ),
        Table(
            ("one layer", "parameters", f"to {LENGTH}", f"to {2 * LENGTH}", "worst seed"),
            tuple(rows),
            title=f"Right bits up to the trained length of {LENGTH} tokens, and beyond ({counted(seeds, 'seed')})",
        ),
        loss_plot(readers.losses, "Training loss", detail=True),
        Text(
            f"Then facts, {TASKS} tasks of {forgetting.facts} words and their values, one task after the other. A fact "
            f"touches one cell of the memory, but every weight of an MLP. Numbers kept: {sizes}."
        ),
        forgetting_plot(forgetting),
    ]
    return Scene("Suffixes matched, facts kept", parts, learned_certificates(readers, forgetting, ratio), numbers)


def counted(count: int, noun: str) -> str:
    """Example: 1 seed, 3 seeds."""
    return f"{count} {noun}{'s' * (count != 1)}"


def percent(share: float) -> str:
    """With one decimal."""
    return f"{share:.1%}"


def forgetting_plot(forgetting: Forgetting) -> Plot:
    """Error on the first task by tasks learned."""
    tasks = np.arange(1, TASKS + 1)
    text = terminal.chart(
        {name: (tasks, errors) for name, errors in forgetting.errors.items()},
        xlabel="tasks learned",
        ylabel="error",
        height=8,
    )
    title = "Error on the first task (its values have size 1)"
    return Plot(title, text, "forgetting", {"tasks": tasks, **forgetting.errors})


def learned_certificates(readers: Readers, forgetting: Forgetting, ratio: float) -> list[Certificate]:
    """Of the trained layer: its answers, its histories; of the memory: that each cell holds its last fact."""
    layer = readers.layer
    power = SHARPNESS * float(np.exp(readers.weights["suffix"]["params"]["sharpness"][0]))
    embedded = {"tokens": readers.tokens, "embed": layer["embed"], "key": layer["key"], "ratio": ratio}
    return [
        certify(
            "ifs-fractal.suffix",
            "the trained layer says the mean of what followed each past, by inverse powers of the pasts' distances",
            1e-9,
            value=layer["value"],
            out=layer["out"],
            power=power,
            said=readers.said["suffix"],
            **embedded,
        ),
        certify(
            "ifs-fractal.bracket",
            "trained histories that share L last tokens are within the distances that s^L allows",
            1e-12,
            **embedded,
        ),
        certify(
            "ifs-fractal.truncation",
            "cutting a trained history to its last L tokens moves it by at most s^L / (1 - s)",
            1e-12,
            **embedded,
        ),
        certify(
            "ifs-fractal.kept",
            f"after {TASKS} tasks every cell holds, to the bit, what was last written to it",
            0.0,
            ratio=ratio,
            **forgetting.held,
        ),
    ]


# --- limits -------------------------------------------------------------------------------------------------------


def show_limits(
    random: np.random.Generator,
    size: Size,
    readers: tuple[Readers, Readers],
    unseen: Mapping[str, float],
    landscape: tuple[float, float],
    ratio: float,
    depth: int,
) -> Scene:
    """A convolution that ties, a rule that skips, words never shown, noise as a picture, and full memories."""
    rule, gapped = readers
    noise = random.uniform(size=(size.pixels, size.pixels))
    code = picture.encode(noise, ratio)
    decoded = picture.decoded(code, noise, picture.settled(ratio))[-1]
    share = {kind: float(gapped.near[kind].mean()) for kind in gapped.near}
    letters, full = memory.letters(random, ratio), filled(random, ratio, depth)
    skipped = min(GAPPED.back) - 1
    rows = [
        (f"rule of order {RULE.order}, short convolution", *(percent(rule.near[k].mean()) for k in share)),
        (f"rule that skips the last {skipped} bits", *map(percent, share.values())),
        ("words never shown, error: MLP", *(number(unseen[k]) for k in ("address memory", "MLP"))),
        ("picture of noise, error: means of 2 x 2", number(rms(decoded - noise)), number(rms(means(noise) - noise))),
        ("the landscape, error: means of 2 x 2", *map(number, landscape)),
    ]
    even = int(np.abs(full["facts"] - 1).argmin())
    point = f"One point in float64 holds {letters} letters at s = {ratio:g}"
    parts: list[Part] = [
        Text(
            "A short convolution of queries and keys sees the last tokens as well, and may skip some. With hard "
            "addresses the memory is a dictionary, and an array with the same index would do: a word never written "
            "reads as 0, while an MLP guesses by the rule. Noise is not like itself. All at equal numbers."
        ),
        Table(("task: control", "fractal", "control"), tuple(rows)),
        Plot(
            f"Full memories: facts read back, in units of the {memory.ARITY**depth} cells",
            terminal.chart(
                {name: (full["facts"], full[name]) for name in ("read back", "list of keys")},
                xlabel="facts written / cells",
                ylabel="facts",
                logx=True,
                height=8,
            ),
            "capacity",
            full,
        ),
        Text(
            f"When as many facts were written as there are cells, the cells still hold {full['read back'][even]:.0%} "
            f"of them, the list {full['list of keys'][even]:.0%}. {point}; "
            + (f"by its gap, {memory.expected_letters(ratio):.1f}." if ratio < 0.5 else "its pieces overlap.")
        ),
        letters_plot(random),
    ]
    numbers = {
        "gapped_suffix": share["suffix"],
        "gapped_convolution": share["convolution"],
        "unseen_memory": unseen["address memory"],
        "unseen_mlp": unseen["MLP"],
        "letters": float(letters),
    }
    return Scene("Where it ties or loses", parts, numbers=numbers)


def letters_plot(random: np.random.Generator) -> Plot:
    """Letters that one point holds, by contraction, and what the gap and the digits of a number promise."""
    ratios = np.array(RATIOS)
    found = {
        "read back": np.array([float(memory.letters(random, s)) for s in RATIOS]),
        "by the gap": np.array([float(memory.expected_letters(s)) for s in RATIOS]),
    }
    text = terminal.chart(
        {name: (ratios, y) for name, y in found.items()}, xlabel="contraction s", ylabel="letters", height=9
    )
    return Plot("Letters that one point holds, by contraction", text, "letters", {"s": ratios, **found}, detail=True)


def closing(config: DemoConfig, numbers: Mapping[str, float]) -> tuple[str, str]:
    """What was seen, from the numbers."""
    n, s = numbers, config.options["contraction"]
    return (
        f"With s = {s} one layer of {n['parameters']:.0f} parameters that compares histories gets "
        f"{percent(n['suffix_far'])} of a rule of order {RULE.order} right beyond the trained length, softmax "
        f"{percent(n['softmax_far'])}; after {TASKS} tasks the memory errs by {number(n['memory_forgets'])} on the "
        f"first, an MLP of as many numbers by {number(n['mlp_forgets'])}.",
        f"A short convolution of equal size {outcome(n['convolution_near'], n['suffix_near'])} at the trained length "
        f"and {outcome(n['gapped_convolution'], n['gapped_suffix'])} where the rule skips bits; on words never "
        f"shown the memory errs {against(n['unseen_memory'], n['unseen_mlp'])} the MLP; one point holds "
        f"{n['letters']:.0f} letters.",
    )


def outcome(share: float, other: float, margin: float = 0.01) -> str:
    """Whether the first share wins, with both."""
    word = "ties" if abs(share - other) < margin else "wins" if share > other else "loses"
    return f"{word} ({percent(share)} against {percent(other)})"


def gist(_: DemoConfig, numbers: Mapping[str, float]) -> tuple[str, str]:
    """Learned and lost, for the table of all demos."""
    n = numbers
    return (
        f"rule of order {RULE.order}: {percent(n['suffix_far'])} right, softmax {percent(n['softmax_far'])}",
        f"rule with gaps: {percent(n['gapped_suffix'])}, convolution {percent(n['gapped_convolution'])}",
    )


run = staged(scenes, closing, gist)
