"""The octonion demo: turns by unit numbers, the laws of two algebras, frames changed, and where turning loses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from demos import terminal
from demos.certificate import Certificate, certify
from demos.octonion import checks, maths
from demos.octonion.model import DIMENSION, LARGE, NOISE, SPREAD, Frames, Task, error, initial, models, train
from demos.result import DemoConfig, Plot, Table, Text
from demos.runtime import seconds
from demos.stage import Scene, laws, loss_plot, parameters, staged
from demos.training import Weights
from demos.words import against, number

LINK = 512  # factors of the long product
TOKENS = 8  # observers in training
TESTED = (2, 8, 64)
ORBITS = {"about (1, 1, 1)": (1.0, 1.0, 1.0), "about (1, -1, 0)": (1.0, -1.0, 0.0), "about (0, 0, 1)": (0.0, 0.0, 1.0)}


@dataclass(frozen=True, slots=True)
class Size:
    """How much is computed: steps of training, sequences of a step."""

    steps: int
    batch: int


QUICK = Size(steps=800, batch=32)
FULL = Size(steps=4000, batch=64)


def scenes(config: DemoConfig, random: np.random.Generator) -> Iterator[Scene]:
    """The four acts of the octonion demo."""
    size = QUICK if config.quick else FULL
    n = DIMENSION[str(config.options["algebra"])]
    steps = config.iterations(size.steps)
    yield show_object(random, n)
    yield show_laws(random)
    trained = Trained.learn(random, Task.create(random, n), size, steps, tuple(models(n)))
    yield show_learning(random, trained)
    plain = Trained.learn(random, Task.create(random, n, turned=False), size, min(steps, 400), ("rotor", "softmax"))
    yield show_limits(random, n, plain)


# --- object -------------------------------------------------------------------------------------------------------


def show_object(random: np.random.Generator, n: int) -> Scene:
    """The table of units, orbits of rotors, a path at constant speed, a product of 512 factors."""
    lengths = np.exp(random.normal(0, 0.05, (LINK, 1)))
    factors = checks.unit(random.normal(size=(LINK, n))) * lengths
    product = np.asarray(jax.jit(maths.chain)(factors))
    start, end = checks.unit(random.normal(size=(2, n)))
    path = np.asarray(jax.jit(maths.slerp)(start, end, np.linspace(0, 1, 33)))
    v = random.normal(size=(24, n)) * np.r_[0.0, np.ones(n - 1)]
    v *= random.uniform(0.01, 3.0, (24, 1)) / np.linalg.norm(v, axis=-1, keepdims=True)
    rotor = jax.jit(maths.exponential)(v)
    drift = np.abs(np.linalg.norm(product, axis=-1) / np.exp(np.cumsum(np.log(lengths[:, 0]))) - 1)
    certificates = [
        certify(
            "octonion.chain",
            f"a product of {LINK} numbers is as long as the product of their lengths",
            1e-11,
            x=factors,
            result=product[-1],
        ),
        certify(
            "octonion.exp_log",
            "exponentials of imaginary numbers are unit numbers, and the logarithm takes them back",
            1e-12,
            v=v,
            rotor=np.asarray(rotor),
            logarithm=np.asarray(jax.jit(maths.logarithm)(rotor)),
        ),
        certify(
            "octonion.slerp",
            "the path x exp(t log(conj(x) y)) goes from x to y at constant speed",
            1e-12,
            start=start,
            end=end,
            path=path,
        ),
    ]
    name = "a quaternion" if n == 4 else "an octonion"
    parts = [
        Text(
            f"{name.capitalize()} has {n} parts and a product with |xy| = |x||y|, so a unit number turns without "
            "stretching. The product of two units is a unit up to sign:"
            + (
                ""
                if n == 4
                else " three of them either lie on a line of the Fano plane, and behave like i, j, k, or do not."
            )
        ),
        units(n),
        orbits(n),
        Text(
            f"A product of {LINK} random numbers is as long as their lengths say, to {drift.max():.0e}; nobody has to "
            "normalise on the way."
        ),
    ]
    return Scene("Numbers that turn", parts, certificates, {"chain_drift": float(drift.max())})


def units(n: int) -> Table:
    """Products of the imaginary units."""
    table = maths.products(n)
    names = ["1", "i", "j", "k"] if n == 4 else ["1", *(f"e{i}" for i in range(1, n))]
    rows = []
    for a in range(1, n):
        signed = [
            (int(table[a, b].argmax()), 1) if table[a, b].max() > 0 else (int(table[a, b].argmin()), -1)
            for b in range(1, n)
        ]
        rows.append((names[a], *(("-" if sign < 0 else "") + names[c] for c, sign in signed)))
    return Table(("row x column", *names[1:]), tuple(rows), title="Products of the units")


def orbits(n: int) -> Plot:
    """Three orbits of points under a rotor x -> r x conj(r), seen along the third axis."""
    turn = np.linspace(0, np.pi, 97)
    found = {}
    for name, axis in ORBITS.items():
        direction = np.zeros(n)
        direction[1:4] = np.array(axis) / np.linalg.norm(axis)
        rotor = checks.exp(turn[:, None] * direction)
        point = np.r_[0.0, 0.8, 0.0, 0.6, np.zeros(n - 4)]
        found[name] = checks.product(checks.product(rotor, point), checks.conjugate(rotor))[:, 1:4]
    axis = terminal.Axis(-1.05, 1.05)
    panels = [
        (name, terminal.dots(path[:, 0], path[:, 1], across=axis, upward=axis, width=22, height=11))
        for name, path in found.items()
    ]
    text = terminal.beside(*panels) + "\nseen from above, the circle being the sphere's edge"
    return Plot("Orbits of (0.8, 0, 0.6) under rotors", text, "orbits", found)


# --- laws ---------------------------------------------------------------------------------------------------------


def show_laws(random: np.random.Generator) -> Scene:
    """The laws of both algebras, and the one that octonions break."""
    certified: dict[str, Certificate] = {}
    drawn = {name: random.normal(size=(3, 32, n)) for name, n in DIMENSION.items()}
    for name, (x, y, z) in drawn.items():
        certified[f"|xy| = |x||y|, {name}s"] = certify(
            f"octonion.norm:{name}",
            f"products of {name}s are as long as their factors' lengths multiplied",
            1e-13,
            x=x,
            y=y,
            xy=np.asarray(jax.jit(maths.multiply)(x, y)),
        )
        certified[f"Moufang, {name}s"] = certify(
            f"octonion.moufang:{name}", f"z(x(zy)) = ((zx)z)y and (zx)(yz) = (z(xy))z for {name}s", 1e-11, x=x, y=y, z=z
        )
    x, y, z = drawn["octonion"]
    certified["two numbers associate, octonions"] = certify(
        "octonion.alternative", "x(xy) = (xx)y, (yx)x = y(xx) and x(yx) = (xy)x for octonions", 1e-12, x=x, y=y
    )
    a, b, c = drawn["quaternion"]
    certified["three associate, quaternions"] = certify(
        "octonion.brackets:quaternion", "(xy)z = x(yz) for quaternions", 1e-12, x=a, y=b, z=c, size=0.0
    )
    e = np.eye(8)
    certified["three units off a line differ by 2"] = certify(
        "octonion.brackets:octonion",
        "|(xy)z - x(yz)| = 2 for the octonion units e1, e2, e4",
        0.0,
        x=e[[1]],
        y=e[[2]],
        z=e[[4]],
        size=2.0,
    )
    unlawful = random.normal(size=(2, 32, 16))
    long = np.linalg.norm(checks.product(*unlawful), axis=-1) / np.prod(np.linalg.norm(unlawful, axis=-1), axis=0)
    broken = {
        "three octonions associate": (float(np.abs(checks.associator(x, y, z)).max()), 1e-1),
        "lengths multiply in dimension 16": (float(np.abs(long - 1).max()), 1e-2),
    }
    return Scene("What must hold, checked in float64", [laws(certified, {}, broken)], list(certified.values()))


# --- learning -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Trained:
    """Models trained on the same sequences; errors near the training frames and anywhere, by number of observers."""

    task: Task
    models: dict[str, Frames]
    weights: dict[str, Weights]
    losses: dict[str, np.ndarray]
    near: dict[str, float]
    anywhere: dict[str, dict[int, float]]

    @classmethod
    def learn(cls, random: np.random.Generator, task: Task, size: Size, steps: int, kinds: tuple[str, ...]) -> Trained:
        data = task.draw(random, TOKENS, steps, size.batch, spread=SPREAD)
        near = task.draw(random, TOKENS, 512, spread=SPREAD)
        tests = {tokens: task.draw(random, tokens, 512) for tokens in TESTED}
        made = {name: model for name, model in models(task.n).items() if name in kinds}
        weights, losses, close, far = {}, {}, {}, {}
        for name, model in made.items():
            weights[name], curve = train(initial(random, model), *data, model=model)
            losses[name] = np.asarray(curve)
            close[name] = float(error(weights[name], *near, model=model))
            far[name] = {count: float(error(weights[name], *test, model=model)) for count, test in tests.items()}
        return cls(task, made, weights, losses, close, far)

    @property
    def layer(self) -> dict[str, np.ndarray]:
        """The trained rotor layer as the checks take it."""
        return {name: np.asarray(dense["kernel"]) for name, dense in self.weights["rotor"]["params"].items()}


def show_learning(random: np.random.Generator, trained: Trained) -> Scene:
    """Errors by model, near and far from the training frames, and the certificates of the trained layer."""
    n, many = trained.task.n, TESTED[-1]
    floor = {count: NOISE * (n / count) ** 0.5 for count in TESTED}
    counts = {name: parameters(weights) for name, weights in trained.weights.items()}
    rows: list[tuple[str, ...]] = [
        (
            name,
            str(counts[name]),
            number(trained.near[name]),
            *(number(trained.anywhere[name][count]) for count in (TOKENS, many)),
        )
        for name in trained.models
    ]
    rows.append(("the plain mean, frames known", "", *(number(floor[count]) for count in (TOKENS, TOKENS, many))))
    assert counts["rotor"] == counts["softmax"] == counts["mlp"]
    numbers = {
        "rotor_error": trained.anywhere["rotor"][many],
        "softmax_error": trained.anywhere["softmax"][many],
        "mlp_error": trained.anywhere["mlp"][many],
        "large_error": trained.anywhere["large mlp"][many],
        "floor": floor[many],
        "parameters": float(counts["rotor"]),
    }
    parts = [
        Text(
            f"{TOKENS} observers, each with a frame of its own, see one number with noise; asked is what another "
            "observer sees. An unknown rotation hides the frames, and in training they all lie near 1. The layer turns "
            "by unit numbers of its query and keys; the controls add and squash."
        ),
        Table(
            ("model", "parameters", "frames near 1", "anywhere", f"{many} observers"),
            tuple(rows),
            title="Root mean squared distance from the answer, which has length 1",
        ),
        loss_plot({name: trained.losses[name] for name in ("rotor", "softmax", "large mlp")}),
        reach_plot(trained, floor),
    ]
    return Scene("Frames changed by turning, at any orientation", parts, learned_certificates(random, trained), numbers)


def reach_plot(trained: Trained, floor: Mapping[int, float]) -> Plot:
    """Error by number of observers, frames anywhere."""
    counts = np.array(TESTED)
    found = {name: np.array(list(trained.anywhere[name].values())) for name in ("rotor", "softmax", "large mlp")}
    found["plain mean, frames known"] = np.array(list(floor.values()))
    text = terminal.chart(
        {name: (counts, y) for name, y in found.items()}, xlabel="observers", ylabel="error", logx=True, logy=True
    )
    return Plot("Error by number of observers, frames anywhere", text, "reach", {"observers": counts, **found})


def learned_certificates(random: np.random.Generator, trained: Trained) -> list[Certificate]:
    """Of the trained layer: its answers without pairs, lengths, and what one turn of everything does."""
    n, layer = trained.task.n, trained.layer
    frames, seen, _ = trained.task.draw(random, 12, 16)
    model = trained.models["rotor"]
    said = np.asarray(jax.vmap(partial(model.apply, trained.weights["rotor"]))(frames, seen))
    inputs: dict[str, Any] = {"frames": frames, "seen": seen, **layer}
    turn = checks.unit(random.normal(size=n))
    found = [
        certify(
            "octonion.same_form",
            "the trained layer, summed over pairs, equals its form that needs no pairs",
            1e-12,
            said=said,
            **inputs,
        ),
        certify(
            "octonion.isometry",
            "every value that the trained layer turns keeps its length",
            1e-12,
            turned=np.asarray(jax.jit(turned_values)(**inputs)),
            **inputs,
        ),
        certify(
            "octonion.weights",
            "a unit number multiplied to all queries and keys leaves the trained layer's weights as they are",
            1e-12,
            turn=turn,
            **inputs,
        ),
    ]
    if n == 4:
        statement = "multiplied to queries, keys and values, a unit quaternion is multiplied to the answer"
        found.append(certify("octonion.turned", statement, 1e-12, turn=turn, **inputs))
    return found


def turned_values(frames: jax.Array, seen: jax.Array, q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """(u conj(w)) v for every token, before they are averaged."""
    u, w = maths.unit(frames[:, -1:] @ q), maths.unit(frames[:, :-1] @ k)
    return maths.multiply(maths.multiply(u, maths.conjugate(w)), seen @ v)


# --- limits -------------------------------------------------------------------------------------------------------


def show_limits(random: np.random.Generator, n: int, plain: Trained) -> Scene:
    """A mean that needs no turning, turns that do not compose, and the time of a call."""
    many = TESTED[-1]
    x, y, z = checks.unit(random.normal(size=(3, 4096, n)))
    apart = float(np.sqrt((checks.associator(x, y, z) ** 2).sum(-1).mean()))
    q, k, v = random.normal(size=(3, 256, 32))
    turned = seconds(jax.jit(partial(maths.averaged_maps, n=n)), q, k, v, repeats=20)
    usual = seconds(jax.jit(softmax_attention), q, k, v, repeats=20)
    rows = [
        (f"mean of what {many} observers see", *(number(plain.anywhere[kind][many]) for kind in ("rotor", "softmax"))),
        ("one call on 256 tokens, 32 channels, ms", number(1e3 * turned), number(1e3 * usual)),
        ("two changes of frame in a row, error", number(apart), "0"),
    ]
    parts = [
        Text(
            "A layer that always turns cannot stop turning: where all observers use one frame, softmax averages and "
            "the same layer is misled by frames. "
            + (
                "Turns by octonions do not compose, so two changes of frame are no change of frame."
                if n == 8
                else "Turns by quaternions compose exactly; with --algebra octonion they would not."
            )
        ),
        Table(("where it loses", "rotor", "control"), tuple(rows)),
    ]
    numbers = {
        "plain_error": plain.anywhere["rotor"][many],
        "plain_softmax_error": plain.anywhere["softmax"][many],
        "apart": apart,
        "slower": turned / usual,
    }
    return Scene("Where turning loses", parts, numbers=numbers)


def softmax_attention(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """Causal softmax attention, the control of the clock."""
    scores = q @ k.T / q.shape[-1] ** 0.5
    return jax.nn.softmax(jnp.where(jnp.tril(jnp.ones(scores.shape, bool)), scores, -jnp.inf)) @ v


def closing(config: DemoConfig, numbers: Mapping[str, float]) -> tuple[str, str]:
    """What was seen, from the numbers."""
    n, algebra = numbers, config.options["algebra"]
    composed = (
        f"two of its changes of frame miss the one they should make by {number(n['apart'])}"
        if algebra == "octonion"
        else f"its changes of frame compose to {n['apart']:.0e}"
    )
    return (
        f"Trained on frames near 1, the {algebra} layer errs by {number(n['rotor_error'])} in frames anywhere with "
        f"{TESTED[-1]} observers, {against(n['rotor_error'], n['softmax_error'])} softmax with the same "
        f"{n['parameters']:.0f} parameters, {against(n['rotor_error'], n['large_error'])} a hidden layer with {LARGE} "
        f"times as many, where {number(n['floor'])} is what the noise allows.",
        f"Where nothing needs turning it errs by {number(n['plain_error'])}, "
        f"{against(n['plain_error'], n['plain_softmax_error'])} softmax, a call takes {number(n['slower'])} times as "
        f"long, and {composed}.",
    )


def gist(_: DemoConfig, numbers: Mapping[str, float]) -> tuple[str, str]:
    """Learned and lost, for the table of all demos."""
    n = numbers
    return (
        f"frames anywhere: error {number(n['rotor_error'])}, softmax {number(n['softmax_error'])}",
        f"one frame: error {number(n['plain_error'])}, softmax {number(n['plain_softmax_error'])}",
    )


run = staged(scenes, closing, gist)
