"""Known attractors: their maps, and points of them whose addresses are known."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from demos.ifs_fractal import maths

WORD = 60  # symbols of a drawn address: what is left of any start is smaller than a pixel


@dataclass(frozen=True, slots=True)
class Attractor:
    """Affine contractions x -> A x + b of the plane, and how often each is drawn."""

    name: str
    matrices: np.ndarray
    offsets: np.ndarray
    chances: np.ndarray

    @property
    def system(self) -> maths.System:
        """As the functions of ``maths`` take it."""
        return jnp.asarray(self.matrices), jnp.asarray(self.offsets)

    @property
    def ratios(self) -> np.ndarray | None:
        """Factor of each map if all keep angles, else None: then Moran's equation does not apply."""
        stretched = np.linalg.svd(self.matrices, compute_uv=False)
        return stretched[:, 0] if np.allclose(stretched[:, 0], stretched[:, 1]) else None

    def points(self, random: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Points of random addresses, and the first symbol of each: the piece in which it lies."""
        addresses = random.choice(len(self.chances), (count, WORD), p=self.chances)
        return np.asarray(drawn(self.system, addresses)), addresses[:, 0]


@jax.jit
def drawn(system: maths.System, addresses: Int[Array, "P d"] | np.ndarray) -> Float[Array, "P n"]:
    """The points of some addresses."""
    return jax.vmap(partial(maths.point, system), (0, None))(jnp.asarray(addresses), jnp.zeros(system[1].shape[1]))


def _made(name: str, rows: list[tuple[float, ...]], chances: list[float] | None = None) -> Attractor:
    """From rows a, b, c, d, e, f of x' = a x + b y + e, y' = c x + d y + f."""
    table = np.array(rows)
    shares = np.array(chances) if chances else np.full(len(rows), 1 / len(rows))
    return Attractor(name, table[:, :4].reshape(-1, 2, 2), table[:, 4:], shares)


_THIRD = 1 / 3
ATTRACTORS = {
    each.name: each
    for each in (
        _made(  # doi:10.1098/rspa.1985.0057
            "fern",
            [
                (0.0, 0.0, 0.0, 0.16, 0.0, 0.0),
                (0.85, 0.04, -0.04, 0.85, 0.0, 1.6),
                (0.2, -0.26, 0.23, 0.22, 0.0, 1.6),
                (-0.15, 0.28, 0.26, 0.24, 0.0, 0.44),
            ],
            [0.01, 0.85, 0.07, 0.07],
        ),
        _made(
            "sierpinski",
            [(0.5, 0, 0, 0.5, 0, 0), (0.5, 0, 0, 0.5, 0.5, 0), (0.5, 0, 0, 0.5, 0.25, 0.75**0.5 / 2)],
        ),
        _made("dragon", [(0.5, -0.5, 0.5, 0.5, 0, 0), (-0.5, -0.5, 0.5, -0.5, 1, 0)]),
        _made(
            "carpet",
            [(_THIRD, 0, 0, _THIRD, i * _THIRD, j * _THIRD) for i in range(3) for j in range(3) if (i, j) != (1, 1)],
        ),
    )
}
