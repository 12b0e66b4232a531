"""The reversible demo: couplings and orbits, the laws, a pendulum learned without memory, and what that costs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from demos import terminal
from demos.certificate import Certificate, certify
from demos.result import DemoConfig, Plot, Table, Text
from demos.reversible import ledger, maths, memory
from demos.reversible.limits import PRECISIONS, float_inverse, short_orbit
from demos.reversible.model import (
    FLOW_TIME,
    Residual,
    Weights,
    couplings,
    draw,
    energy,
    flow,
    half,
    initial,
    initial_control,
    pendulum,
    rollout,
    train,
)
from demos.runtime import seconds
from demos.stage import Scene, laws, loss_plot, parameters, staged
from demos.words import against, number

ECCENTRICITY = 0.5
STEPS_PER_ORBIT = 100
BITS = 32
rebuilt = partial(flow, backward="rebuilt")
stored = partial(flow, backward="stored")
residual: Callable[[Weights, Any], Any] = Residual().apply


@dataclass(frozen=True, slots=True)
class Size:
    """How much is computed: training steps, orbits of Kepler, passes of a rollout, depths of the memory table."""

    steps: int
    orbits: int
    passes: int
    depths: tuple[int, ...]


QUICK = Size(steps=1500, orbits=20, passes=1000, depths=(4, 64))
FULL = Size(steps=6000, orbits=100, passes=10_000, depths=(4, 8, 16, 32, 64, 128))


@dataclass(frozen=True, slots=True)
class Trained:
    """The three trained models and their losses."""

    rebuilt: Weights
    stored: Weights
    residual: Weights
    losses: dict[str, np.ndarray]


def scenes(config: DemoConfig, random: np.random.Generator) -> Iterator[Scene]:
    """The four acts of the reversible demo."""
    size = QUICK if config.quick else FULL
    yield show_object(random, size)
    yield show_laws(random)
    models = learn(random, config.iterations(size.steps), bool(config.options["rev_cayley"]))
    yield show_learning(random, size, models)
    yield show_limits(random, models)


def show_object(random: np.random.Generator, size: Size) -> Scene:
    """Kepler's orbit by a coupling and by a step that is none, and the ledger of a decaying momentum."""
    step, steps = 2 * np.pi / STEPS_PER_ORBIT, STEPS_PER_ORBIT * size.orbits
    q, p = (np.asarray(part) for part in maths.kepler_start(ECCENTRICITY))
    paths = kepler_paths(q, p, step, steps)
    drift, worst = energy_plot(paths)
    frog, runge = worst["leapfrog"], worst["Runge-Kutta"]
    state = random.integers(-(2**20), 2**20, 64)
    cycles, (numerator, denominator) = 200, (7, 8)
    bits, changed = ledger.audit(state.tolist(), numerator, denominator, cycles)
    need = ledger.forgotten(len(state), numerator, denominator, cycles)
    rule = {"state": state, "numerator": numerator, "denominator": denominator, "steps": cycles}
    parts = (
        Text(
            "A coupling y1 = x1 + F(x2), y2 = x2 + G(y1) is undone by subtracting the same F and G, whatever they are. "
            "Nature's own coupling is kick and drift: the leapfrog keeps Kepler's ellipse where Euler's step, which is "
            "no coupling, lets it go."
        ),
        orbit_plot(paths),
        drift,
        Text(
            f"The leapfrog's energy errs by {number(frog[0])} of itself on the first turn and {number(frog[-1])} on "
            f"turn {size.orbits}. Runge and Kutta's method of order four is no coupling either: it errs by "
            f"{number(runge[0])} on the first turn, and on the last {against(runge[-1], runge[0])} that."
        ),
        Text(
            f"A step that cannot be undone forgets bits. Decaying {len(state)} integer momenta by {numerator}/"
            f"{denominator}, {cycles} times, must forget {need:.1f} bits; the exact ledger holds {bits}, and with it "
            f"the whole cycle runs back with {changed} numbers changed."
        ),
    )
    certificates = [
        certify("reversible.audit", "with the ledger, decays run backwards to the same bits", 0.0, **rule),
        certify(
            "reversible.ledger",
            "the ledger is as long as information theory demands, to one part in a hundred",
            1e-2,
            bits=bits,
            **rule,
        ),
        certify(
            "reversible.kepler_return",
            "the leapfrog, run back with the step negated, returns to where it started",
            1e-9,
            q=q,
            p=p,
            step=step,
            steps=steps,
        ),
        certify(
            "reversible.kepler_energy",
            "the leapfrog's energy error does not grow from the first half of the orbits to the second",
            0.05,
            q=q,
            p=p,
            step=step,
            steps=steps,
        ),
    ]
    return Scene("Maps that can be run backwards", parts, certificates)


Path = tuple[np.ndarray, np.ndarray]
"""Positions and momenta after each step."""

METHODS = {"leapfrog": maths.leapfrog, "Euler": maths.explicit_euler, "Runge-Kutta": maths.runge_kutta}


def kepler_paths(q: np.ndarray, p: np.ndarray, step: float, steps: int) -> dict[str, Path]:
    """Kepler's orbit by each method, from the same start."""
    run = jax.jit(maths.rollout, static_argnums=(0, 1, 4))
    found = {}
    for name, method in METHODS.items():
        positions, momenta = run(method, maths.kepler_force, (q, p), step, steps)
        found[name] = np.asarray(positions), np.asarray(momenta)
    return found


def orbit_plot(paths: Mapping[str, Path]) -> Plot:
    """The orbit by leapfrog and by explicit Euler, side by side."""
    frog, euler = (paths[name][0][: 5 * STEPS_PER_ORBIT] for name in ("leapfrog", "Euler"))
    across, upward = terminal.Axis(-3.2, 1.4), terminal.Axis(-1.6, 1.6)
    left, right = (
        terminal.dots(path[:, 0], path[:, 1], across=across, upward=upward, width=36, height=13)
        for path in (frog, euler)
    )
    text = terminal.beside(("leapfrog (a coupling)", left), ("Euler (none)", right))
    title = f"Kepler's orbit, eccentricity {ECCENTRICITY}, {STEPS_PER_ORBIT} steps to a period"
    return Plot(title, text, "orbits", {"leapfrog": frog, "euler": euler})


def energy_plot(paths: Mapping[str, Path]) -> tuple[Plot, dict[str, np.ndarray]]:
    """Relative energy error along the orbit, and its largest value on each turn, by method."""
    start = maths.kepler_energy(*maths.kepler_start(ECCENTRICITY))
    energies = {name: maths.kepler_energy(jnp.asarray(q), jnp.asarray(p)) for name, (q, p) in paths.items()}
    errors = {name: np.abs(np.asarray(found / start - 1)) for name, found in energies.items()}
    worst = {name: error.reshape(-1, STEPS_PER_ORBIT).max(1) for name, error in errors.items()}
    turns = np.arange(len(worst["leapfrog"])) + 1
    text = terminal.chart({name: (turns, y) for name, y in worst.items()}, xlabel="turn", ylabel="error", logy=True)
    return Plot("Energy drift of Kepler's orbit, worst of each turn", text, "kepler", {"turn": turns, **errors}), worst


def show_laws(random: np.random.Generator) -> Scene:
    """Cayley, symplectic form, generating function."""
    u, v = random.normal(0, 1, (2, 8))
    states = random.normal(0, 0.2, (4, 16, 2)) + 1.0
    q, p = states[0], states[1]
    matrix = np.asarray(jax.jit(maths.cayley_plane)(u, v))
    certificates = [
        certify(
            "reversible.cayley",
            "the closed form is Cayley's transform: orthogonal, determinant 1, no linear system solved",
            1e-12,
            u=u,
            v=v,
            matrix=matrix,
        ),
        certify("reversible.symplectic", "the leapfrog preserves the symplectic form", 1e-12, q=q, p=p, step=0.1),
    ]
    table = laws(
        dict(zip(("Cayley transform in closed form", "leapfrog is symplectic"), certificates, strict=True)),
        {"generating function = symplectic Euler": (generating_error(q[0], p[0]), 1e-12)},
        {"Euler is symplectic": (euler_defect(q[0], p[0]), 1e-3)},
    )
    return Scene("What must hold, checked in float64", (table,), certificates)


def euler_defect(q: np.ndarray, p: np.ndarray) -> float:
    """By how much an explicit Euler step changes the symplectic form."""
    step = jax.jit(partial(maths.symplectic_error, lambda s: maths.explicit_euler(maths.kepler_force, s, 0.1)))
    return float(step((q, p)))


def generating_error(q: np.ndarray, p: np.ndarray) -> float:
    """Difference between S(q, P) = q.P + h H(q, P) and the symplectic Euler step it generates."""

    def generating(q: jax.Array, new: jax.Array) -> jax.Array:
        return q @ new + 0.1 * maths.kepler_energy(q, new)

    made = jax.jit(partial(maths.generated_step, generating))((q, p))
    direct = maths.symplectic_euler(maths.kepler_force, (jnp.asarray(q), jnp.asarray(p)), 0.1)
    return float(max(jnp.abs(a - b).max() for a, b in zip(made, direct, strict=True)))


def learn(random: np.random.Generator, steps: int, rev_cayley: bool) -> Trained:
    """Train the stack twice from the same weights on the same data, rebuilding and storing, and the control."""
    free, control = initial(random, rev_cayley), initial_control(random)
    data = draw(random, steps, 64)
    wanted = pendulum(data)
    found = {}
    for name, model, weights in (
        ("rebuilt", rebuilt, free),
        ("stored", stored, free),
        ("residual", residual, control),
    ):
        found[name] = train(weights, data, wanted, model=model)
    losses = {name: np.asarray(values) for name, (_, values) in found.items()}
    return Trained(found["rebuilt"][0], found["stored"][0], found["residual"][0], losses)


def witness(free: Weights) -> dict[str, np.ndarray]:
    """The trained couplings as the checks take them."""
    f, g = couplings(free)
    layers = len(f["bias"])
    parts = {f"{name}_{key}": leaf for name, weights in (("f", f), ("g", g)) for key, leaf in weights.items()}
    return {key: np.broadcast_to(leaf, (layers, *leaf.shape[1:])).copy() for key, leaf in parts.items()}


def show_learning(random: np.random.Generator, size: Size, models: Trained) -> Scene:
    """Accuracy, long rollouts, memory by depth, and the certificates of the trained stack."""
    test = draw(random, 256) * 0.8
    truth = pendulum(test)
    table, paths = [], {}
    numbers: dict[str, float] = {}
    for name, weights, model in (("reversible", models.rebuilt, rebuilt), ("residual", models.residual, residual)):
        error = float(np.sqrt(((np.asarray(model(weights, test)) - truth) ** 2).mean()))
        path = np.asarray(rollout(weights, test, model=model, steps=size.passes))
        drift = np.abs(energy(path) - energy(test))
        paths[name] = np.median(drift, axis=1)
        numbers |= {f"{name}_error": error, f"{name}_drift": float(paths[name][-1])}
        numbers[f"{name}_parameters"] = float(parameters(weights))
        table.append((name, str(parameters(weights)), number(error), number(paths[name][9]), number(paths[name][-1])))
    numbers["loss_difference"] = float(np.abs(models.losses["rebuilt"] - models.losses["stored"]).max())
    depth, taken = memory_table(size)
    numbers |= {"deepest": float(depth[-1])} | {f"{name}_bytes": float(bytes[-1]) for name, bytes in taken.items()}
    kept = {"reversible": models.losses["rebuilt"], "residual": models.losses["residual"]}
    parts = (
        Text(
            f"The stack learns the pendulum's flow over a time of {FLOW_TIME} and is then applied {size.passes} times. "
            f"Its gradient rebuilds activations; a twin stores them: their losses differ by at most "
            f"{numbers['loss_difference']:.1e} in {len(models.losses['stored'])} steps. The residual control has as "
            "many parameters and may shrink or stretch areas as it likes."
        ),
        Table(
            ("model", "parameters", "one step error", "energy drift at 10", f"at {size.passes}"),
            tuple(table),
            title="Root mean squared error, and median energy drift by number of passes",
        ),
        drift_plot(paths),
        memory_plot(depth, taken),
        loss_plot(kept, detail=True),
    )
    certificates = trained_certificates(random, models.rebuilt, depth, taken)
    return Scene("A pendulum, learned without remembering", parts, certificates, numbers)


def memory_table(size: Size) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Working bytes of a compiled gradient by depth and method."""
    taken = {
        method: np.array([memory.working_bytes(memory.compiled(method, depth)) for depth in size.depths])
        for method in memory.METHODS
    }
    return np.array(size.depths), taken


def trained_certificates(
    random: np.random.Generator, free: Weights, depth: np.ndarray, taken: dict[str, np.ndarray]
) -> list[Certificate]:
    """Inversion, volume and gradient of the trained stack, and the memory table, each with its witness."""
    layers = witness(free)
    state = draw(random, 16)
    wanted = pendulum(state)
    grid = np.round(state * 2.0**BITS).astype(np.int64)
    rounds = 10
    claimed = jax.jit(jax.grad(lambda w: jnp.mean((through(w, state) - wanted) ** 2)))(couplings(free))
    flat = np.concatenate([np.ravel(claimed[i][name]) for i in (0, 1) for name in ("into", "bias", "out")])
    certificates = [
        certify(
            "reversible.inverse",
            f"{rounds} passes of the trained stack are undone up to rounding",
            1e-9,
            state=state,
            rounds=rounds,
            **layers,
        ),
        certify(
            "reversible.exact",
            f"on the grid 2^-{BITS}, {rounds} passes of the trained stack are undone to the same bits",
            0.0,
            state=grid,
            recovered=recovered(free, grid, rounds),
            bits=BITS,
            rounds=rounds,
            **layers,
        ),
        certify(
            "reversible.log_det",
            "the trained stack's Jacobian has log |det| = 0 after every layer",
            1e-10,
            state=state,
            **layers,
        ),
        certify(
            "reversible.gradient",
            "the gradient that rebuilds activations equals the one that stores them",
            1e-9,
            state=state,
            wanted=wanted,
            claimed=flat,
            **layers,
        ),
        certify(
            "reversible.memory",
            "working bytes of the rebuilt gradient do not grow with depth",
            1e-3,
            depth=depth,
            rebuilt=taken["rebuilt"],
            stored=taken["stored"],
        ),
    ]
    if "mix" in free:
        mix = np.asarray(free["mix"])
        turn = np.stack([np.asarray(maths.cayley(jnp.array([[0.0, -a], [a, 0.0]]))) for a in mix])
        statement = "each learned mixing of the streams is Cayley's rotation, made of three shears"
        certificates.append(certify("reversible.lifting", statement, 1e-12, mix=mix, rotations=turn))
    return certificates


def through(layers: Any, state: Any) -> jax.Array:
    """The memory-free stack as a function of its couplings."""
    return jnp.concatenate(maths.stack(half, half, layers, state[:, :1], state[:, 1:]), -1)


def recovered(free: Weights, grid: np.ndarray, rounds: int) -> np.ndarray:
    """Integers after so many compiled exact passes forth and back."""
    layers = couplings(free)

    @jax.jit
    def pass_forth(first: jax.Array, second: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jax.lax.scan(
            lambda pair, w: (maths.exact_couple(half, half, w, *pair, BITS), None), (first, second), layers
        )[0]

    @jax.jit
    def pass_back(first: jax.Array, second: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jax.lax.scan(
            lambda pair, w: (maths.exact_uncouple(half, half, w, *pair, BITS), None),
            (first, second),
            layers,
            reverse=True,
        )[0]

    pair = jnp.asarray(grid[:, :1]), jnp.asarray(grid[:, 1:])
    for step in (pass_forth, pass_back):
        for _ in range(rounds):
            pair = step(*pair)
    return np.concatenate(pair, -1)


def drift_plot(paths: dict[str, np.ndarray]) -> Plot:
    """Median energy drift by number of passes."""
    passes = np.unique(np.geomspace(1, len(paths["residual"]), 60).astype(int))
    series = {name: (passes, path[passes - 1]) for name, path in paths.items()}
    text = terminal.chart(series, xlabel="passes", ylabel="drift", logx=True, logy=True, height=11)
    arrays = {name: y for name, (_, y) in series.items()}
    return Plot("Energy drift of the learned pendulum", text, "drift", {"passes": passes, **arrays})


def memory_plot(depth: np.ndarray, taken: dict[str, np.ndarray]) -> Plot:
    """Working bytes at the deepest stack as bars, and all depths for the figure."""
    text = terminal.bars({f"{name:<12}": bytes[-1] / 1024 for name, bytes in taken.items()}, unit="KiB", width=50)
    growth = ", ".join(f"{name} {(bytes[-1] - bytes[0]) / (depth[-1] - depth[0]):.0f}" for name, bytes in taken.items())
    return Plot(
        f"Working memory of a gradient by depth, here {depth[-1]} layers (as compiled)",
        f"{text}\nbytes for each further layer: {growth}",
        "memory",
        {"depth": depth, **taken},
    )


def show_limits(random: np.random.Generator, models: Trained) -> Scene:
    """Time of the rebuilt gradient, inversion in low precision, and accuracy against Runge and Kutta."""
    depth = 64  # among the depths of the memory table, hence compiled already
    first, second = random.normal(0, 1, (2, memory.BATCH, memory.WIDTH))
    lasting = {
        name: 1e3 * seconds(memory.compiled(name, depth), memory.weights(depth), first, second, repeats=20)
        for name in memory.METHODS
    }
    drift = {name: float_inverse(random, models.rebuilt, kind) for name, kind in PRECISIONS.items()}
    frog, runge = short_orbit(ECCENTRICITY, STEPS_PER_ORBIT)
    rows = [(f"gradient through {depth} layers, {name}", f"{value:.3g} ms") for name, value in lasting.items()]
    rows += [(f"20 passes undone in {name}, error", number(value)) for name, value in drift.items()]
    rows += [
        ("position after one orbit, leapfrog, error", number(frog)),
        ("the same by Runge and Kutta, irreversible", number(runge)),
    ]
    parts = (
        Text(
            "Rebuilding evaluates every layer twice, rounding is undone only on the exact grid, and keeping the energy "
            "is not the same as being right: over one orbit a method of higher order is nearer, and cannot be undone."
        ),
        Table(("where it loses", "measured"), tuple(rows)),
    )
    numbers = {
        "rebuilt_ms": lasting["rebuilt"],
        "stored_ms": lasting["stored"],
        "float32_error": drift["float32"],
        "leapfrog_error": frog,
        "runge_kutta_error": runge,
    }
    return Scene("What reversibility costs", parts, numbers=numbers)


def closing(_: DemoConfig, numbers: Mapping[str, float]) -> tuple[str, str]:
    """What was seen, from the numbers."""
    n = numbers
    return (
        f"Through {n['deepest']:.0f} layers the gradient works in {n['rebuilt_bytes'] / 1024:.0f} KiB instead of "
        f"{n['stored_bytes'] / 1024:.0f} with the losses of both equal to {n['loss_difference']:.0e}, and the learned "
        f"pendulum, which preserves area by construction, drifts in energy by {number(n['reversible_drift'])}, "
        f"{against(n['reversible_drift'], n['residual_drift'])} the residual control.",
        f"Its gradient takes {n['rebuilt_ms'] / n['stored_ms']:.2g} times as long as a stored one, float32 undoes 20 "
        f"passes only to {n['float32_error']:.0e}, and over one orbit the leapfrog errs "
        f"{against(n['leapfrog_error'], n['runge_kutta_error'])} Runge and Kutta.",
    )


def gist(_: DemoConfig, numbers: Mapping[str, float]) -> tuple[str, str]:
    """Learned and lost, for the table of all demos."""
    n = numbers
    return (
        f"gradient in {n['rebuilt_bytes'] / 1024:.0f} KiB, stored in {n['stored_bytes'] / 1024:.0f}",
        f"one orbit: leapfrog errs {number(n['leapfrog_error'])}, Runge-Kutta {number(n['runge_kutta_error'])}",
    )


run = staged(scenes, closing, gist)
