"""The knot-braid demo: a knot and its invariants, who tells braids apart, strands that learn a group, their limits."""

from __future__ import annotations

import random as letters_random
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from demos import terminal
from demos.certificate import certify
from demos.knot_braid import crossings, drawing, invariants, maths, tasks, words
from demos.knot_braid.garside import NormalForm, normal_form
from demos.knot_braid.invariants import Laurent
from demos.knot_braid.knots import KNOTS, UNSEEN
from demos.knot_braid.learned import SETTLED, TESTED, Size, Trained, learned_certificates
from demos.knot_braid.model import BRAIDS, SOFTMAX, STRANDS, answers
from demos.result import DemoConfig, Plot, Table, Text
from demos.runtime import seconds
from demos.stage import Scene, laws, loss_plot, parameters, staged
from demos.words import number

QUICK = Size(letters=16, pairs=24, steps=280, batch=32, copies=3, tests=64)
FULL = Size(letters=24, pairs=120, steps=800, batch=48, copies=6, tests=300)

LONGER = f"{tasks.TRAINED + 1} to {TESTED[-1]} letters"


def scenes(config: DemoConfig, random: np.random.Generator) -> Iterator[Scene]:
    """The four acts of the knot-braid demo."""
    size = QUICK if config.quick else FULL
    law, modulus = str(config.options["crossing_law"]), int(str(config.options["modulus"]))
    yield show_object(random, size, str(config.options["knot"]))
    yield show_laws(random, size, int(str(config.options["strands"])))
    steps = config.iterations(size.steps)
    yield show_learning(random, size, Trained.learn(random, size, "state", law, modulus, steps))
    yield show_limits(Trained.learn(random, size, "repeated", law, modulus, steps))


# --- object -------------------------------------------------------------------------------------------------------


def show_object(random: np.random.Generator, size: Size, name: str) -> Scene:
    """A knot as a closed braid, drawn; a scrambled spelling brought back; invariants of the knot and of others."""
    word = KNOTS[name]
    count = words.strands(word)
    scrambled = scramble(word, size.letters, letters_random.Random(int(random.integers(2**32))))
    form = normal_form(scrambled, count)
    closed = closures(word, scrambled)
    found = {label: (invariants.alexander(each), invariants.jones(each)) for label, each in closed.items()}
    certificates = [
        certify(
            "knot-braid.same", "a scrambled spelling is the same braid", 0.0, one=coded(word), other=coded(scrambled)
        ),
        certify("knot-braid.normal", f"its normal form is {form}", 0.0, letters=coded(scrambled), **packed(form)),
    ]
    for label, each in closed.items():
        delta, v = found[label]
        said = {"alexander": (f"the Alexander polynomial of {label} is {delta}", 0.0, delta)}
        said["jones"] = (f"the Jones polynomial of {label} is {invariants.over_t(v)}", 1e-9, v)
        for invariant, (statement, tolerance, polynomial) in said.items():
            closed_braid = {"letters": coded(each), "count": words.strands(each)}
            id = f"knot-braid.{invariant}:{label.split()[-1]}"
            certificates.append(certify(id, statement, tolerance, **closed_braid, **coefficients(polynomial)))
    parts = [
        Text(
            f"A braid is a word: the letter i lets strand i + 1 cross over strand i, -i undoes it. The braid "
            f"{spelled(word)} on {count} strands, each end joined to the beginning of its row, is the {name} knot."
        ),
        braid_plot(name, word, found["the knot"]),
        spellings(scrambled, form),
        Table(
            ("closed braid", "Alexander", "Jones"),
            tuple((label, str(delta), str(invariants.over_t(v))) for label, (delta, v) in found.items()),
            title="Invariants: the same for every drawing of a knot",
        ),
        Text(verdict(found)),
    ]
    numbers = {"scrambled": float(len(scrambled)), "factors": float(len(form.factors) + abs(form.power))}
    return Scene("A knot is a closed braid", parts, certificates, numbers)


def closures(word: words.Word, scrambled: words.Word) -> dict[str, words.Word]:
    """The knot, the same knot from a braid with one strand more, its mirror image, and one crossing changed."""
    count = words.strands(word)
    return {
        "the knot": word,
        "one strand more": (-1, *scrambled, count, 1),
        "its mirror image": tuple(-letter for letter in word),
        "a crossing changed": (-word[0], *word[1:]),
    }


def scramble(word: words.Word, least: int, generator: letters_random.Random) -> words.Word:
    """The same braid after random moves, in at least so many letters, not all of which cancel where there is R3."""
    found, count = word, words.strands(word)
    while len(found) < least or (count > 2 and len(words.free_reduce(found)) <= len(word)):
        found = words.shuffled(found, count, 4, generator)
    return found


def spelled(word: Sequence[int]) -> str:
    """A word as text."""
    return " ".join(str(letter) for letter in word if letter) or "nothing"


def coded(word: Sequence[int]) -> np.ndarray:
    """A word as a witness holds it."""
    return np.array(word, int)


def packed(form: NormalForm) -> dict[str, Any]:
    """A normal form as a witness holds it."""
    factors = np.array(form.factors, int).reshape(-1, form.count)
    return {"power": form.power, "factors": factors, "count": form.count}


def coefficients(polynomial: Laurent) -> dict[str, np.ndarray]:
    """A polynomial as a witness holds it."""
    pairs = np.array(polynomial.terms, int).reshape(-1, 2)
    return {"exponents": pairs[:, 0], "coefficients": pairs[:, 1]}


def braid_plot(name: str, word: words.Word, found: tuple[Laurent, Laurent]) -> Plot:
    """The braid in characters; the figure closes it."""
    count = words.strands(word)
    caption = np.array([f"Alexander  {found[0]}", f"Jones  {invariants.over_t(found[1])}"])
    arrays = {"word": coded(word), "count": np.array(count), "caption": caption}
    return Plot(f"The {name} knot as a braid", drawing.braid(word, count), "braid", arrays)


def spellings(scrambled: words.Word, form: NormalForm) -> Table:
    """The scrambled word, and what each reduction leaves of it."""
    rows = {
        "scrambled": scrambled,
        "free reduction": words.free_reduce(scrambled),
        "handle reduction": words.handle_reduce(scrambled),
    }
    shown = [(label, str(len(each)), spelled(each)) for label, each in rows.items()]
    shown.append(("Garside's normal form", str(len(form.word)), str(form)))
    return Table(("same braid", "letters", "word"), tuple(shown), title="One braid, spelled in four ways")


def verdict(found: Mapping[str, tuple[Laurent, Laurent]]) -> str:
    """What the invariants say, in words."""
    knot, mirror = found["the knot"], found["its mirror image"]
    same = "agree" if found["one strand more"] == knot else "differ"
    chiral = "is not its mirror image" if mirror != knot else "may be its mirror image"
    alexander = " Alexander takes it for the unknot, Jones does not." if knot[0] == invariants.lift(1) else ""
    return f"Two braids of one knot {same} in both.{alexander} By Jones the knot {chiral}."


# --- laws ---------------------------------------------------------------------------------------------------------


def show_laws(random: np.random.Generator, size: Size, count: int) -> Scene:
    """Who tells braids of ``count`` strands apart, and which crossings satisfy the Yang-Baxter equation."""
    left, right = pairs_of_words(random, size.pairs, count)
    forms = [tuple(normal_form(each, count) for each in pair) for pair in zip(left, right, strict=True)]
    equal = np.array([one == other for one, other in forms])
    freely = np.array([words.free_reduce(a) == words.free_reduce(b) for a, b in zip(left, right, strict=True)])
    burau = np.array(
        [invariants.burau(a, count) == invariants.burau(b, count) for a, b in zip(left, right, strict=True)]
    )
    strands, keep = random.normal(size=(count, 4)), float(random.uniform(0.2, 0.8))
    carry = jax.jit(partial(maths.passed, keep=keep))
    certified = {
        f"normal form decides B{count}, {size.pairs} pairs": certify(
            "knot-braid.decided",
            f"normal forms say which of {size.pairs} pairs of words are one braid of {count} strands",
            0.0,
            left=rows(left),
            right=rows(right),
            equal=equal.astype(int),
        )
    }
    for name, (one, other) in crossings.RELATIONS.items():
        if max(map(abs, (*one, *other))) < count:
            certified[f"{name}: {spelled(one)} and {spelled(other)} under t"] = certify(
                f"knot-braid.relation:{name}",
                f"{spelled(one)} and {spelled(other)} do the same to values under (a, b) -> (b, t a + (1 - t) b)",
                1e-12,
                strands=strands,
                left=coded(one),
                right=coded(other),
                keep=keep,
                ends=np.asarray(carry(strands, coded(one)))[-1],
            )
    wrong = float((burau != equal).sum())
    broken = {"free reduction decides (pairs missed)": (float((freely != equal).sum()), 0.0)}
    measured = {f"Burau matrices decide these pairs{KNOWN[count]}": (wrong, 0.0)}
    certificates = list(certified.values())
    parts = [
        Text(
            f"When are two words one braid? Half of these {size.pairs} pairs are scrambled copies; equal normal forms "
            "tell which, and the certificate asks handle reduction. Then let a crossing change values on its strands: "
            "what comes out depends on the braid alone if and only if relations R2, R3 and far commutation hold."
        ),
        laws(certified, measured, broken),
        crossings.table(random, keep),
    ]
    return Scene("Which words are one braid, and which laws see braids", parts, certificates)


KNOWN = {3: " (a theorem)", 4: " (in general open)", 5: " (in general not)"}
"""What is known of the Burau representation being faithful."""


def pairs_of_words(random: np.random.Generator, pairs: int, count: int) -> tuple[list[words.Word], list[words.Word]]:
    """Pairs of words: every other one scrambled from its partner, the others partners with one letter inverted."""
    left, right = list[words.Word](), list[words.Word]()
    generator = letters_random.Random(int(random.integers(2**32)))
    for pair in range(pairs):
        word = tuple(generator.choice((-1, 1)) * generator.randrange(1, count) for _ in range(10))
        start = word if pair % 2 else (-word[0], *word[1:])
        left.append(word)
        right.append(words.shuffled(start, count, 12, generator))
    return left, right


def rows(found: Sequence[words.Word]) -> np.ndarray:
    """Words as rows, filled with 0."""
    longest = max(map(len, found))
    return np.array([(*word, *(0,) * (longest - len(word))) for word in found])


# --- learning -----------------------------------------------------------------------------------------------------


def show_learning(random: np.random.Generator, size: Size, trained: Trained) -> Scene:
    """Right answers by number of letters, at eight times the length of training, and what the layer carries."""
    counts = {name: parameters(weights) // size.copies for name, weights in trained.weights.items()}
    assert counts[STRANDS] == counts[SOFTMAX]
    classes = len(tasks.steps(trained.modulus))
    shown = {name: trained.shares(name)[np.array(TESTED) - 1] for name in trained.right}
    labels = {name: f"{name}, {count} parameters" for name, count in counts.items()}
    worst = {name: float(trained.beyond(name).min()) for name in shown}
    table = [(labels.get(name, name), *map(share, shares), share(worst[name])) for name, shares in shown.items()]
    table.append(("by chance", *(share(1 / classes) for _ in TESTED), share(1 / classes)))
    solved = {name: trained.solved(name) for name in trained.right}
    longest = SETTLED if SETTLED in trained.right else STRANDS
    certificates, apart = learned_certificates(random, trained)
    orders = np.pi / np.arccos(3**0.5 / 2 * np.cos(np.asarray(trained.weights[STRANDS]["params"]["angle"])))
    numbers = {
        "strands_right": worst[longest],
        "unrounded_right": worst[STRANDS],
        "softmax_right": worst[SOFTMAX],
        "softmax_mean": float(trained.beyond(SOFTMAX).mean()),
        "parameters": float(counts[STRANDS]),
        "classes": float(classes),
        "solved": float(solved[longest]),
        "models": float(size.copies),
        "moved": apart,
        "loss": float(trained.losses[STRANDS][:, -1].min()),
    }
    order = ", ".join(f"{each:.3f}" for each in orders[trained.best(STRANDS)])
    parts = [
        Text(
            f"Letters become matrices modulo {trained.modulus}, of which there are {classes}; after each letter a "
            f"layer names the product so far. Its tokens choose crossings of {BRAIDS} braids of 3 strands by the law "
            f"{trained.law}, and attention reads what the strands carry. Of {size.copies} models of each kind the one "
            "of least training loss is shown."
        ),
        Table(
            ("letters", *map(str, TESTED), "worst"),
            tuple(table),
            title=f"Right after so many letters, trained on {tasks.TRAINED}; the worst from {LONGER}",
        ),
        Text(outcome(trained, solved, size.copies, order, apart)),
        loss_plot({name: trained.losses[name][trained.best(name)] for name in (STRANDS, SOFTMAX)}),
        length_plot(trained),
    ]
    return Scene("Strands that remember a group", parts, certificates, numbers)


def outcome(trained: Trained, solved: Mapping[str, int], copies: int, order: str, apart: float) -> str:
    """How many models hold, which crossings they learned, and whether those see braids."""
    holding = "; ".join(f"{count} of {copies} {name}" for name, count in solved.items())
    learned = (
        f"Right on over 99 % of words at every length from {LONGER}: {holding}. In the model shown crossings learned "
        f"orders {order}"
    )
    if trained.law == "ybe":
        return (
            f"{learned}; off a whole number, each crossing adds to an error that wraps round like the hand of a clock, "
            "so a right answer at one length proves little. Rounded, the matrices of all braids are finitely many, and "
            f"nothing drifts. However a braid is spelled, the strands carry the same, to {apart:.0e}."
        )
    return f"{learned}. R3 is no relation here: spelling 1 2 1 as 2 1 2 changes what strands carry by {number(apart)}."


def percent(value: float) -> str:
    """As a whole number."""
    return f"{100 * value:.0f} %"


def share(value: float) -> str:
    """Two digits behind the point."""
    return f"{value:.2f}"


def length_plot(trained: Trained) -> Plot:
    """Right answers by number of letters."""
    counts = np.arange(4, TESTED[-1] + 1, 4)
    found = {name: smooth(trained.shares(name)) for name in (SETTLED, STRANDS, SOFTMAX) if name in trained.right}
    text = terminal.chart(
        {name: (counts, y) for name, y in found.items()}, xlabel="letters", ylabel="right", logx=True, height=9
    )
    trained_to = {"trained": np.array(tasks.TRAINED)}
    return Plot("Right answers by length of the word", text, "length", {"letters": counts, **found} | trained_to)


def smooth(shares: np.ndarray) -> np.ndarray:
    """Means over four neighbouring lengths."""
    return shares.reshape(-1, 4).mean(1)


# --- limits -------------------------------------------------------------------------------------------------------


def show_limits(trained: Trained) -> Scene:
    """A question about letters, not braids; the time of a call; a braid that Burau takes for none."""
    counts = (4, 8, tasks.TRAINED)
    shares = {name: np.median(trained.right[name], 0) for name in (STRANDS, SOFTMAX)}
    spent = {
        name: seconds(partial(answers, model=trained.models[name]), trained.weights[name], trained.tests, repeats=3)
        for name in shares
    }
    form = normal_form(UNSEEN, 5)
    hidden = certify(
        "knot-braid.unseen",
        f"a word of {len(UNSEEN)} letters on 5 strands is not trivial, and its Burau matrix is 1",
        0.0,
        letters=coded(UNSEEN),
        count=5,
    )
    table = [
        (f"repeated among {count} letters, right", *(share(shares[name][count - 1]) for name in shares))
        for count in counts
    ]
    table.append((f"all models on {len(trained.tests)} tests, ms", *(number(1e3 * spent[name]) for name in shares)))
    parts = [
        Text(
            "How many of the four letters occurred more than once? No braid answers that, and the control has a hidden "
            "layer where this layer has crossings. Medians over the models:"
        ),
        Table(("where it loses", *shares), tuple(table)),
        Text(
            f"And Burau matrices do not see every braid. Bigelow's word of {len(UNSEEN)} letters on 5 strands is not "
            f"trivial: its normal form has Δ to the {form.power} and {len(form.factors)} further factors; but its "
            "matrix is 1. On 3 strands that cannot happen at generic t, on 4 nobody knows."
        ),
    ]
    average = {name: float(np.mean(shares[name][: tasks.TRAINED])) for name in shares}
    numbers = {
        "repeated_strands": average[STRANDS],
        "repeated_softmax": average[SOFTMAX],
        "slower": spent[STRANDS] / spent[SOFTMAX],
        "unseen": float(len(UNSEEN)),
    }
    return Scene("Where strands lose", parts, [hidden], numbers)


def closing(config: DemoConfig, numbers: Mapping[str, float]) -> tuple[str, str]:
    """What was seen, from the numbers."""
    n, options = numbers, config.options
    law = options["crossing_law"]
    spelling = f"{n['moved']:.0e}" if law == "ybe" else number(n["moved"])
    rounded = f" with orders rounded, {percent(n['unrounded_right'])} as learned" if law == "ybe" else ""
    return (
        f"A braid of the {options['knot']} knot came back from {n['scrambled']:.0f} scrambled letters; strands under "
        f"the law {law}, trained on words of {tasks.TRAINED} (loss {number(n['loss'])}), name the right one of "
        f"{n['classes']:.0f} states at every length from {LONGER} in at least {percent(n['strands_right'])} of words"
        f"{rounded}, softmax with the same {n['parameters']:.0f} parameters in at least "
        f"{percent(n['softmax_right'])} and {percent(n['softmax_mean'])} on average, and spelling a braid otherwise "
        f"changes what they carry by {spelling}.",
        f"Asked how many letters were repeated, strands are right {100 * n['repeated_strands']:.0f} % of the time and "
        f"softmax {100 * n['repeated_softmax']:.0f} %, a call takes {number(n['slower'])} times as long, and a braid "
        f"of {n['unseen']:.0f} letters on 5 strands has the Burau matrix of none.",
    )


def gist(config: DemoConfig, numbers: Mapping[str, float]) -> tuple[str, str]:
    """Learned and lost, for the table of all demos."""
    n = numbers
    learned = f" (unrounded {n['unrounded_right']:.0%})" if config.options["crossing_law"] == "ybe" else ""
    return (
        f"{LONGER}, worst: {n['strands_right']:.0%}{learned}, softmax {n['softmax_right']:.0%}",
        f"repeated letters: {n['repeated_strands']:.0%} right, softmax {n['repeated_softmax']:.0%}",
    )


run = staged(scenes, closing, gist)
