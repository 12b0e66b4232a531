"""What the certificates of the reversible demo recompute, in plain numpy, from their witnesses alone.

Each function returns one number: an error, or a count of violations; 0 is perfect. Weights of the trained stack come as
``f_into (L, 1, H), f_bias (L, H), f_out (L, H, 1), f_tilt (L, 1)`` and the same for ``g``; states are (M, 2).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from demos.reversible import ledger as books

NAMES = ("into", "bias", "out", "tilt")
Stack = list[tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]]


def stack_of(weights: dict[str, np.ndarray]) -> Stack:
    """The (F, G) weights of each coupling, in order. Raises ``ValueError`` when some are missing or do not fit."""
    need = [f"{stream}_{name}" for stream in "fg" for name in NAMES]
    if sorted(weights) != sorted(need) or len({len(leaf) for leaf in weights.values()}) != 1:
        raise ValueError(f"stack: got {', '.join(sorted(weights))}, need {', '.join(need)} of equal length")
    layers = len(weights["f_bias"])
    f, g = ([tuple(weights[f"{stream}_{name}"][i] for name in NAMES) for i in range(layers)] for stream in "fg")
    return list(zip(f, g, strict=True))


def half(weights: tuple[np.ndarray, ...], x: np.ndarray) -> np.ndarray:
    """tanh(x W + b) V + t x, real or complex."""
    into, bias, out, tilt = weights
    return np.tanh(x @ into + bias) @ out + tilt * x


def forward(stack: Stack, first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All couplings: first += F(second), second += G(first)."""
    for f, g in stack:
        first = first + half(f, second)
        second = second + half(g, first)
    return first, second


def backward(stack: Stack, first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The inverse of :func:`forward`."""
    for f, g in reversed(stack):
        second = second - half(g, first)
        first = first - half(f, second)
    return first, second


def inverse(state: np.ndarray, rounds: int, **weights: np.ndarray) -> float:
    """Largest distance of states from themselves after so many passes forth and as many back."""
    stack = stack_of(weights)
    pair = state[:, :1], state[:, 1:]
    for _ in range(rounds):
        pair = forward(stack, *pair)
    for _ in range(rounds):
        pair = backward(stack, *pair)
    return float(np.abs(np.concatenate(pair, -1) - state).max())


def exact(state: np.ndarray, recovered: np.ndarray, bits: int, rounds: int, **weights: np.ndarray) -> float:
    """Integers of the grid 2^-bits that differ after so many exact passes forth and as many back.

    ``recovered`` is what the demo's own compiled passes gave back; its differences count too.
    """
    stack = stack_of(weights)
    scale = 2.0**bits

    def change(weights: tuple[np.ndarray, ...], stream: np.ndarray) -> np.ndarray:
        return np.round(half(weights, stream / scale) * scale).astype(np.int64)

    first, second = state[:, :1], state[:, 1:]
    for f, g in stack * rounds:
        first = first + change(f, second)
        second = second + change(g, first)
    moved = np.concatenate([first, second], -1)
    for f, g in reversed(stack * rounds):
        second = second - change(g, first)
        first = first - change(f, second)
    wrong = (np.concatenate([first, second], -1) != state).sum() + (recovered != state).sum()
    return float(wrong + (moved == state).all())  # passes that move nothing prove nothing


def log_det(state: np.ndarray, **weights: np.ndarray) -> float:
    """Largest |log |det|| of the Jacobian after any number of layers, by complex steps (no rounding of differences)."""
    stack = stack_of(weights)
    tiny = 1e-30
    directions = [(state + 1j * tiny * unit) for unit in np.eye(2)]
    pairs = [(moved[:, :1], moved[:, 1:]) for moved in directions]
    worst = 0.0
    for layer in stack:
        pairs = [forward([layer], *pair) for pair in pairs]
        jacobian = np.stack([np.imag(np.concatenate(pair, -1)) / tiny for pair in pairs], -1)
        worst = max(worst, float(np.abs(np.linalg.slogdet(jacobian)[1]).max()))
    return worst


def gradient(state: np.ndarray, wanted: np.ndarray, claimed: np.ndarray, **weights: np.ndarray) -> float:
    """Largest relative error of a claimed gradient of the mean squared error in all ``into, bias, out`` weights.

    ``claimed`` is flat, in the order f_into, f_bias, f_out, g_into, g_bias, g_out; recomputed here by reverse-mode
    differentiation that stores every activation.
    """
    stack = stack_of(weights)
    first, second = state[:, :1], state[:, 1:]
    kept = []
    for f, g in stack:
        before = second
        first = first + half(f, second)
        kept.append((before, first))
        second = second + half(g, first)
    slope = 2 * (np.concatenate([first, second], -1) - wanted) / wanted.size
    first_slope, second_slope = slope[:, :1], slope[:, 1:]
    found = []
    for (f, g), (before, after) in zip(reversed(stack), reversed(kept), strict=True):
        g_parts, pulled = _pull(g, after, second_slope)
        first_slope = first_slope + pulled
        f_parts, pulled = _pull(f, before, first_slope)
        second_slope = second_slope + pulled
        found.append((*f_parts, *g_parts))
    flat = np.concatenate([np.stack(leaves).ravel() for leaves in zip(*reversed(found), strict=True)])
    return float(np.abs(flat - claimed).max() / max(np.abs(flat).max(), 1e-300))


def _pull(
    weights: tuple[np.ndarray, ...], x: np.ndarray, slope: np.ndarray
) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    """Gradients of (into, bias, out) and of the input, given that of a half's output."""
    into, bias, out, tilt = weights
    hidden = np.tanh(x @ into + bias)
    inner = slope @ out.T * (1 - hidden**2)
    return (x.T @ inner, inner.sum(0), hidden.T @ slope), inner @ into.T + tilt * slope


def lifting(mix: np.ndarray, rotations: np.ndarray) -> float:
    """Error of three shears against the Cayley transform, and of its orthogonality, for each parameter of the stack."""
    worst = 0.0
    for a, rotation in zip(mix, rotations, strict=True):
        outer = np.array([[1.0, -a], [0.0, 1.0]])
        inner = np.array([[1.0, 0.0], [2 * a / (1 + a * a), 1.0]])
        worst = max(worst, float(np.abs(outer @ inner @ outer - rotation).max()))
        worst = max(worst, float(np.abs(rotation.T @ rotation - np.eye(2)).max()))
    return worst


def cayley(u: np.ndarray, v: np.ndarray, matrix: np.ndarray) -> float:
    """Error of the closed form against (I - A)^-1 (I + A), A = u v^T - v u^T, of orthogonality and of det = 1."""
    skew = np.outer(u, v) - np.outer(v, u)
    identity = np.eye(len(u))
    solved = np.linalg.solve(identity - skew, identity + skew)
    orthogonal = np.abs(matrix.T @ matrix - identity).max()
    return float(max(np.abs(matrix - solved).max(), orthogonal, abs(np.linalg.det(matrix) - 1)))


def force(q: np.ndarray) -> np.ndarray:
    """-q / |q|^3."""
    return -q / np.linalg.norm(q) ** 3


def leapfrog(q: np.ndarray, p: np.ndarray, step: float, steps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Final position and momentum, and the energy after every step."""
    energies = np.empty(steps)
    for i in range(steps):
        p = p + step / 2 * force(q)
        q = q + step * p
        p = p + step / 2 * force(q)
        energies[i] = p @ p / 2 - 1 / np.linalg.norm(q)
    return q, p, energies


def kepler_return(q: np.ndarray, p: np.ndarray, step: float, steps: int) -> float:
    """Distance from the start after so many leapfrog steps forth and as many with the step negated."""
    forth = leapfrog(q, p, step, steps)[:2]
    back = leapfrog(*forth, -step, steps)[:2]
    return float(max(np.abs(back[0] - q).max(), np.abs(back[1] - p).max()))


def kepler_energy(q: np.ndarray, p: np.ndarray, step: float, steps: int) -> float:
    """By how much the largest energy error of the second half of a leapfrog orbit exceeds that of the first half."""
    start = p @ p / 2 - 1 / np.linalg.norm(q)
    errors = np.abs(leapfrog(q, p, step, steps)[2] - start)
    return float(max(errors[steps // 2 :].max() / errors[: steps // 2].max() - 1, 0.0))


def symplectic(q: np.ndarray, p: np.ndarray, step: float) -> float:
    """Largest entry of M^T J M - J for the Jacobian M of a leapfrog step at each of several states, as three shears."""
    identity, zero = np.eye(2), np.zeros((2, 2))
    form = np.block([[zero, identity], [-identity, zero]])
    worst = 0.0
    for position, momentum in zip(q, p, strict=True):
        middle = position + step * (momentum + step / 2 * force(position))
        kicks = [np.block([[identity, zero], [step / 2 * force_slope(x), identity]]) for x in (position, middle)]
        jacobian = kicks[1] @ np.block([[identity, step * identity], [zero, identity]]) @ kicks[0]
        worst = max(worst, float(np.abs(jacobian.T @ form @ jacobian - form).max()))
    return worst


def force_slope(q: np.ndarray) -> np.ndarray:
    """Jacobian of the force: -I / r^3 + 3 q q^T / r^5."""
    r = np.linalg.norm(q)
    return -np.eye(len(q)) / r**3 + 3 * np.outer(q, q) / r**5


def audit(state: np.ndarray, numerator: int, denominator: int, steps: int) -> float:
    """Numbers that a cycle of decays and undone decays changes."""
    return float(books.audit([int(value) for value in state], numerator, denominator, steps)[1])


def ledger(state: np.ndarray, numerator: int, denominator: int, steps: int, bits: int) -> float:
    """Relative distance of the ledger's length from the bits that must be forgotten, plus that from the claim."""
    found = books.audit([int(value) for value in state], numerator, denominator, steps)[0]
    need = books.forgotten(len(state), numerator, denominator, steps)
    return abs(found / need - 1) + abs(found - bits)


def memory(depth: np.ndarray, rebuilt: np.ndarray, stored: np.ndarray) -> float:
    """Bytes per layer that the rebuilt gradient's working memory grows by, over those of the stored one."""
    return float(max(np.polyfit(depth, rebuilt, 1)[0], 0.0) / np.polyfit(depth, stored, 1)[0])


CHECKS: dict[str, Callable[..., float]] = {
    "inverse": inverse,
    "exact": exact,
    "log_det": log_det,
    "gradient": gradient,
    "lifting": lifting,
    "cayley": cayley,
    "kepler_return": kepler_return,
    "kepler_energy": kepler_energy,
    "symplectic": symplectic,
    "audit": audit,
    "ledger": ledger,
    "memory": memory,
}
