"""A small network on badly scaled inputs, and training by macro steps, Adam and SGD from the same weights.

Task: six independent causes z make y through a hidden teacher; seen is x = R S z, with scales S that fall from 1 to
kappa^(-1/2) and a rotation R, so that the curvature of the loss spreads over about kappa. Legend: N samples, P weights,
k Hessian products to a step.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.experimental.jet import jet
from jax.flatten_util import ravel_pytree
from jaxtyping import Float

from demos.nonstandard import maths
from demos.training import Weights, follow

INPUTS = 6
HIDDEN = 8
SAMPLES = 128
PRODUCT = 2  # gradients that a Hessian product costs: 6 bilinear products against 3, see nonstandard.md
BATCH = 8  # samples of a drawn batch
LOST = 1e6  # a loss that large has diverged
RATES = 10.0 ** np.arange(-2, 4.1, 0.5)

Loss = Callable[..., Float[Array, ""]]
Schedule = Callable[[Any], Array]


class Descent(NamedTuple):
    """Where an arm ends: final weights, the loss before each step, and the last step's :class:`Look` if it had one."""

    weights: Array
    losses: Array
    last: Any = None


class Look(NamedTuple):
    """What a macro step rests on: weights before it, the space of their curvature, and its time."""

    before: Array
    space: maths.Space
    time: Array


Arm = Callable[[Loss, Array, Array, Schedule], Descent]
"""From loss(w, batch), weights, one batch for each step, and the learning rate by step."""


class Network(nn.Module):
    """One hidden layer of tanh."""

    @nn.compact
    def __call__(self, x: Float[Array, "N I"]) -> Float[Array, " N"]:
        """The answers."""
        inside = nn.tanh(nn.Dense(HIDDEN, name="into", param_dtype=jnp.float64)(x))
        return nn.Dense(1, name="out", param_dtype=jnp.float64)(inside)[:, 0]


@cache
def _shapes() -> Weights:
    return jax.eval_shape(Network().init, jax.random.key(0), jax.ShapeDtypeStruct((2, INPUTS), jnp.float64))


def unravel(w: Array) -> Weights:
    """The network's weights from one vector."""
    return ravel_pytree(jax.tree.map(lambda leaf: np.zeros(leaf.shape), _shapes()))[1](w)


def loss(w: Float[Array, " P"], x: Any, y: Any, share: Any = 1 / SAMPLES) -> Float[Array, ""]:
    """Half the squared error of the network with weights w, each sample counted with its share."""
    return jnp.sum(share * (cast("Array", Network().apply(unravel(w), x)) - y) ** 2) / 2


def initial(random: np.random.Generator) -> np.ndarray:
    """Normal weights of variance 1 / fan-in, biases 0, as one vector."""

    def fill(path: tuple[Any, ...], leaf: Any) -> np.ndarray:
        drawn = random.normal(size=leaf.shape) * leaf.shape[0] ** -0.5
        return 0 * drawn if "bias" in jax.tree_util.keystr(path) else drawn

    return np.asarray(ravel_pytree(jax.tree_util.tree_map_with_path(fill, _shapes()))[0])


def draw(random: np.random.Generator, condition: float) -> tuple[np.ndarray, np.ndarray]:
    """What is seen (N, I) and what is asked (N), of mean 0 and variance 1."""
    causes = random.normal(size=(SAMPLES, INPUTS))
    rotation = np.linalg.qr(random.normal(size=(INPUTS, INPUTS)))[0]
    signs = random.choice([-1.0, 1.0], (INPUTS, 3))  # every cause matters as much as any other
    answer = np.tanh(1.5 * INPUTS**-0.5 * causes @ signs) @ random.choice([-1.0, 1.0], 3)
    return causes * np.geomspace(1, condition**-0.5, INPUTS) @ rotation, (answer - answer.mean()) / answer.std()


def shares(random: np.random.Generator, steps: int) -> np.ndarray:
    """What each sample counts in each step (2, steps, N): all the same, and drawn batches."""
    drawn = random.multinomial(BATCH, np.full(SAMPLES, 1 / SAMPLES), steps) / BATCH
    return np.stack([np.full((steps, SAMPLES), 1 / SAMPLES), drawn])


def macro(krylov: int) -> Arm:
    """Macro steps with a look at the curvature, of ``krylov`` products, in each."""

    def run(loss: Loss, w: Array, batches: Array, rate: Schedule) -> Descent:
        size = min(krylov, w.shape[0])

        def step(state: tuple[Array, Array, Any], batch: Array) -> tuple[tuple[Array, Array, Any], Array]:
            current, taken, _ = state
            value, gradient = jax.value_and_grad(loss)(current, batch)
            space = maths.lanczos(maths.hessian_product(lambda v: loss(v, batch), current), gradient, krylov)
            look = Look(current, space, rate(taken))
            return (maths.macro_step(current, gradient, space, look.time), taken + 1, look), value

        unseen = Look(w, maths.Space(jnp.zeros((size, *w.shape)), jnp.zeros((size, size))), jnp.zeros(()))
        (after, _, last), losses = jax.lax.scan(step, (w, jnp.zeros((), int), unseen), batches)
        return Descent(after, losses, last)

    return run


def control(optimizer: Callable[[Any], optax.GradientTransformation]) -> Arm:
    """An optimizer of optax."""
    return lambda loss, w, batches, rate: Descent(*follow(loss, w, (batches,), optimizer(rate)))


CONTROLS: dict[str, Arm] = {"Adam": control(optax.adam), "SGD": control(optax.sgd)}


def bounded(value: Array) -> Array:
    """A loss that is flat from ``LOST`` on: what diverges stays there, and no number overflows."""
    return jnp.minimum(value, LOST)


def falling(rate: Any, steps: Any) -> Schedule:
    """From ``rate`` to 0 like a cosine within ``steps``, and 0 from there on."""
    return lambda step: rate * (1 + jnp.cos(jnp.pi * jnp.minimum(step / steps, 1))) / 2


FULL, DRAWN = 0, 1  # kinds of batches, see shares


@dataclass(frozen=True, slots=True)
class Trained:
    """One arm, trained by M networks at every rate R in each case C.

    Args:
        cases: kind of batches and number of steps, for each case.
        found: final weights (M, R, C, P), losses of each step's batch (M, R, C, steps) and the last look.
        errors: of the final weights on all samples (M, R, C), ``LOST`` where they diverged.
        seconds: of the processor for one step of one network, all of them side by side.
    """

    cases: tuple[tuple[int, int], ...]
    found: Descent
    errors: np.ndarray
    seconds: float

    def median(self, case: int) -> np.ndarray:
        """Error over the networks, by rate."""
        return np.median(self.errors[:, :, case], 0)

    def best(self, case: int) -> int:
        """Index of the rate with the least median."""
        return int(self.median(case).argmin())

    def least(self, case: int) -> np.ndarray:
        """Errors (M) at that rate."""
        return self.errors[:, self.best(case), case]


def train(
    arm: Arm,
    tasks: tuple[np.ndarray, np.ndarray],
    start: np.ndarray,
    share: np.ndarray,
    cases: tuple[tuple[int, int], ...],
) -> Trained:
    """Train M networks by one arm on M tasks, at all rates, in each case (kind of batches, steps)."""
    longest = max(steps for _, steps in cases)
    part = share[[kind for kind, _ in cases], :longest]
    given = (*tasks, start, RATES, part, np.array([steps for _, steps in cases]))
    run = sweep.lower(*given, arm=arm).compile()
    begun = time.process_time()
    found, errors = jax.tree.map(np.asarray, run(*given))
    taken = (time.process_time() - begun) / (longest * errors.size)
    return Trained(cases, found, errors, taken)


@partial(jax.jit, static_argnames="arm")
def sweep(
    x: Array, y: Array, start: Array, rates: Array, share: Array, steps: Array, *, arm: Arm
) -> tuple[Descent, Array]:
    """Where every network ends, and its error on all samples, see :class:`Trained`."""

    def one(x: Array, y: Array, w: Array, rate: Array, part: Array, within: Array) -> tuple[Descent, Array]:
        found = arm(lambda v, counted: bounded(loss(v, x, y, counted)), w, part, falling(rate, within))
        return found, bounded(loss(found.weights, x, y))

    every: Callable[..., tuple[Descent, Array]] = one
    for axes in ((None,) * 4 + (0, 0), (None,) * 3 + (0, None, None), (0,) * 3 + (None,) * 3):
        every = jax.vmap(every, axes)
    return every(x, y, start, rates, share, steps)


def expansion(w: np.ndarray, direction: np.ndarray, x: np.ndarray, y: np.ndarray, order: int) -> np.ndarray:
    """Derivatives 0 to ``order`` of the loss along a direction, by Taylor-mode automatic differentiation."""
    steps = [direction] + [np.zeros_like(direction)] * (order - 1)
    value, found = jax.jit(lambda: jet(lambda v: loss(v, x, y, 1 / len(y)), (w,), (steps,)))()
    return np.array([value, *found], float)


def parameters(trained: Trained) -> int:
    """Numbers that each of its networks learned."""
    return trained.found.weights.shape[-1]


@dataclass(frozen=True, slots=True)
class Learned:
    """Networks trained by macro steps, Adam and SGD from the same weights, and the tasks they were trained on."""

    steps: int
    work: int
    x: np.ndarray
    y: np.ndarray
    arms: dict[str, Trained]

    @classmethod
    def learn(cls, random: np.random.Generator, networks: int, condition: float, krylov: int, steps: int) -> Learned:
        drawn = [draw(random, condition) for _ in range(networks)]
        x, y = (np.stack(part) for part in zip(*drawn, strict=True))
        start = np.stack([initial(random) for _ in range(networks)])
        work = steps * (1 + PRODUCT * krylov)
        share = shares(random, work)
        own, equal = ((FULL, steps), (DRAWN, steps)), ((FULL, steps), (FULL, work), (DRAWN, work))
        arms = {"macro": train(macro(krylov), (x, y), start, share, own)}
        arms |= {name: train(arm, (x, y), start, share, equal) for name, arm in CONTROLS.items()}
        return cls(steps, work, x, y, arms)

    def case(self, name: str, kind: int, equal_work: bool) -> int:
        """Which case of an arm that is; for macro steps, equal work is equal steps."""
        return self.arms[name].cases.index((kind, self.work if equal_work and name != "macro" else self.steps))

    def loss(self, name: str, kind: int = FULL, equal_work: bool = True) -> float:
        """Median loss of an arm at its best rate."""
        return float(np.median(self.arms[name].least(self.case(name, kind, equal_work))))

    def rate(self, name: str, kind: int = FULL) -> float:
        """The best rate at equal work."""
        return float(RATES[self.arms[name].best(self.case(name, kind, True))])

    @property
    def last(self) -> dict[str, np.ndarray]:
        """The last step of the first network that macro steps trained on full batches, as the checks take it."""
        arm, case = self.arms["macro"], self.case("macro", FULL, True)
        (before, (basis, projected), time), after = jax.tree.map(
            lambda leaf: np.asarray(leaf[0, arm.best(case), case]), (arm.found.last, arm.found.weights)
        )
        return {"w": before, "basis": basis, "projected": projected, "time": time, "after": after}
