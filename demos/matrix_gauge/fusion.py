"""Many steps as one: conserved quantities on the way, series of commutators, Magnus steps."""

from __future__ import annotations

from functools import reduce

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from demos.certificate import Certificate, certify
from demos.matrix_gauge import checks, lie
from demos.result import Table

STEPS = 256  # of the path whose quantity is conserved
PAIRS = ("turns of a plane (commute)", "triangular 3 x 3 (Heisenberg)", "turns of space SO(3)", "symplectic Sp(4)")
SPACE = 2  # the pair whose orders are certified


def conservation(random: np.random.Generator) -> tuple[Certificate, float]:
    """A path of random steps that keep a quadratic form; and by how much plain steps lose it."""
    raw = random.normal(size=(STEPS, 4, 4))
    form = checks.expm(0.5 * (raw[0] + raw[0].T))
    generators = 0.2 * np.linalg.solve(form, raw - np.swapaxes(raw, -1, -2))
    start = random.normal(size=4)
    path = np.asarray(jax.jit(cayley_path)(generators, start))
    euler = reduce(lambda x, generator: x + generator @ x, generators, start)
    certificate = certify(
        "matrix-gauge.conserved",
        f"{STEPS} Cayley steps with FA skew keep x^T F x",
        1e-12,
        generators=generators,
        start=start,
        form=form,
        path=path,
    )
    return certificate, abs(float(euler @ form @ euler) / float(start @ form @ start) - 1)


def cayley_path(generators: Float[Array, "m n n"], start: Float[Array, " n"]) -> Float[Array, "m n"]:
    """Where the Cayley maps carry a point, one after the other."""
    steps = lie.cayley(generators)

    def move(x: Array, step: Array) -> tuple[Array, Array]:
        x = step @ x
        return x, x

    return jax.lax.scan(move, start, steps)[1]


def fusion(random: np.random.Generator) -> tuple[Certificate, Table]:
    """Error of log(e^A e^B) by series of 1 to 4 letters, for matrices that commute more and less."""
    drawn = np.asarray(jax.jit(pairs)(random.normal(size=(2, 4, 4))))
    steps = np.array([1 / 8, 1 / 64, 1 / 128])
    fused = np.asarray(jax.jit(all_orders)(steps[:, None, None, None, None] * drawn))
    errors = np.empty(fused.shape[:3])  # order, step, pair
    for at, h in enumerate(steps):
        for pair, (a, b) in enumerate(h * drawn):
            exact = checks.logarithm(checks.expm(a) @ checks.expm(b))
            errors[:, at, pair] = np.abs(fused[:, at, pair] - exact).max((-2, -1))
    rows = [
        (name, *(f"{error:.0e}" if error > 1e-14 else "0" for error in errors[:, 0, pair]))
        for pair, name in enumerate(PAIRS)
    ]
    a, b = drawn[SPACE]
    certificate = certify(
        "matrix-gauge.fusion",
        "series of commutators of at most k letters err by the power k + 1 of the step, k = 1 to 4",
        0.15,
        a=a,
        b=b,
        steps=steps[1:],
        errors=errors[:, 1:, SPACE],
    )
    title = "Two steps of 1/8 as one: error by letters"
    return certificate, Table(("matrices", "1", "2", "3", "4"), tuple(rows), title=title)


def pairs(raw: Float[Array, "2 4 4"]) -> Float[Array, "p 2 4 4"]:
    """Two matrices of each kind of ``PAIRS``, of which the first lie in the corner of the 4 x 4 matrices."""
    raw = raw / jnp.linalg.norm(raw, 2, (-2, -1), keepdims=True)
    plane, space = (jnp.diag((jnp.arange(4) < n).astype(raw.dtype)) for n in (2, 3))
    skew = 2 * lie.skew(raw)
    heisenberg = jnp.triu(space @ raw @ space, 1)
    return jnp.stack((plane @ skew @ plane, heisenberg, space @ skew @ space, lie.hamiltonian(raw)))


def all_orders(pairs: Float[Array, "h p 2 n n"]) -> Float[Array, "4 h p n n"]:
    """Series of 1 to 4 letters of all pairs."""
    a, b = pairs[:, :, 0], pairs[:, :, 1]
    return jnp.stack([lie.baker_campbell_hausdorff(a, b, order) for order in (1, 2, 3, 4)])


def magnus_steps(random: np.random.Generator) -> tuple[Certificate, Table]:
    """Error of a rotation whose axis moves, by the number of Magnus steps of orders 2 and 4."""
    constant, linear = (0.7 * (each - each.T) for each in random.normal(size=(2, 3, 3)))
    counts = np.array([2, 4, 8, 16])
    start = np.concatenate([np.arange(count) / count for count in counts])[:, None, None]
    turns = np.asarray(jax.jit(magnus_turns)(constant, linear, start, np.repeat(1 / counts, counts)[:, None, None]))
    runs = [np.split(each, np.cumsum(counts)[:-1]) for each in turns]
    flows = np.array([[reduce(lambda y, turn: turn @ y, run) for run in each] for each in runs])
    exact = checks.flow(constant, linear, 512, 4)
    rows = [
        (f"Magnus, order {order}", *(f"{checks.far(found, exact):.0e}" for found in row))
        for order, row in zip((2, 4), flows, strict=True)
    ]
    certificate = certify(
        "matrix-gauge.magnus",
        "Magnus steps of order p err by at most the power p of the step, and are rotations",
        1.0,
        constant=constant,
        linear=linear,
        flows=flows,
        steps=counts,
    )
    title = "A moving axis: error by steps"
    return certificate, Table(("", *(str(count) for count in counts)), tuple(rows), title=title)


def magnus_turns(
    constant: Float[Array, "3 3"], linear: Float[Array, "3 3"], start: Float[Array, "m 1 1"], h: Float[Array, "m 1 1"]
) -> Float[Array, "2 m 3 3"]:
    """The rotations by which Magnus steps of orders 2 and 4 move dY/dt = (A + tB) Y."""
    first, second = (constant + t * linear for t in lie.gauss_points(start, h))
    k = jnp.stack([lie.magnus_step(first, second, h, order) for order in (2, 4)])
    return lie.rodrigues(jnp.stack((k[..., 2, 1], k[..., 0, 2], k[..., 1, 0]), -1))
