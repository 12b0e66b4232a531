"""The nonstandard demo's certificates: plain functions of a witness, without jax. Each returns an error or a count."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from demos.hahn import EPSILON, Series, inverse, series, standard_part
from demos.hahn_laws import field, inverses, rows
from demos.nonstandard import levi_civita

# --- the field ----------------------------------------------------------------------------------------------------


def parts(exponents: np.ndarray, coefficients: np.ndarray) -> float:
    """Violations by neighbouring finite numbers: st of sum, product, quotient; order; orders of magnitude."""
    drawn, wrong = rows(exponents, coefficients), 0
    for x, y in zip(drawn, drawn[1:], strict=False):
        a, b = standard_part(x), standard_part(y)
        wrong += standard_part(x + y) != a + b
        wrong += standard_part(x * y) != a * b
        wrong += b != 0 and standard_part(x * inverse(y)) != a / b
        wrong += x < y and a > b
        wrong += (x * y).lead != (None if x.lead is None or y.lead is None else x.lead + y.lead)
        sizes = [each.lead for each in (x, y, x + y) if each.lead is not None]
        wrong += bool(sizes) and sizes[-1] > max(sizes[:2])
    return float(wrong)


def transfer(exponents: np.ndarray, coefficients: np.ndarray) -> float:
    """Neighbouring quadruples for which an identity or inequality of the real numbers fails."""
    drawn, wrong = rows(exponents, coefficients), 0
    for a, b, c, d in zip(drawn, drawn[1:], drawn[2:], drawn[3:], strict=False):
        product = (a * a + b * b) * (c * c + d * d)
        inner, outer = a * c + b * d, a * d - b * c
        wrong += product != inner * inner + outer * outer
        wrong += (a - b) * (a * a + a * b + b * b) != a * a * a - b * b * b
        wrong += product < inner * inner
        wrong += (a + b) * (a + b) < a * b * 4
    return float(wrong)


def compounded(rates: np.ndarray, steps: int, order: int, reached: np.ndarray) -> float:
    """Largest error of st((1 - r eps)^(1/eps)) = e^-r, and of the whole series at eps = 1/steps as what was reached."""
    worst = 0.0
    for rate, ended in zip(rates, reached, strict=True):
        value = levi_civita.compounded(float(rate), order)
        at = sum(float(value.coefficient(-k)) * steps**-k for k in range(order + 1))
        worst = max(worst, abs(float(standard_part(value)) - math.exp(-rate)), abs(at - ended))
    return worst


# --- the flow and its noise ---------------------------------------------------------------------------------------


def phi(values: np.ndarray, time: float) -> np.ndarray:
    """(1 - e^{-time values}) / values, and time at 0."""
    safe = np.where(values == 0, 1.0, values)
    return np.where(values == 0, time, -np.expm1(-time * safe) / safe)


def flow(matrix: np.ndarray, start: np.ndarray, times: np.ndarray, reached: np.ndarray) -> float:
    """Largest distance, relative to the start's, of what single steps reached from e^{-time H} start."""
    values, vectors = np.linalg.eigh(matrix)
    exact = np.exp(-times[:, None] * values) * (vectors.T @ start) @ vectors.T
    return float(np.abs(reached - exact).max() / np.abs(start).max())


def downhill(matrix: np.ndarray, path: np.ndarray) -> float:
    """Largest rise of w H w / 2 from one step to the next (last but one axis of path), over its first value."""
    losses = (path @ matrix * path).sum(-1) / 2
    return float((np.diff(losses) / losses[..., :1]).max())


def saddle(values: np.ndarray, before: np.ndarray, time: float, after: np.ndarray) -> float:
    """Largest error of the factors: e^{-time v} on the way to a saddle at 0, 2 - e^{-time |v|} on the way from it."""
    decay = np.exp(-time * np.abs(values))
    return float(np.abs(after / before - np.where(values < 0, 2 - decay, decay)).max())


def stationary(matrix: np.ndarray, temperature: float, times: np.ndarray, noises: np.ndarray) -> float:
    """Largest error of C = e^{-tH} C e^{-tH} + noise for the solution C of Lyapunov's H C + C H = 2 tau, over |C|."""
    n = len(matrix)
    both = np.kron(matrix, np.eye(n)) + np.kron(np.eye(n), matrix)
    covariance = np.linalg.solve(both, 2 * temperature * np.eye(n).ravel()).reshape(n, n)
    values, vectors = np.linalg.eigh(matrix)
    decays = (vectors * np.exp(-times[:, None, None] * values)) @ vectors.T
    return float(np.abs(decays @ covariance @ decays + noises - covariance).max() / np.abs(covariance).max())


def cloud(matrix: np.ndarray, temperature: float, places: np.ndarray) -> float:
    """Standard deviations by which mean and covariance of N places differ from 0 and tau H^-1."""
    values, vectors = np.linalg.eigh(matrix)
    white = places @ vectors * np.sqrt(values / temperature)
    count, n = white.shape
    spread = np.sqrt((1 + np.eye(n)) / count)
    off = np.abs(white.T @ white / count - np.eye(n)) / spread
    return float(max(off.max(), np.abs(white.mean(0)).max() * math.sqrt(count)))


# --- the trained network ------------------------------------------------------------------------------------------


def split(w: np.ndarray, inputs: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Bias and weights of the hidden layer, bias and weights of the output, from one vector."""
    hidden = (len(w) - 1) // (inputs + 2)
    bias, into, shift, out = np.split(w, [hidden, hidden * (inputs + 1), hidden * (inputs + 1) + 1])
    return bias, into.reshape(inputs, hidden), shift, out


def gradient(w: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Of half the mean squared error; of complex weights too."""
    bias, into, shift, out = split(w, x.shape[1])
    inside = np.tanh(x @ into + bias)
    missed = (inside @ out + shift - y) / len(y)
    back = missed[:, None] * out * (1 - inside**2)
    return np.concatenate([back.sum(0), (x.T @ back).ravel(), [missed.sum()], inside.T @ missed])


def hessian_product(w: np.ndarray, x: np.ndarray, y: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """H v as the imaginary part of a gradient at w + i 1e-30 v: no difference is taken, so nothing cancels."""
    return np.imag(gradient(w + 1e-30j * vector, x, y)) / 1e-30


def along(w: np.ndarray, direction: np.ndarray, x: np.ndarray, y: np.ndarray, order: int) -> Series:
    """The loss at w + eps direction, a number of the Levi-Civita field."""
    bias, into, shift, out = (
        np.stack(pair, -1) for pair in zip(split(w, x.shape[1]), split(direction, x.shape[1]), strict=True)
    )
    total = series({})
    for row, wanted in zip(x, y, strict=True):
        missed = _number(shift[0]) - float(wanted)
        for unit in range(len(out)):
            inside = _number(bias[unit] + row @ into[:, unit]).cut(-order - 1)
            missed = missed + levi_civita.tanh(inside) * _number(out[unit])
        total = total + missed * missed
    return total * (0.5 / len(y))


def _number(pair: np.ndarray) -> Series:
    return EPSILON * float(pair[1]) + float(pair[0])


def derivatives(w: np.ndarray, direction: np.ndarray, x: np.ndarray, y: np.ndarray, claimed: np.ndarray) -> float:
    """Largest relative error of derivatives of the loss along a direction, against its expansion at w + eps d."""
    value = along(w, direction, x, y, len(claimed) - 1)
    exact = np.array([float(value.coefficient(-k)) * math.factorial(k) for k in range(len(claimed))])
    return float((np.abs(claimed - exact) / (np.abs(exact) + 1e-6 * np.abs(exact).max())).max())


def krylov(w: np.ndarray, x: np.ndarray, y: np.ndarray, basis: np.ndarray, projected: np.ndarray) -> float:
    """Largest error of: orthonormal rows, the first along g, Q H = T Q but for the last row, Q H Q' = T."""
    g = gradient(w, x, y)
    images = np.stack([hessian_product(w, x, y, row) for row in basis])
    scale = np.abs(projected).max()
    return float(
        max(
            np.abs(basis @ basis.T - np.eye(len(basis))).max(),
            np.abs(basis[0] - g / np.linalg.norm(g)).max(),
            np.abs((images - projected @ basis)[:-1]).max() / scale,
            np.abs(images @ basis.T - projected).max() / scale,
        )
    )


def step(
    w: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    basis: np.ndarray,
    projected: np.ndarray,
    time: float,
    after: np.ndarray,
) -> float:
    """Error, relative to its length, of the step w - phi(|H|) g; outside of the space |H| is its largest value."""
    g = gradient(w, x, y)
    values, vectors = np.linalg.eigh(projected)
    values, modes = np.abs(values), vectors.T @ basis
    outside = phi(values.max(), time)
    drift = modes.T @ ((phi(values, time) - outside) * (modes @ g)) + outside * g
    return float(np.abs(w - drift - after).max() / np.abs(drift).max())


CHECKS: dict[str, Callable[..., float]] = {
    "field": field,
    "inverses": inverses,
    "parts": parts,
    "transfer": transfer,
    "compounded": compounded,
    "flow": flow,
    "downhill": downhill,
    "saddle": saddle,
    "stationary": stationary,
    "cloud": cloud,
    "derivatives": derivatives,
    "krylov": krylov,
    "step": step,
}
