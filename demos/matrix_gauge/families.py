"""Five families of matrices with what their exponentials keep, and the map of what is left around a square."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from demos import terminal
from demos.certificate import Certificate, certify
from demos.matrix_gauge import checks, lie
from demos.result import Plot, Table

AXES = {"so3": np.eye(3)[:2], "u1": np.eye(3)[[2, 2]]}
"""Axes of the two turns whose square is drawn: perpendicular in space, one and the same in a plane."""

NAMES = {"so3": "turns of space", "u1": "turns of a plane"}
TIME = 2.5  # of the Markov chain
SHADES = "·░▒▓█"  # of what is left around a square, 45 degrees each


def kept(random: np.random.Generator) -> tuple[list[Certificate], Table]:
    """Certificates of the families, and by how much exponential, Cayley map and plain step break what they keep."""
    raw = random.normal(size=(4, 4))
    planes, angles = np.array([(0, 1), (1, 2), (0, 3), (2, 3)]), random.uniform(-np.pi, np.pi, 4)
    rates = random.exponential(size=(4, 4))
    made = {name: tuple(map(np.asarray, each)) for name, each in jax.jit(families)(raw, rates).items()}
    certificates = [
        certify(
            "matrix-gauge.rotation",
            "the exponential and the Cayley map of a skew matrix are rotations",
            1e-13,
            **maps(made["skew"]),
        ),
        certify(
            "matrix-gauge.planes",
            "rotations of coordinate planes (Givens) multiply to a rotation",
            1e-13,
            planes=planes,
            angles=angles,
            product=np.asarray(jax.jit(partial(lie.givens, planes, n=4))(angles)),
        ),
        certify(
            "matrix-gauge.symplectic",
            "the exponential and the Cayley map of a Hamiltonian matrix keep areas (position times momentum)",
            1e-13,
            **maps(made["Hamiltonian"]),
        ),
        certify(
            "matrix-gauge.positive",
            "the exponential of a symmetric matrix is symmetric and positive definite",
            1e-12,
            generator=made["symmetric"][0],
            exponential=made["symmetric"][1],
        ),
        certify(
            "matrix-gauge.nilpotent",
            "the exponential of a strictly triangular matrix is a finite sum, and so is its logarithm",
            1e-11,
            generator=made["triangular"][0],
            exponential=made["triangular"][1],
        ),
    ]
    return certificates, kept_table(made)


def families(raw: Float[Array, "4 4"], rates: Float[Array, "4 4"]) -> dict[str, tuple[Array, ...]]:
    """Generator, exponential, Cayley map and plain step of one matrix of each family."""
    off = rates - jnp.diag(jnp.diag(rates))
    chain = TIME * (off - jnp.diag(off.sum(-1)))
    group = jnp.stack((lie.skew(raw), lie.hamiltonian(raw)))
    moved = jax.scipy.linalg.expm(jnp.concatenate((group, chain[None])))
    symmetric, triangular = raw + raw.T, jnp.triu(raw, 1)
    kinds = {
        "skew": (group[0], moved[0]),
        "Hamiltonian": (group[1], moved[1]),
        "symmetric": (symmetric, lie.symmetric_exponential(symmetric)),
        "triangular": (triangular, lie.nilpotent_exponential(triangular)),
        "rates": (chain, moved[2]),
    }
    generators = jnp.stack([generator for generator, _ in kinds.values()])
    rational = lie.cayley(generators)
    return {
        name: (generator, exponential, rational[index], jnp.eye(4) + generator)
        for index, (name, (generator, exponential)) in enumerate(kinds.items())
    }


def maps(made: tuple[np.ndarray, ...]) -> dict[str, np.ndarray]:
    """A generator and its two maps as the checks take them."""
    return dict(zip(("generator", "exponential", "cayleys"), made, strict=False))


def broken_by(kind: str, x: np.ndarray) -> float:
    """By how much a matrix breaks what its family keeps."""
    if kind == "skew":
        return checks.far(x.T @ x, np.eye(4))
    if kind == "Hamiltonian":
        form = lie.symplectic_form(4)
        return checks.far(x.T @ form @ x, form) / checks.far(x) ** 2
    if kind == "symmetric":
        return max(0.0, -float(np.linalg.eigvalsh(x).min()))
    if kind == "triangular":
        return abs(float(np.linalg.det(x)) - 1)
    return max(checks.far(x.sum(-1), 1.0), -float(x.min()))


def kept_table(made: Mapping[str, tuple[np.ndarray, ...]]) -> Table:
    """What each family keeps, and by how much the three maps break it."""
    said = {
        "skew": "rotations SO(4)",
        "Hamiltonian": "symplectic Sp(4)",
        "symmetric": "positive SPD(4)",
        "triangular": "nilpotent",
        "rates": "Markov chain",
    }
    kept = {"skew": "lengths", "Hamiltonian": "areas", "symmetric": "sign", "triangular": "volume"}
    rows = [
        (said[kind], kind, kept.get(kind, "probability"), *(f"{broken_by(kind, x):.0e}" for x in made[kind][1:]))
        for kind in said
    ]
    return Table(("family", "A", "kept", "e^A", "Cayley", "1 + A"), tuple(rows), title="By how much it is not kept")


def holonomy_map(group: str) -> tuple[Plot, Certificate, float]:
    """What is left of a b a^-1 b^-1 by the angles of a and b, beside what the commutator says; the largest turn."""
    angles, axes = np.linspace(-np.pi, np.pi, 33), AXES[group]
    chord = np.asarray(jax.jit(square_map)(angles, axes))
    degrees = np.degrees(2 * np.arcsin(np.minimum(chord / 8**0.5, 1)))
    first = np.linalg.norm(np.cross(*axes)) * np.abs(np.degrees(angles)[:, None] * angles)
    certificate = certify(
        "matrix-gauge.holonomy",
        f"around every square of {NAMES[group]} exactly the turn of the formula is left",
        1e-13,
        angles=angles,
        axes=axes,
        chord=chord,
    )
    panels = [("left around the square", shaded(degrees)), ("by the commutator [A, B] alone", shaded(first))]
    foot = "a across, b upwards, -180 to 180 degrees; left: · 0, ░ 45, ▒ 90, ▓ 135, █ 180"
    arrays = {"angles": np.degrees(angles), "left": degrees, "commutator": first}
    plot = Plot(f"Holonomy of {NAMES[group]}", terminal.beside(*panels) + "\n" + foot, "holonomy", arrays)
    return plot, certificate, float(degrees.max())


def square_map(angles: Float[Array, " n"], axes: Float[Array, "2 3"]) -> Float[Array, "n n"]:
    """Distance of a b a^-1 b^-1 from 1 for turns about two axes."""
    a, b = (lie.rodrigues(angles[:, None] * axis) for axis in axes)
    around = a[:, None] @ b[None] @ a.mT[:, None] @ b.mT[None]
    return jnp.linalg.norm(around - jnp.eye(3), axis=(-2, -1))


def shaded(degrees: np.ndarray) -> list[str]:
    """Every second row of a map, the last one on top."""
    level = np.round(np.minimum(degrees, 180) / 45).astype(int).T
    return ["".join(SHADES[cell] for cell in row) for row in level[::-2]]
