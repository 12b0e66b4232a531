"""A linear reader of what diffusion leaves of a flow, and linear readers that know nothing of the surface.

Task ``circulation``: a harmonic flow forwards or backwards under much gradient and curl. Task ``slope``: a gradient
uphill or downhill under as much curl and harmonic flow. Legend: N flows, E edges, F features.
"""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from demos.simplicial.complexes import Complex, boundary, exchange, laplacian
from demos.training import Weights, descend

RATE = 0.1
LOUD = 10.0  # length of each of the two parts that say nothing, in lengths of the one that does
SIGNED, UNSIGNED = "signed", "unsigned"


class Flows(NamedTuple):
    """Flows of length 1 and which of two directions each has in the part that is asked for."""

    flows: Float[np.ndarray, "N E"]
    right: Float[np.ndarray, " N"]


def generator(complex: Complex, mode: str) -> Float[np.ndarray, "E E"]:
    """Laplacian of the diffusion on edges: of flows, or of masses without direction."""
    return laplacian(complex, 1) if mode == SIGNED else exchange(complex, 1)


def lasting(operator: Float[np.ndarray, "E E"]) -> Float[np.ndarray, "E F"]:
    """Orthonormal basis of what diffusion never changes, the kernel of its Laplacian."""
    levels, modes = np.linalg.eigh(operator)
    return modes[:, levels < 1e-9]


def draw(random: np.random.Generator, complex: Complex, count: int, told: np.ndarray, asked: str) -> Flows:
    """Flows whose harmonic part or gradient is plus or minus ``told``, the other parts random and ``LOUD``."""
    right = random.integers(0, 2, count).astype(float)
    gradient = random.normal(size=(count, len(complex[0]))) @ boundary(complex, 1)
    curl = random.normal(size=(count, len(complex[2]))) @ boundary(complex, 2).T
    kernel = lasting(laplacian(complex, 1))
    harmonic = random.normal(size=(count, kernel.shape[1])) @ kernel.T
    noise = sum(LOUD * unit(part) for part in ((harmonic if asked == "slope" else gradient), curl))
    return Flows(unit((2 * right - 1)[:, None] * told + noise), right)


def unit(rows: Float[np.ndarray, "... E"]) -> Float[np.ndarray, "... E"]:
    """Rows of length 1; a row of zeros stays."""
    length = np.linalg.norm(rows, axis=-1, keepdims=True)
    return np.where(length > 1e-9, rows / np.maximum(length, 1e-9), 0.0)


def principal(flows: Float[np.ndarray, "N E"], count: int) -> Float[np.ndarray, "E F"]:
    """The directions in which the flows vary most."""
    return np.linalg.svd(flows - flows.mean(0), full_matrices=False)[2][:count].T


@jax.jit
def fit(features: Float[Array, "N F"], right: Float[Array, " N"], rows: Int[Array, "steps B"]) -> Weights:
    """Logistic regression from weights 0, on features of root mean square 1."""
    model = nn.Dense(1, kernel_init=nn.initializers.zeros, param_dtype=jnp.float64)
    start = model.init(jax.random.key(0), features)

    def loss(weights: Weights, batch: Array) -> Array:
        logits = jnp.asarray(model.apply(weights, features[batch]))[:, 0]
        return jnp.mean(jax.nn.softplus(logits) - right[batch] * logits)

    return descend(loss, start, (rows,), RATE)[0]["params"]


class Reading(NamedTuple):
    """A trained linear reader of flows: ``(x B / scale) w + b`` > 0 says forwards, x the flow or its masses |f|."""

    mode: str
    basis: Float[np.ndarray, "E F"]
    weights: Float[np.ndarray, " F"]
    bias: float
    accuracy: float

    @property
    def parameters(self) -> int:
        """How many numbers were learned."""
        return len(self.weights) + 1

    def logits(self, flows: Float[np.ndarray, "N E"]) -> Float[np.ndarray, " N"]:
        """Above 0 for forwards."""
        return shown(flows, self.mode) @ self.basis @ self.weights + self.bias


def shown(flows: Float[np.ndarray, "N E"], mode: str) -> Float[np.ndarray, "N E"]:
    """What a reader sees: flows, or masses without direction."""
    return flows if mode == SIGNED else np.abs(flows)


def read(seen: Flows, fresh: Flows, basis: Float[np.ndarray, "E F"], rows: np.ndarray, mode: str) -> Reading:
    """Train a reader of the coordinates of flows in a basis, and count its right answers on fresh ones."""
    features = shown(seen.flows, mode) @ basis
    scale = float(np.sqrt((features**2).mean())) if features.size else 1.0
    padded = np.pad(features / scale, ((0, 0), (0, len(basis) - basis.shape[1])))  # one program for every basis
    learned = fit(padded, seen.right, rows)
    weights = np.asarray(learned["kernel"])[: basis.shape[1], 0] / scale
    untested = Reading(mode, basis, weights, float(learned["bias"][0]), 0.0)
    return untested._replace(accuracy=float(((untested.logits(fresh.flows) > 0) == (fresh.right > 0)).mean()))
