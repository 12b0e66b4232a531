"""The simplicial demo: flows on surfaces with holes, heads that look at pairs of words, where one word is enough."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np

from demos.certificate import Certificate, certify
from demos.result import DemoConfig, Table, Text
from demos.runtime import seconds
from demos.simplicial import checks, complexes, geometry, maths, readout
from demos.simplicial.geometry import Built
from demos.simplicial.model import (
    BITS,
    CHANNELS,
    DEEP,
    LAYER,
    MODULUS,
    SOFTMAX,
    Task,
    initial,
    match3,
    recall,
    signs,
    sums,
    train,
)
from demos.simplicial.surfaces import Surface
from demos.stage import Scene, laws, loss_plot, parameters, staged
from demos.training import Weights
from demos.words import number

FEW = 256  # sequences of the task where one word is enough
SEEN = 60  # flows that the readers of directions are trained on
FRESH = 2000  # sequences and flows of the tests
TIMED = 256  # tokens of the call that is timed
OFFSETS = 8  # second keys of each of its queries


@dataclass(frozen=True, slots=True)
class Size:
    """How much is computed.

    Args:
        steps, batch: of training a head.
        models: of each kind, side by side.
        pool: different sequences.
        lessons: steps of training a reader.
        controls: kinds of heads beside the one over triangles.
    """

    steps: int
    batch: int
    models: int
    pool: int
    lessons: int
    controls: tuple[str, ...]


QUICK = Size(steps=400, batch=64, models=2, pool=4096, lessons=300, controls=(SOFTMAX,))
FULL = Size(steps=1000, batch=64, models=4, pool=16384, lessons=600, controls=(SOFTMAX, DEEP))


def scenes(config: DemoConfig, random: np.random.Generator) -> Iterator[Scene]:
    """The four acts of the simplicial demo."""
    size = QUICK if config.quick else FULL
    form, mode, name = (str(config.options[key]) for key in ("score", "mode", "surface"))
    steps, lessons = config.iterations(size.steps), config.iterations(size.lessons)
    built = Built.create(random, name, mode)
    yield show_object(built)
    yield show_laws(random, built, form)
    arms = {kind: Arm.learn(random, match3, kind, size, steps) for kind in (form, *size.controls)}
    readers = Readers.learn(random, built.surface, mode, "circulation", lessons)
    yield show_learning(random, built, arms, readers)
    few = {kind: Arm.learn(random, recall, kind, size, steps, pool=FEW) for kind in (form, SOFTMAX)}
    modular = Arm.learn(random, sums, form, size, steps)
    slopes = Readers.learn(random, built.surface, mode, "slope", lessons)
    yield show_limits(random, few, modular, slopes)


# --- object -------------------------------------------------------------------------------------------------------


def show_object(built: Built) -> Scene:
    """A surface, a flow and its three parts, diffusion, and holes found from distances alone."""
    counts = ", ".join(
        f"{len(level)} {what}"
        for level, what in zip(built.surface.complex, ("points", "edges", "triangles"), strict=True)
    )
    one_sided = f" (mod 2: {geometry.written(built.mod_two)}, for it is one-sided)"
    kept = float(np.abs(built.mass.result.sum(-1) - 1).max())
    parts = [
        Text(
            f"A surface of {counts}. Pieces, holes, cavities: {geometry.written(built.betti)}"
            f"{one_sided if built.mod_two != built.betti else ''}. A flow puts a number on every edge. Each flow is a "
            "gradient (downhill), plus eddies, plus a harmonic part that neither ends at a point nor turns around a "
            "triangle: the holes alone carry it."
        ),
        geometry.flow_plot(built),
        geometry.split_table(built),
        Text(f"Mass that spreads over the points is never lost (to {kept:.0e}). {FATE[built.mode]}"),
        geometry.decay_plot(built),
        Text("The holes show in distances alone: loops that live long are holes, short ones are gaps between points."),
        geometry.bars_plot(built),
    ]
    numbers = {"holes": float(built.betti[1]), "harmonic_share": built.share("harmonic")}
    return Scene("A surface, and what flows on it", parts, (), numbers)


FATE = {
    "signed": "A flow spreads too, with its signs: gradient and eddies cancel out, the harmonic part stays for ever.",
    "unsigned": "Without signs an edge has mass and no direction: the total stays, and evens out over all edges.",
}


# --- laws ---------------------------------------------------------------------------------------------------------


def show_laws(random: np.random.Generator, built: Built, form: str) -> Scene:
    """Laws of the surface and of the two forms, and what does not hold."""
    complex = built.surface.complex
    certified = geometry.certificates(built)
    certified["product of three words = XOR is 0"] = certify(
        "simplicial.match3",
        f"the signs of three words of {BITS} bits multiply and add up to {BITS} just where their XOR is 0",
        0.0,
        words=signs(BITS),
    )
    q, k, second = random.normal(size=(3, 1, 12, CHANNELS))
    turn = np.kron(rotation(random), np.eye(CHANNELS // 3))
    moved = {
        name: np.abs(checks.products(name, q @ turn, k @ turn, second @ turn) - checks.products(name, q, k, second))
        for name in maths.FORMS
    }
    measured = {"determinants do not see turns": (float(moved["determinant"].max()), 1e-11)}
    unsigned = np.abs(complexes.boundary(complex, 1)) @ np.abs(complexes.boundary(complex, 2))
    flow = complexes.heat(complex, 1, built.flow, 1.0)
    broken = {
        "boundary of a boundary without signs": (float(unsigned.max()), 1.0),
        "flows keep their sum": (float(abs(flow.sum() - built.flow.sum())), 1e-3),
        "products do not see turns": (float(moved["trilinear"].max()), 1e-1),
    }
    table = laws(certified, measured, broken)
    return Scene("What must hold, checked in float64", [table], list(certified.values()))


def rotation(random: np.random.Generator) -> np.ndarray:
    """Of 3-space."""
    turn = np.linalg.qr(random.normal(size=(3, 3)))[0]
    return turn * np.linalg.det(turn)


# --- learning -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Arm:
    """Models of one kind, trained side by side on one task, and what they say of fresh sequences.

    Args:
        kind: see :class:`demos.simplicial.model.Reader`.
        weights, losses, logits, right: leading axis models; ``right`` is the share of right answers.
        shown: the fresh sequences.
    """

    kind: str
    weights: Weights
    losses: np.ndarray
    shown: np.ndarray
    logits: np.ndarray
    right: np.ndarray

    @classmethod
    def learn(
        cls, random: np.random.Generator, task: Task, kind: str, size: Size, steps: int, pool: int | None = None
    ) -> Arm:
        tokens, wanted = task(random, pool or size.pool)
        rows = random.integers(0, len(tokens), (size.models, steps, size.batch))
        shown, truth = task(random, FRESH)
        start = initial(random, kind, size.models)
        weights, losses, logits = train(start, tokens[rows], wanted[rows], shown, kind=kind)
        said = np.asarray(logits)
        return cls(kind, weights, np.asarray(losses), shown, said, ((said > 0) == (truth > 0)).mean(-1))

    @property
    def parameters(self) -> int:
        """Of one model."""
        return parameters(self.weights) // len(self.losses)

    @property
    def best(self) -> int:
        """The model of the smallest last losses."""
        return int(self.losses[:, -20:].mean(-1).argmin())

    def layer(self) -> dict[str, np.ndarray]:
        """Its weights as the checks take them, the first map cut into queries, keys and so on."""
        inner = jax.tree.map(lambda leaf: np.asarray(leaf[self.best]), self.weights)["params"]
        kernels = {name: part["kernel"] for name, part in inner.items()} | {"up_bias": inner["up"]["bias"]}
        names = LAYER if self.kind in maths.FORMS else LAYER[:3]
        return kernels | dict(zip(names, np.split(kernels.pop("into"), len(names), -1), strict=True))


@dataclass(frozen=True, slots=True)
class Readers:
    """Linear readers of directions: of what diffusion leaves, of principal directions, of every edge."""

    flows: np.ndarray
    kernel: readout.Reading
    principal: readout.Reading
    plain: readout.Reading

    @classmethod
    def learn(cls, random: np.random.Generator, surface: Surface, mode: str, asked: str, lessons: int) -> Readers:
        complex = surface.complex
        harmonic = readout.lasting(complexes.laplacian(complex, 1))
        told = {
            "circulation": harmonic @ random.normal(size=harmonic.shape[1]),
            "slope": random.normal(size=len(complex[0])) @ complexes.boundary(complex, 1),
        }[asked]
        seen, fresh = (readout.draw(random, complex, count, readout.unit(told), asked) for count in (SEEN, FRESH))
        rows = random.integers(0, SEEN, (lessons, 16))
        bases = (
            (readout.lasting(checks.operator(complex, mode)), mode),
            (readout.principal(seen.flows, harmonic.shape[1]), readout.SIGNED),
            (np.eye(len(complex[1])), readout.SIGNED),
        )
        return cls(fresh.flows, *(readout.read(seen, fresh, basis, rows, shown) for basis, shown in bases))


def show_learning(random: np.random.Generator, built: Built, arms: dict[str, Arm], readers: Readers) -> Scene:
    """Match3 by heads of equal size, and the direction of a circulation by linear readers."""
    form = next(iter(arms))
    assert len({arm.parameters for arm in arms.values()}) == 1
    rows = [
        (names(kind), str(arm.parameters), f"{arm.right.mean():.3f}", f"{arm.right.min():.3f}")
        for kind, arm in arms.items()
    ]
    shown, truth = match3(random, FRESH)
    words = signs(BITS)
    exact = np.einsum("bd,bjd,bld->bjl", *(words[part] for part in (shown[:, -1], shown, shown))).max((1, 2)) == BITS
    known = float((exact == (truth > 0)).mean())
    rows.append(("triangles, q = k = k' = signs", "0", f"{known:.3f}", f"{known:.3f}"))
    count = len(arms[form].right)
    parts = [
        Text(
            f"Match3: is the last of ten words of {BITS} bits the XOR of two others? No other word tells by itself. A "
            "head over triangles weighs pairs of words in one softmax; what its second keys and values take, the "
            f"controls have in wider heads. {count} models of each kind."
        ),
        Table(("head", "parameters", "right", "worst model"), tuple(rows), title="Share of right answers, chance 0.5"),
        loss_plot({names(kind): arm.losses.mean(0) for kind, arm in arms.items()}),
        Text(
            f"Hodge readout: flows circulate forwards or backwards under gradients and eddies {readout.LOUD:.0f} times "
            f"as large; {SEEN} are shown with their direction. One reader sees what {built.mode} diffusion leaves of a "
            "flow."
            + ("" if built.betti[1] else " This surface has no hole: nothing circulates, and there is nothing to read.")
        ),
        readers_table(readers, built.mode, "right"),
    ]
    numbers = {
        "right": float(arms[form].right.mean()),
        "softmax_right": float(arms[SOFTMAX].right.mean()),
        "parameters": float(arms[form].parameters),
        "reader_right": readers.kernel.accuracy,
        "plain_right": readers.plain.accuracy,
        "plain_parameters": float(readers.plain.parameters),
        "reader_parameters": float(readers.kernel.parameters),
    } | ({"deep_right": float(arms[DEEP].right.mean())} if DEEP in arms else {})
    title = "Pairs of words at once, and what holes tell"
    certificates = [*head_certificates(random, arms), reader_certificate(random, built, readers)]
    return Scene(title, parts, certificates, numbers)


def names(kind: str) -> str:
    """A kind of head in words."""
    return {SOFTMAX: "softmax", DEEP: "softmax, two layers"}.get(kind, f"triangles, {kind}")


def readers_table(readers: Readers, mode: str, column: str) -> Table:
    """Right answers of the three readers."""
    rows = (
        (f"what {mode} diffusion leaves", readers.kernel),
        ("as many principal directions", readers.principal),
        ("every edge", readers.plain),
    )
    shown = tuple((name, str(reading.parameters), f"{reading.accuracy:.3f}") for name, reading in rows)
    return Table(("linear reader of", "parameters", column), shown)


def head_certificates(random: np.random.Generator, arms: Mapping[str, Arm]) -> list[Certificate]:
    """Of the best trained head over triangles, beside the best softmax."""
    form = next(iter(arms))
    arm, layer, tokens = arms[form], arms[form].layer(), arms[form].shown[:8]
    words, layer["embed"] = signs(BITS), layer["embed"][:BITS]  # the other features are 0 in words of Match3
    inside: dict[str, Any] = {"words": words, "tokens": tokens, "form": form}
    head = {name: layer[name] for name in ("embed", *LAYER)}
    keys = {name: layer[name] for name in ("embed", "q", "k", "second_k")}
    rows = checks.rows(words, tokens, head, *LAYER)
    attend = partial(maths.folded_attention, window=(tokens.shape[1],) * 2, form=form)
    control = arms[SOFTMAX].layer()
    pair = {"pair_embed": control["embed"][:BITS], "pair_q": control["q"], "pair_k": control["k"]}
    factors = rotation(random) if form == "determinant" else np.exp(random.normal(size=(2, CHANNELS)))
    seen = "no rotation of all vectors" if form == "determinant" else "no factors of channels that multiply to 1"
    return [
        certify(
            "simplicial.answers",
            "the trained block says what its definition says",
            1e-9,
            logits=arm.logits[arm.best, :8],
            **inside,
            **layer,
        ),
        certify(
            "simplicial.folding",
            "the trained head, as one ordinary attention for each second key, equals its sum over all triples",
            1e-9,
            said=np.asarray(jax.jit(jax.vmap(attend))(*rows))[:, -1],
            **inside,
            **head,
        ),
        certify(
            "simplicial.swap",
            "first and second keys and values of the trained head may change places"
            + (", if the query changes its sign" if form == "determinant" else ""),
            1e-9,
            **inside,
            **head,
        ),
        certify("simplicial.symmetry", f"scores of the trained head see {seen}", 1e-9, frame=factors, **inside, **keys),
        certify(
            "simplicial.triangles",
            "paths of two steps of the trained softmax have no third mixed difference beside the trained head's",
            1e-9,
            **inside,
            **pair,
            **keys,
        ),
    ]


def reader_certificate(random: np.random.Generator, built: Built, readers: Readers) -> Certificate:
    """The trained reader's answers do not depend on what diffusion forgets."""
    reading, flows, complex = readers.kernel, readers.flows[:3], built.surface.complex
    if reading.mode == readout.UNSIGNED:
        what, changed = "directions", flows * random.choice([-1.0, 1.0], flows.shape)
    else:
        what = "gradients and eddies"
        gradient = random.normal(size=(len(flows), len(complex[0]))) @ complexes.boundary(complex, 1)
        changed = (
            flows + gradient + random.normal(size=(len(flows), len(complex[2]))) @ complexes.boundary(complex, 2).T
        )
    return certify(
        "simplicial.readout",
        f"{what} change no answer of the trained reader",
        1e-10,
        mode=reading.mode,
        flows=flows,
        changed=changed,
        direction=reading.basis @ reading.weights,
        bias=reading.bias,
        logits=reading.logits(flows),
        **built.simplices,
    )


# --- limits -------------------------------------------------------------------------------------------------------


def show_limits(random: np.random.Generator, few: Mapping[str, Arm], modular: Arm, slopes: Readers) -> Scene:
    """A task for one word, sums of learned numbers, directions that no hole carries, and the time of a call."""
    form = modular.kind
    triangle, softmax = few[form], few[SOFTMAX]
    fitted = float(triangle.losses[:, -20:].mean())
    q, k, v, second_k, second_v = random.normal(size=(5, TIMED, CHANNELS))
    ones = np.ones_like(q)
    attention = jax.jit(maths.folded_attention, static_argnums=(5, 6))
    slow = seconds(attention, q, k, v, second_k, second_v, (TIMED, OFFSETS), form)
    fast = seconds(attention, q, k, v, ones, ones, (TIMED, 1), "trilinear")
    rows = (
        (
            f"recall of one word, {FEW} sequences",
            f"{triangle.right.mean():.3f}",
            f"{softmax.right.mean():.3f}",
            "softmax",
        ),
        (f"call on {TIMED} tokens, {OFFSETS} second keys, ms", number(1e3 * slow), number(1e3 * fast), "softmax"),
        ("direction of a gradient", f"{slopes.kernel.accuracy:.3f}", f"{slopes.plain.accuracy:.3f}", "every edge"),
    )
    parts = [
        Text(
            "Where one word is enough, pairs of words are too many ways to explain a few examples: the head over "
            f"triangles fits its {FEW} to a loss of {number(fitted)}, and the table says what it makes of new ones. "
            "And the reader of holes is blind to what no hole carries."
        ),
        Table(("where it loses", "this", "control", "which is"), rows),
        Text(
            f"Numbers mod {MODULUS} given as learned vectors, not as bits: do three add up to 0? After as many steps "
            f"the same head is right in {percent(modular.right.mean())} of cases (worst model "
            f"{percent(modular.right.min())})."
        ),
    ]
    numbers = {
        "few_right": float(triangle.right.mean()),
        "few_softmax": float(softmax.right.mean()),
        "few_loss": fitted,
        "modular_right": float(modular.right.mean()),
        "slower": slow / fast,
        "slope_right": slopes.kernel.accuracy,
        "slope_plain": slopes.plain.accuracy,
    }
    return Scene("Where one word is enough, or no hole helps", parts, numbers=numbers)


def percent(share: float) -> str:
    """Of 100."""
    return f"{100 * share:.1f} %"


def closing(config: DemoConfig, numbers: Mapping[str, float]) -> tuple[str, str]:
    """What was seen, from the numbers."""
    n, form, mode, surface = numbers, *(config.options[key] for key in ("score", "mode", "surface"))
    holes = f"{n['holes']:.0f} hole{'' if n['holes'] == 1 else 's'}"
    return (
        f"On Match3 the {form} head over triangles is right in {percent(n['right'])} of cases, softmax with the same "
        f"{n['parameters']:.0f} parameters in {percent(n['softmax_right'])}"
        f"{', in two layers in ' + percent(n['deep_right']) if 'deep_right' in n else ''}; the {surface} has {holes}, "
        f"and a reader of {n['reader_parameters']:.0f} numbers that knows them tells directions of {mode} flows in "
        f"{percent(n['reader_right'])}, one of {n['plain_parameters']:.0f} that does not in "
        f"{percent(n['plain_right'])}.",
        f"Where one word is enough, triangles fit {FEW} examples to a loss of {number(n['few_loss'])} and are right in "
        f"{percent(n['few_right'])} of new ones, softmax in {percent(n['few_softmax'])}; a call takes "
        f"{number(n['slower'])} times as long; asked for the direction of a gradient, the reader of holes is right in "
        f"{percent(n['slope_right'])}, the plain one in {percent(n['slope_plain'])}.",
    )


def gist(_: DemoConfig, numbers: Mapping[str, float]) -> tuple[str, str]:
    """Learned and lost, for the table of all demos."""
    n = numbers
    return (
        f"Match3: right in {percent(n['right'])}, softmax in {percent(n['softmax_right'])}",
        f"one word is enough: {percent(n['few_right'])}, softmax {percent(n['few_softmax'])}",
    )


run = staged(scenes, closing, gist)
