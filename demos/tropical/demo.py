"""The tropical demo: polynomials and routes, the laws, a relaxation step learned, and where a maximum loses."""

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
from demos.result import DemoConfig, Plot, Table, Text
from demos.runtime import seconds
from demos.stage import Scene, laws, loss_plot, parameters, staged
from demos.tropical import checks, maths, polynomial
from demos.tropical.model import RANGE, TASKS, Weights, answer, answers, draw, initial, shortest_paths, train
from demos.tropical.routes import kleene_star, nearest_graph, route
from demos.tropical.sparse import reading, train_sparse
from demos.words import against, number

TRAINED_ON, TESTED_ON = 8, (8, 16, 32, 64)
SOFTMAX = "softmax"
GLYPHS = "0123456789"


@dataclass(frozen=True, slots=True)
class Size:
    """How much is computed: steps of training, sequences per step, models per arm, graph nodes, certified inputs."""

    steps: int
    batch: int
    models: int
    nodes: int
    certified: int


QUICK = Size(steps=2000, batch=32, models=3, nodes=24, certified=12)
FULL = Size(steps=4000, batch=64, models=5, nodes=48, certified=32)


@dataclass(frozen=True, slots=True)
class Arm:
    """One score, trained on both tasks; leading axis of ``weights``: models of ``relax``, then of ``average``."""

    score: str
    weights: Weights
    losses: np.ndarray
    errors: dict[str, dict[int, float]]


def scenes(config: DemoConfig, random: np.random.Generator) -> Iterator[Scene]:
    """The four acts of the tropical demo."""
    size = QUICK if config.quick else FULL
    score, sparse = str(config.options["score"]), bool(config.options["sparse_train"])
    yield show_object(random, size)
    yield show_laws(random, score)
    arms = learn(random, size, score, config.iterations(size.steps), sparse)
    yield show_learning(random, size, arms, sparse)
    yield show_limits(random, arms)


def show_object(random: np.random.Generator, size: Size) -> Scene:
    """A polynomial with its Newton polygon, a curve in the plane, a Kleene star with a route."""
    degree = 6
    coefficients = -0.35 * (np.arange(degree + 1) - 2.0) ** 2 + random.normal(0, 0.5, degree + 1)
    roots = polynomial.roots(coefficients)
    x = np.linspace(roots[0] - 1, roots[-1] + 1, 257)
    hull = polynomial.newton_polygon(coefficients)
    edges = zip(hull, hull[1:], strict=False)
    rows = tuple(
        (f"{left} to {right}", str(right - left), f"{(coefficients[left] - coefficients[right]) / (right - left):.4f}")
        for left, right in edges
    )
    lengths, star, walk = routes(random, size)
    picture = curve(random)
    steps = " -> ".join(str(node) for node in walk)
    parts = (
        Text(
            "A tropical polynomial p(x) = max_i (a_i + i x) is a convex chain of lines. Its roots, where lines tie, "
            "are the slopes of its Newton polygon; with multiplicity there are exactly as many as the degree."
        ),
        Table(("edge of the polygon", "multiplicity", "root"), rows, title=f"Roots of a polynomial of degree {degree}"),
        picture,
        Text(
            f"Matrices over the same algebra hold routes: in a graph of {len(lengths)} nodes the Kleene star "
            f"A* = I + A + A^2 + ... gives the length {-star[walk[0], walk[-1]]:.4f} from {walk[0]} to {walk[-1]}, "
            f"attained by {steps}."
        ),
    )
    certificates = [
        certify(
            "tropical.factorisation",
            "the polynomial equals the product of its linear factors at every point of a grid",
            1e-12,
            coefficients=coefficients,
            roots=roots,
            x=x,
        ),
        certify(
            "tropical.kleene_star",
            "A* = I + A A* = A* A*, and the edges of the route add up to its entry of A*",
            1e-12,
            matrix=-lengths,
            star=star,
            route=walk,
        ),
    ]
    return Scene("Max-plus algebra: lines instead of monomials, routes instead of products", parts, certificates)


def routes(random: np.random.Generator, size: Size) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A random graph, its Kleene star and the route of most hops from node 0."""
    _, lengths = nearest_graph(random, size.nodes // 2)
    star = np.asarray(kleene_star(jnp.asarray(-lengths)))
    walks = [route(-lengths, star, 0, end) for end in range(1, len(lengths))]
    return lengths, star, max(walks, key=len)


def curve(random: np.random.Generator) -> Plot:
    """A tropical cubic in the plane: where two of its ten monomials tie."""
    exponents = np.array([(i, j) for i in range(4) for j in range(4 - i)])
    i, j = exponents.T
    coefficients = -0.8 * (i**2 + j**2 + i * j) + 2.0 * (i + j) + random.normal(0, 0.25, len(exponents))
    span = np.linspace(-5, 5, 301)
    find = jax.jit(polynomial.winners)
    fine = np.asarray(find(exponents, coefficients, span, span))
    coarse = np.asarray(find(exponents, coefficients, np.linspace(-5, 5, 64), np.linspace(-5, 5, 22)))
    names = "  ".join(f"{glyph}: {power(a, b)}" for glyph, (a, b) in zip(GLYPHS, exponents, strict=True))
    return Plot(
        "A tropical cubic: each region is won by one monomial, the curve is the boundary",
        terminal.regions(coarse, GLYPHS, "·") + "\n" + names,
        name="curve",
        arrays={"winners": fine, "span": span, "exponents": exponents, "coefficients": coefficients},
    )


def power(i: int, j: int) -> str:
    """A monomial's name, as ``x2y``."""
    factors = [letter + (str(n) if n > 1 else "") for letter, n in (("x", i), ("y", j)) if n]
    return "".join(factors) or "1"


def show_laws(random: np.random.Generator, score: str) -> Scene:
    """Algebra, metric and constants on random float64 inputs."""
    a, b, c = random.normal(0, 3, (3, 6, 6))
    x, y, z = random.normal(0, 2, (3, 64, 8))
    sequence = led_by_another(random, score)
    certificates = [
        certify(
            "tropical.semiring", "matrices form an idempotent semiring under max and max-plus", 1e-12, a=a, b=b, c=c
        ),
        certify(
            "tropical.hilbert_metric",
            "the Hilbert score is a projective metric: symmetric, triangle inequality, blind to a common shift",
            1e-12,
            x=x,
            y=y,
            z=z,
            shift=random.normal(0, 5, 64),
        ),
        certify(
            "tropical.constant",
            f"one input driving q, k and v moves the output by at most {5 if score == 'hilbert' else 3} times its own "
            "change, and an attack attains that",
            1e-9,
            x=sequence,
            noise=random.uniform(-1, 1, (40, *sequence.shape)),
            score=score,
            e=1e-3,
        ),
    ]
    measured = {name: (error, 1e-12) for name, error in attention_laws(random, score).items()}
    table = laws(dict(zip(LAWS, certificates, strict=True)), measured, {})
    return Scene("What must hold, checked in float64", (table,), certificates)


LAWS = ("idempotent semiring of matrices", "Hilbert projective metric", "Lipschitz constant attained")


def led_by_another(random: np.random.Generator, score: str) -> np.ndarray:
    """A sequence whose last token takes channel 0 from an earlier token, with channel 0 inside the spread."""
    x = random.normal(0, 1, (6, 5))
    if score == "hilbert":  # the lead, 10 in every channel, is free (projective); the spread of 4 lies in others
        x[0, 0] += 20.0
        x[-1] = x[0] - 10.0 + np.array([0.0, 2.0, -2.0, 0.0, 0.0])
    else:
        x[0, 0] += 8.0
    return x


def attention_laws(random: np.random.Generator, score: str) -> dict[str, float]:
    """Error of three invariants of causal tropical attention on random sequences."""
    q, k, v = random.normal(0, 1, (3, 24, 8))
    attend = jax.jit(partial(maths.tropical_attention, score=score))
    whole = attend(q, k, v)
    shifted = attend(q + 1.7, k + (1.7 if score == "hilbert" else -1.7), v)
    changed = attend(q, np.concatenate([k[:16], k[16:] + 5]), np.concatenate([v[:16], v[16:] - 3]))
    near = attend(q, k, v + random.uniform(-0.1, 0.1, v.shape))
    return {
        "blind to a common shift of q and k": float(jnp.abs(shifted - whole).max()),
        "homogeneous: y(v + c) = y(v) + c": float(jnp.abs(attend(q, k, v + 2.5) - whole - 2.5).max()),
        "causal: the past ignores the future": float(jnp.abs(changed[:16] - whole[:16]).max()),
        "nonexpansive in v": float(jnp.maximum(jnp.abs(near - whole).max() - 0.1, 0)),
    }


def learn(random: np.random.Generator, size: Size, score: str, steps: int, sparse: bool) -> tuple[Arm, Arm]:
    """Train the tropical step and its softmax control on both tasks, from the same weights on the same data."""
    fit = train_sparse if sparse else train
    start = jax.tree.map(lambda leaf: np.concatenate([leaf, leaf]), initial(random, size.models))
    data = draw(random, size.models, steps, size.batch, TRAINED_ON)
    wanted = np.concatenate([TASKS["relax"](data), TASKS["average"](data)])
    data = np.concatenate([data, data])
    tests = {tokens: draw(random, 512, tokens) for tokens in TESTED_ON}
    arms = []
    for name in (score, SOFTMAX):
        weights, losses = fit(start, data, wanted, score=name)
        errors: dict[str, dict[int, float]] = {task: {} for task in TASKS}
        for tokens, x in tests.items():
            said = np.asarray(answers(weights, x, score=name)).reshape(len(TASKS), size.models, -1)
            for (task, target), guess in zip(TASKS.items(), said, strict=True):
                errors[task][tokens] = float(np.median(np.sqrt(((guess - target(x)) ** 2).mean(-1))))
        arms.append(Arm(name, weights, np.asarray(losses), errors))
    return arms[0], arms[1]


def single(arm: Arm, index: int) -> Weights:
    """The weights of one of an arm's models."""
    return jax.tree.map(lambda leaf: leaf[index], arm.weights)


def witness(weights: Weights) -> dict[str, Any]:
    """The trained layer as the checks take it."""
    inner = weights["params"]
    return {
        "q": np.asarray(inner["q"]),
        "key": np.asarray(inner["key"]["kernel"]),
        "value": np.asarray(inner["value"]["kernel"]),
        "bias": np.asarray(inner["value"]["bias"]),
    }


def show_learning(random: np.random.Generator, size: Size, arms: tuple[Arm, Arm], sparse: bool) -> Scene:
    """The learned relaxation step, what it does on longer inputs and on graphs, and the certificates of its margins."""
    tropical, softmax = arms
    final = tropical.losses[: size.models, -20:].mean(-1)
    best = int(final.argmin())
    layer: dict[str, Any] = witness(single(tropical, best)) | {"score": tropical.score}
    x = draw(random, size.certified, TRAINED_ON)
    certificates = trained_certificates(layer, x)
    graph = on_graphs(random, size, arms)
    keys, values = checks.layer(x, layer["q"], layer["key"], layer["value"], layer["bias"])
    radius = checks.radii(layer["q"], keys, values, tropical.score)[2]
    reach = checks.input_radii(x, **layer)
    numbers = {
        "tropical_error": tropical.errors["relax"][TESTED_ON[-1]],
        "softmax_error": softmax.errors["relax"][TESTED_ON[-1]],
        "parameters": float(parameters(single(tropical, best))),
        "left": float(sum(np.count_nonzero(leaf) for leaf in jax.tree.leaves(single(tropical, best)))),
        "winners": float((radius > checks.VACUOUS).sum()),
        "violations": certificates[0].value,
        "median_radius": float(np.median(radius)),
        "median_input_radius": float(np.median(reach)),
        "tropical_distance_error": graph[0][0],
        "softmax_distance_error": graph[1][0],
    }
    rows = [(f"{n} tokens", *(number(arm.errors["relax"][n]) for arm in arms)) for n in TESTED_ON]
    rows += [
        (f"distances, {size.nodes} nodes", *(number(error) for error, _ in graph)),
        ("correct predecessors", *(f"{share:.0%}" for _, share in graph)),
    ]
    losses = {arm.score: np.median(arm.losses[: size.models], axis=0) for arm in arms}
    parts = [
        Text(
            f"One attention step learns the relaxation min_j (d_j + w_j) on {TRAINED_ON} tokens: {size.models} models "
            f"per arm, {numbers['parameters']:.0f} parameters each, same initial weights, same data, same Adam. The "
            "trained step is then applied again and again to a graph, as Bellman and Ford would."
        ),
        loss_plot(losses, "Training loss of the relaxation step"),
        Table(
            ("test", tropical.score, SOFTMAX),
            tuple(rows),
            title=f"Root mean squared error, median of {size.models} models",
        ),
        radius_plot(radius, reach),
    ]
    if sparse:
        text, certificate, numbers["bound"] = reading(single(tropical, best), layer, draw(random, 64, TESTED_ON[-1]))
        parts.insert(1, text)
        certificates.append(certificate)
    return Scene("A relaxation step, and certificates of what was learned", parts, certificates, numbers)


def trained_certificates(layer: dict[str, Any], x: np.ndarray) -> list[Certificate]:
    """Margins and limits of the best trained layer, with its weights as the witness."""
    return [
        certify(
            "tropical.margin",
            "no change of the cached keys and values within its radius moves a winner, and one just outside does",
            0.0,
            x=x,
            **layer,
        ),
        certify(
            "tropical.input_margin",
            "no corner attack on the distances and edge lengths within its certified radius moves a winner",
            0.0,
            x=x,
            **layer,
        ),
        certify(
            "tropical.maslov",
            "the smooth layer exceeds the trained one by at most log(N) / beta, for every beta",
            1e-12,
            x=x,
            beta=np.array([1.0, 10.0, 100.0]),
            **layer,
        ),
    ]


def on_graphs(random: np.random.Generator, size: Size, arms: tuple[Arm, Arm]) -> list[tuple[float, float]]:
    """Mean distance error and share of correct predecessors of each arm's models on a random graph."""
    _, lengths = nearest_graph(random, size.nodes)
    star = np.asarray(kleene_star(jnp.asarray(-lengths)))
    true = -star[0]
    reached = (true < RANGE) & (np.arange(size.nodes) > 0)
    before = np.argmin(np.where(np.eye(size.nodes, dtype=bool), np.inf, lengths + true), axis=1)
    found = []
    for arm in arms:
        solve = jax.vmap(lambda w, score=arm.score: shortest_paths(w, lengths, 0, score=score, rounds=12))
        distances, guessed = solve(jax.tree.map(lambda leaf: leaf[: size.models], arm.weights))
        error = np.abs(np.asarray(distances) - true)[:, reached].mean(-1)
        right = (np.asarray(guessed) == before)[:, reached].mean(-1)
        found.append((float(np.median(error)), float(np.median(right))))
    return found


def radius_plot(radius: np.ndarray, reach: np.ndarray) -> Plot:
    """Sorted radii of all certified winners."""
    share = np.arange(1, radius.size + 1) / radius.size
    cache, inputs = np.sort(radius.ravel()), np.sort(reach.ravel())
    text = terminal.chart(
        {"keys and values (exact)": (cache, share), "inputs (sound)": (inputs, share)},
        xlabel="radius",
        ylabel="share below",
        height=9,
    )
    return Plot(
        "How far each winner is from being overtaken",
        text,
        "radius",
        {"share": share, "cache": cache, "inputs": inputs},
        detail=True,
    )


def show_limits(random: np.random.Generator, arms: tuple[Arm, Arm]) -> Scene:
    """Averaging, how few tokens learn anything, and the time of an attention call."""
    longest = TESTED_ON[-1]
    sequences = draw(random, 64, longest)
    reach, lasting = [], []
    q, k, v = random.normal(0, 1, (3, 512, 16))
    for arm in arms:
        slopes = jax.jit(jax.vmap(jax.grad(partial(answer, arm.score, single(arm, -1)))))(sequences)
        reach.append(float((jnp.abs(slopes).sum(-1) > 0).sum(-1).mean()))
        attend = softmax_attention if arm.score == SOFTMAX else partial(maths.tropical_attention, score=arm.score)
        lasting.append(1e3 * seconds(jax.jit(attend), q, k, v))
    rows = [(f"mean of {n} tokens, error", *(number(arm.errors["average"][n]) for arm in arms)) for n in (8, longest)]
    rows += [
        (f"tokens of {longest} that get a gradient", *(f"{tokens:.1f}" for tokens in reach)),
        ("attention over 512 tokens, ms", *(number(value) for value in lasting)),
    ]
    parts = (
        Text(
            "A maximum forgets everything but its winners. The same two layers, trained to average instead, show the "
            "price; so does the clock, because no processor multiplies in this algebra as fast as in the usual one."
        ),
        Table(("where it loses", arms[0].score, SOFTMAX), tuple(rows)),
    )
    numbers = {
        "tropical_average_error": arms[0].errors["average"][longest],
        "softmax_average_error": arms[1].errors["average"][longest],
        "tokens_with_gradient": reach[0],
        "tropical_ms": lasting[0],
        "softmax_ms": lasting[1],
    }
    return Scene("Where a maximum loses", parts, numbers=numbers)


def softmax_attention(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """Causal softmax attention, the control of the clock."""
    scores = q @ k.T / q.shape[-1] ** 0.5
    return jax.nn.softmax(jnp.where(jnp.tril(jnp.ones(scores.shape, bool)), scores, -jnp.inf)) @ v


def closing(config: DemoConfig, numbers: Mapping[str, float]) -> tuple[str, str]:
    """What was seen, from the numbers."""
    n = numbers
    sparse = "bound" in n
    left = f"{n['left']:.0f} of the" if sparse else "the"
    bounded = f"; the best model errs by at most {number(n['bound'])} on any number of tokens" if sparse else ""
    return (
        f"Trained on {TRAINED_ON} tokens, the {config.options['score']} layer relaxes {TESTED_ON[-1]} with an error of "
        f"{number(n['tropical_error'])}, {against(n['tropical_error'], n['softmax_error'])} softmax attention with "
        f"{left} same {n['parameters']:.0f} parameters{' left in each' if sparse else ''}, and {n['violations']:.0f} "
        f"of its {n['winners']:.0f} winners break their certified radius{bounded}.",
        f"Asked for an average of {TESTED_ON[-1]} tokens it errs by {number(n['tropical_average_error'])}, "
        f"{against(n['tropical_average_error'], n['softmax_average_error'])} softmax, as only "
        f"{n['tokens_with_gradient']:.1f} of them get a gradient, and an attention call takes "
        f"{n['tropical_ms'] / n['softmax_ms']:.2g} times as long.",
    )


def gist(_: DemoConfig, numbers: Mapping[str, float]) -> tuple[str, str]:
    """Learned and lost, for the table of all demos."""
    n, longest = numbers, TESTED_ON[-1]
    return (
        f"minimum of {longest}: error {number(n['tropical_error'])}, softmax {number(n['softmax_error'])}",
        f"mean of {longest}: error {number(n['tropical_average_error'])}, softmax {number(n['softmax_average_error'])}",
    )


run = staged(scenes, closing, gist)
