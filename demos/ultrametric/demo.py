"""The ultrametric demo: numbers near by divisibility, the laws, memory and attention on trees, and what they lose."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import jax
import numpy as np

from demos import terminal
from demos.certificate import Certificate, certify
from demos.result import DemoConfig, Part, Plot, Table, Text
from demos.stage import Scene, laws, loss_plot, parameters, staged
from demos.training import Weights
from demos.ultrametric import drawing, hashing, maths, memory, trie
from demos.ultrametric.model import DEPTH, Smoother, Task, error, initial, level_weights, train
from demos.ultrametric.scaling import scaling
from demos.words import against, number

PRIMES = (2, 3, 5, 7)
KINDS = ("ultrametric", "softmax")
DIGITS = 8  # of the numbers shown and of the arithmetic
LARGEST = 500  # numerator and denominator of the fractions are less
LONG = 512  # tokens of the longer test


@dataclass(frozen=True, slots=True)
class Size:
    """How much is computed: steps and sequences of the attention, lessons of the memory, keys, heads, stored points."""

    steps: int
    batch: int
    tokens: int
    lessons: int
    keys: tuple[int, ...]
    heads: int
    points: int


QUICK = Size(steps=300, batch=16, tokens=24, lessons=1500, keys=(1024, 4096, 16384, 65536), heads=8, points=600)
FULL = Size(steps=1200, batch=32, tokens=24, lessons=1500, keys=(1024, 4096, 16384, 65536), heads=16, points=1500)


def scenes(config: DemoConfig, random: np.random.Generator) -> Iterator[Scene]:
    """The four acts of the ultrametric demo."""
    size = QUICK if config.quick else FULL
    base = int(config.options["base"])
    yield show_object(random, size, base, bool(config.options["scale_compare"]))
    yield show_laws(random, base)
    lessons = learn_lessons(random, config.iterations(size.lessons), base)
    attention = Attention.learn(random, size, base, config.iterations(size.steps))
    yield show_learning(random, base, lessons, attention)
    yield show_limits(random, size, base, lessons, attention)


# --- object -------------------------------------------------------------------------------------------------------


def show_object(random: np.random.Generator, size: Size, base: int, compare: bool) -> Scene:
    """Numbers in Q_p, the tree of Z_p, and the tree as an array."""
    shown = [(1, 1), (-1, 1), (1, 1 - base), (base**2, 1), (1, base), (22, 7), (-5, 12)]
    rows = []
    for a, b in shown:
        power, unit = maths.expansion(a, b, base, DIGITS)
        rows.append((str(Fraction(a, b)), maths.written(power, unit), str(power), str(Fraction(1, base) ** power)))
    scale, certificate, numbers = scaling(random, size.keys, base, compare)
    parts: list[Part] = [
        Text(
            f"In Z_{base} a number is small when {base} divides it often: |x| = {base}^-v. Two numbers are as near as "
            "their digits agree from the right, so the balls are the branches of a tree, and any point of a ball is "
            f"its centre. There -1 is the limit of {base - 1}, {base**2 - 1}, {base**3 - 1}, ..."
        ),
        Table(("number", f"digits in base {base}", "valuation", "|x|"), tuple(rows)),
        Plot(
            f"The tree of Z_{base}: the leaves below a node agree in their last digits",
            drawing.tree(base),
            "tree",
            {"base": np.array(base)},
        ),
        *scale,
    ]
    return Scene("Numbers that are near when their difference is divisible", parts, [certificate], numbers)


# --- laws ---------------------------------------------------------------------------------------------------------


def show_laws(random: np.random.Generator, base: int) -> Scene:
    """Arithmetic, absolute values, prefixes and signatures; digits from the wrong end and Euclid as controls."""
    x = random.integers(1, base**DIGITS // base, 24) * base + random.integers(1, base, 24)  # units
    y = random.integers(0, base**DIGITS, 24)
    strings = [[maths.padic(int(a), base, DIGITS) for a in numbers] for numbers in (x, y)]
    pairs = list(zip(*strings, strict=True))
    computed = {
        "total": [maths.add(a, b, base) for a, b in pairs],
        "product": [maths.multiply(a, b, base) for a, b in pairs],
        "inverse": [maths.inverse(a, base) for a, _ in pairs],
    }
    fractions = np.stack(
        [random.integers(1, LARGEST, 40) * random.choice([-1, 1], 40), random.integers(1, LARGEST, 40)], 1
    )
    expanded = [maths.expansion(int(a), int(b), base, DIGITS) for a, b in fractions]
    points = random.normal(size=(64, 16))
    partners = points * random.uniform(0, 1, (64, 1)) + random.normal(size=(64, 16))
    numbers = random.integers(0, base**DIGITS, 40)
    numbers[20:] = (numbers[:20] + random.integers(1, base, 20) * base ** random.integers(0, DIGITS, 20)) % base**DIGITS
    shared = common_digits(numbers, base)
    primes = [p for p in range(2, LARGEST) if all(p % d for d in range(2, p))]
    arrays = {name: np.array(rows) for name, rows in {"x": strings[0], "y": strings[1], **computed}.items()}
    certified = {
        "sum, product, inverse by Hensel": certify(
            "ultrametric.arithmetic",
            f"digit by digit sums, products and Hensel's inverses are those of integers mod {base}^{DIGITS}",
            0.0,
            base=base,
            **arrays,
        ),
        "fractions have expansions": certify(
            "ultrametric.rational",
            f"a fraction a / b is {base}^v times its digits in Q_{base}",
            0.0,
            fractions=fractions,
            valuation=np.array([power for power, _ in expanded]),
            digits=np.array([unit for _, unit in expanded]),
            base=base,
        ),
        "product formula over all primes": certify(
            "ultrametric.product_formula",
            "the absolute values of a fraction, the usual one and one for each prime, multiply to 1",
            0.0,
            fractions=fractions,
            primes=np.array(primes),
            valuations=valuations(fractions, primes),
        ),
        "common prefix = valuation of x - y": certify(
            "ultrametric.prefix_valuation",
            f"x and y share as many digits as {base} divides x - y times",
            0.0,
            x=numbers,
            shared=shared,
            base=base,
            depth=DIGITS,
        ),
        "signs agree by 1 - angle / pi": certify(
            "ultrametric.signature",
            "two points agree in a random sign with probability 1 - angle / pi, in standard deviations",
            5.0,
            points=points,
            partners=partners,
            planes=random.normal(size=(512, 16)),
        ),
    }
    broken = {
        "digits read from the left": (float((common_digits(numbers, base, -1) != shared).sum() / 2), 1.0),
        "Euclid's distances, strong triangle": (triangles(points), 1.0),
    }
    return Scene("What must hold, checked exactly", [laws(certified, {}, broken)], list(certified.values()))


def common_digits(x: np.ndarray, base: int, step: int = 1) -> np.ndarray:
    """Digits that each pair shares, from the least significant one; from the other end where ``step`` is -1."""
    digits = np.array([maths.padic(int(a), base, DIGITS) for a in x])
    return np.cumprod((digits[:, None] == digits[None])[..., ::step], -1).sum(-1)


def valuations(fractions: np.ndarray, primes: list[int]) -> np.ndarray:
    """Valuation of each fraction by each prime."""
    return np.array([[maths.expansion(int(a), int(b), prime, 1)[0] for prime in primes] for a, b in fractions])


def triangles(points: np.ndarray) -> float:
    """Triples that break the strong triangle inequality by Euclidean distance."""
    d = np.linalg.norm(points[:, None] - points[None], axis=-1)
    return float((d[:, None, :] > np.maximum(d[:, :, None], d[None]) + 1e-12).sum())


# --- learning -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Lessons:
    """What the memory and its controls make of a nested and of a rough function.

    Args:
        unseen: error on keys never shown, ``name -> (nested, rough)``.
        seen: error on keys that were shown, the same.
        cells: the memory of the chosen base before and after one more lesson about a key; ``step`` is the lesson's.
    """

    count: int
    unseen: dict[str, tuple[float, float]]
    seen: dict[str, tuple[float, float]]
    cells: dict[str, np.ndarray]
    lesson: int
    step: float


def learn_lessons(random: np.random.Generator, count: int, base: int) -> Lessons:
    """Teach the trees of all primes and the controls the same keys in the same order."""
    order = random.permutation(memory.KEYS)
    shown, unseen = np.split(order, [3 * memory.KEYS // 4])
    x = random.choice(shown, count)
    frequencies = random.normal(size=trie.size(memory.TRUTH, memory.LEVELS) // 2)
    functions = memory.nested(random), memory.rough(random)
    taught = [function[x] + 0.1 * random.normal(size=count) for function in functions]
    errors: dict[str, list[dict[str, float]]] = {"unseen": [], "seen": []}
    for function, y in zip(functions, taught, strict=True):
        guesses = guess(x, y, np.concatenate([unseen, x]), frequencies)
        for where, keys, part in (("unseen", unseen, slice(len(unseen))), ("seen", x, slice(len(unseen), None))):
            off = {name: said[part] - function[keys] for name, said in guesses.items()}
            errors[where].append({name: float(np.sqrt((miss**2).mean())) for name, miss in off.items()})
    unseen_errors, seen_errors = (
        {name: (first[name], second[name]) for name in first} for first, second in errors.values()
    )
    return Lessons(count, unseen_errors, seen_errors, **one_more(x, taught[0], unseen[0], functions[0], base))


def one_more(x: np.ndarray, y: np.ndarray, key: int, function: np.ndarray, base: int) -> dict[str, Any]:
    """The memory before and after a lesson about a key that it had not seen."""
    depth = memory.depth_for(base)
    before, _ = memory.teach(x, y, base=base, depth=depth)
    after, missed = memory.teach(np.append(x, key), np.append(y, function[key]), base=base, depth=depth)
    step = memory.RATE * float(missed[-1]) / depth
    return {"cells": {"before": np.asarray(before), "after": np.asarray(after)}, "lesson": int(key), "step": step}


def guess(x: np.ndarray, y: np.ndarray, keys: np.ndarray, frequencies: np.ndarray) -> dict[str, np.ndarray]:
    """What each learner says about some keys after the lessons (x, y)."""
    found = {}
    for prime in PRIMES:
        depth = memory.depth_for(prime)
        found[f"tree of {prime}"] = memory.predict(memory.teach(x, y, base=prime, depth=depth)[0], keys, prime, depth)
    cells = 2 * len(frequencies)
    found["flat buckets"] = memory.teach_buckets(x, y, np.zeros(cells))[keys % cells]
    found["Fourier features"] = memory.waves(keys, frequencies) @ memory.teach_waves(x, y, frequencies)
    return {name: np.asarray(values) for name, values in found.items()}


@dataclass(frozen=True, slots=True)
class Attention:
    """The layer that learns digits and its softmax control, trained on the same sequences from the same weights."""

    task: Task
    weights: dict[str, Weights]
    losses: dict[str, np.ndarray]
    errors: dict[str, dict[int, float]]
    hard: dict[int, float]

    @classmethod
    def learn(cls, random: np.random.Generator, size: Size, base: int, steps: int) -> Attention:
        task = Task.create(random, base)
        data = task.draw(random, size.tokens, steps, size.batch)
        start = initial(random, base)
        tests = {tokens: task.draw(random, tokens, 128) for tokens in (size.tokens, LONG)}
        weights, losses, errors = {}, {}, {}
        for kind in KINDS:
            model = Smoother(kind, base)
            weights[kind], curve = train(start, *data, model=model)
            losses[kind] = np.asarray(curve)
            errors[kind] = {tokens: float(error(weights[kind], *test, model=model)) for tokens, test in tests.items()}
        sharp = Smoother("ultrametric", base, hard=True)
        hard = {tokens: float(error(weights["ultrametric"], *test, model=sharp)) for tokens, test in tests.items()}
        return cls(task, weights, losses, errors, hard)

    @property
    def layer(self) -> dict[str, np.ndarray]:
        """The trained layer as the checks take it."""
        inner = self.weights["ultrametric"]["params"]
        return {"symbols": np.asarray(inner["symbols"]), "weights": np.asarray(level_weights(inner["level"]))}


def show_learning(random: np.random.Generator, base: int, lessons: Lessons, attention: Attention) -> Scene:
    """Errors on unseen keys by base and control; the attention's digits and what is certified of them."""
    own = f"tree of {base}"
    rows = []
    for name, (nested, _) in lessons.unseen.items():
        prime = int(name.split()[-1]) if name.startswith("tree") else memory.TRUTH
        cells = trie.size(prime, memory.depth_for(prime))
        rows.append((name + (" *" if name == own else ""), str(cells), number(nested), number(lessons.seen[name][0])))
    hot, state = attention.errors["ultrametric"], trie.size(base, DEPTH)
    count = parameters(attention.weights["softmax"])
    numbers = {
        "memory_error": lessons.unseen[own][0],
        "bucket_error": lessons.unseen["flat buckets"][0],
        "fourier_error": lessons.unseen["Fourier features"][0],
        "lessons": float(lessons.count),
        "parameters": float(count),
        "attention_error": hot[LONG],
        "trie_error": attention.hard[LONG],
        "state": float(state),
    }
    assert count == parameters(attention.weights["ultrametric"])
    parts = [
        Text(
            f"A memory keeps a number for each ball and predicts the sum over the balls around a key; {lessons.count} "
            f"lessons each correct only the balls of their own key. The truth is nested in powers of {memory.TRUTH}; "
            "the controls have as many numbers as that tree and learn by the same rule."
        ),
        Table(
            ("memory", "numbers", "unseen keys", "shown keys"),
            tuple(rows),
            title="Root mean squared error (*: the base that was chosen)",
        ),
        choice_plot(lessons),
        Text(
            f"Attention can learn the digits themselves: keys come as rotated vectors, a layer of {count} parameters "
            f"finds {DEPTH} digits in base {base}. With hard digits the layer is a tree again: at {LONG} tokens "
            f"it errs by {number(attention.hard[LONG])} instead of {number(hot[LONG])}, and keeps {state} sums however "
            "long the past."
        ),
        loss_plot(attention.losses, "Training loss of the attention and its softmax control", points=20),
    ]
    return Scene(
        "A memory taught ball by ball, an attention that finds the digits",
        parts,
        learned_certificates(random, base, lessons, attention),
        numbers,
    )


def choice_plot(lessons: Lessons) -> Plot:
    """Error on unseen keys of every learner."""
    values = {name: nested for name, (nested, _) in lessons.unseen.items()}
    text = terminal.bars({f"{name:<16}": value for name, value in values.items()}, width=48)
    arrays = {name: np.array(pair) for name, pair in lessons.unseen.items()}
    return Plot(
        f"Choice of p: error on unseen keys of a function nested in base {memory.TRUTH}", text, "choice", arrays
    )


def learned_certificates(
    random: np.random.Generator, base: int, lessons: Lessons, attention: Attention
) -> list[Certificate]:
    """Of the trained layer: triangles, balls, the trie's output; of the memory: what one lesson moves."""
    layer: dict[str, Any] = attention.layer | {"base": base}
    keys, values, _ = attention.task.draw(random, 95, 1)
    keys, values = keys[0], random.normal(size=(96, 2))
    scores = maths.digit_scores(keys, layer["symbols"], base, 1.0)
    said = jax.jit(maths.trie_attention)(scores, scores, values, layer["weights"])
    return [
        certify(
            "ultrametric.strong_triangle",
            "the learned kernel's distance satisfies d(x, z) <= max(d(x, y), d(y, z)) on all triples of keys",
            0.0,
            keys=keys[:48],
            **layer,
        ),
        certify(
            "ultrametric.nested",
            "two balls of learned keys are nested or disjoint",
            0.0,
            keys=keys[:48],
            **layer,
        ),
        certify(
            "ultrametric.same_digits",
            "sums over the balls of a trie give the mean over all pairs of tokens, for the learned digits",
            1e-12,
            keys=keys,
            values=values,
            said=np.asarray(said),
            **layer,
        ),
        certify(
            "ultrametric.locality",
            "a lesson moves each prediction in proportion to the digits shared, and none outside of its ball",
            1e-12,
            keys=np.arange(memory.KEYS),
            lesson=lessons.lesson,
            step=lessons.step,
            base=base,
            depth=memory.depth_for(base),
            **lessons.cells,
        ),
    ]


# --- limits -------------------------------------------------------------------------------------------------------


def show_limits(random: np.random.Generator, size: Size, base: int, lessons: Lessons, attention: Attention) -> Scene:
    """A function without a tree, softmax on the same task, and signatures whose order of bits is ignored."""
    own = f"tree of {base}"
    stored, queries, which = hashing.cloud(random, size.points, 200, 32, 0.5)
    planes = random.normal(size=(size.heads, 12, 32))
    bits = hashing.signatures(queries, planes), hashing.signatures(stored, planes)
    heads = np.arange(1, size.heads + 1)
    found = {
        "common prefix": hashing.recall(hashing.prefixes(*bits), which),
        "equal bits": hashing.recall(hashing.matches(*bits), which),
    }
    soft, hot = attention.errors["softmax"][LONG], attention.errors["ultrametric"][LONG]
    rows = [
        ("rough function, keys that were shown", number(lessons.seen[own][1]), number(lessons.seen["flat buckets"][1])),
        (f"in-context mean of {LONG} tokens", number(hot), number(soft)),
        (f"recall of {size.points} points, 1 head", *(f"{share[0]:.0%}" for share in found.values())),
        (f"the same, {size.heads} heads fused", *(f"{share[-1]:.0%}" for share in found.values())),
    ]
    parts = [
        Text(
            "A tree that is not there cannot be used: on independent values the balls disturb each other, and a flat "
            "table remembers better. Softmax needs all keys but resolves more than one leaf. And of the same signature "
            "bits, counting equal ones finds more than reading them in order: the price of one read per digit."
        ),
        Table(("where it loses", "tree", "control"), tuple(rows), title="Controls: buckets, softmax, equal bits"),
        Plot(
            "Signatures: share of queries that find their point, by number of heads",
            terminal.chart(
                {k: (heads, v) for k, v in found.items()}, xlabel="heads of 12 bits", ylabel="found", height=8
            ),
            "fusion",
            {"heads": heads, **found},
        ),
    ]
    numbers = {
        "rough_error": lessons.seen[own][1],
        "rough_bucket_error": lessons.seen["flat buckets"][1],
        "softmax_error": soft,
        "prefix_recall": float(found["common prefix"][-1]),
        "bits_recall": float(found["equal bits"][-1]),
    }
    return Scene("Where a tree loses", parts, numbers=numbers)


def closing(config: DemoConfig, numbers: Mapping[str, float]) -> tuple[str, str]:
    """What was seen, from the numbers."""
    n, base = numbers, config.options["base"]
    compared = f", {against(n['lookup_ns'], n['search_ns'])} a search through all of them" if "search_ns" in n else ""
    return (
        f"After {n['lessons']:.0f} lessons the memory on the tree of {base} errs by {number(n['memory_error'])} on "
        f"keys it never saw, {against(n['memory_error'], n['bucket_error'])} as many flat buckets and "
        f"{against(n['memory_error'], n['fourier_error'])} Fourier features, and a lookup among {n['keys']:.0f} keys "
        f"takes {n['lookup_ns']:.0f} ns{compared}.",
        f"Without a tree to find, it recalls what it was shown with an error of {number(n['rough_error'])}, "
        f"{against(n['rough_error'], n['rough_bucket_error'])} buckets, and attention by learned digits errs "
        f"{against(n['attention_error'], n['softmax_error'])} softmax with the same {n['parameters']:.0f} parameters.",
    )


def gist(_: DemoConfig, numbers: Mapping[str, float]) -> tuple[str, str]:
    """Learned and lost, for the table of all demos."""
    n = numbers
    return (
        f"unseen keys: error {number(n['memory_error'])}, buckets {number(n['bucket_error'])}",
        f"rough function: error {number(n['rough_error'])}, buckets {number(n['rough_bucket_error'])}",
    )


run = staged(scenes, closing, gist)
