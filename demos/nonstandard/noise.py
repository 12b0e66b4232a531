"""Walkers on a tilted quadratic: the Ornstein-Uhlenbeck process by macro steps, and by Euler's."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from demos import terminal
from demos.certificate import Certificate, certify
from demos.nonstandard import maths
from demos.result import Plot

TEMPERATURE = 1.0
WALK, PACE = 40, 0.2  # steps of the walkers, time of a step
AXES = np.array([[0.8, -0.6], [0.6, 0.8]])  # along and across their valley


@dataclass(frozen=True, slots=True)
class Walkers:
    """Where walkers from 0 end on a tilted quadratic, by macro steps and by Euler's."""

    matrix: np.ndarray
    macro: np.ndarray
    euler: np.ndarray

    @classmethod
    def go(cls, random: np.random.Generator, count: int) -> Walkers:
        matrix = AXES * np.array([1.0, 9.0]) @ AXES.T
        macro, euler = walk(matrix, random.normal(size=(WALK, count, 2)), np.float64(PACE))
        return cls(matrix, np.asarray(macro), np.asarray(euler))

    def width(self, places: np.ndarray) -> float:
        """Standard deviation across the valley, over that of the process."""
        return float(np.std(places @ AXES[:, 1]) / np.sqrt(TEMPERATURE / 9.0))

    def laws(self) -> dict[str, Certificate]:
        """The noise of a step, and the cloud."""
        times = np.array([0.01, PACE, 1.0, 30.0])
        last = np.zeros((WALK, len(self.macro), 2))
        last[-1, :2] = np.eye(2)  # the first two walkers get the unit vectors in the last step, the others nothing
        roots = [np.asarray(walk(self.matrix, last, time)[0][:2]) for time in times]
        return {
            "noise: Lyapunov's covariance, any time": certify(
                "nonstandard.stationary",
                "the noise of a macro step keeps the solution of H C + C H = 2 tau, whatever its time",
                1e-12,
                matrix=self.matrix,
                temperature=TEMPERATURE,
                times=times,
                noises=np.array([each.T @ each for each in roots]),
            ),
            "walkers spread as Lyapunov's equation says": certify(
                "nonstandard.cloud",
                f"{len(self.macro)} walkers by macro steps have mean and covariance of the process, in deviations",
                5.0,
                matrix=self.matrix,
                temperature=TEMPERATURE,
                places=self.macro,
            ),
        }


@jax.jit
def walk(matrix: jax.Array, noise: jax.Array, time: float) -> tuple[jax.Array, jax.Array]:
    """Where walkers from 0 end by macro steps and by Euler's of some time, on the same noise (steps, walkers, n)."""
    space = maths.lanczos(lambda v: matrix @ v, jnp.ones(len(matrix)), len(matrix))
    macro = jax.vmap(lambda w, z: maths.macro_step(w, matrix @ w, space, time, TEMPERATURE, z))

    def step(state: tuple[jax.Array, jax.Array], z: jax.Array) -> tuple[tuple[jax.Array, jax.Array], None]:
        w, v = state
        return (macro(w, z), v - time * v @ matrix + jnp.sqrt(2 * TEMPERATURE * time) * z), None

    still = jnp.zeros(noise.shape[1:])
    return jax.lax.scan(step, (still, still), noise)[0]


def cloud_plot(walkers: Walkers) -> Plot:
    """Both clouds, and the ellipse of two standard deviations."""
    covariance = TEMPERATURE * np.linalg.inv(walkers.matrix)
    turn = np.linspace(0, 2 * np.pi, 400)
    ellipse = 2 * np.stack([np.cos(turn), np.sin(turn)], -1) @ np.linalg.cholesky(covariance).T
    across, upward = terminal.Axis(-3.4, 3.4), terminal.Axis(-3.4, 3.4)
    panels = []
    for name, spots in (
        ("two standard deviations", ellipse),
        ("macro steps", walkers.macro),
        ("Euler's steps", walkers.euler),
    ):
        panels.append((name, terminal.dots(*spots.T, across=across, upward=upward, width=21, height=8)))
    arrays = {"covariance": covariance, "macro": walkers.macro, "Euler": walkers.euler}
    return Plot(
        f"The process, and walkers after {WALK} steps of time {PACE}", terminal.beside(*panels), "cloud", arrays
    )
