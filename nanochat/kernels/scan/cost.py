"""Scalar operations of prefix products and turns, without a tensor: the ledger and the counter read the same formulas.

Operations are those of the definition, one quaternion product 16 multiplications and 12 additions; a factor that is
imaginary, or a real part that nobody reads, saves a quarter. Signs are free: they fold into the sums around them.
"""

from __future__ import annotations

GROUPS = ("so3", "u1", "so4")
"""What a frame can be: a rotation of 3-vectors, of planes, of 4-vectors."""

SIZE = {"so3": 3, "u1": 2, "so4": 4}
"""Channels of one transported block."""

COMPONENTS = {"so3": 4, "u1": 2, "so4": 8}
"""Numbers of one frame: a unit quaternion, a cosine and a sine, a left and a right unit quaternion."""

LANES = {"so3": 1, "u1": 1, "so4": 2}
"""Lanes of a frame that one block takes."""

PRODUCT = 28
"""One quaternion product."""

TURN = {
    "so3": 20 + 21,  # (p x) with imaginary x, then the imaginary part of (p x) conj(p)
    "u1": 6,
    "so4": 2 * PRODUCT,
}
"""One block turned."""

TURN_BACKWARD = {
    "so3": 4 * 20 + 21 + 4,  # y' p, p x, two gradients of p and their sum, x' = im(conj(p) (y' p))
    "u1": 6 + 6,
    "so4": 5 * PRODUCT,
}
"""Gradients of one turned block."""


def prefix_forward(quaternions: float) -> float:
    """Normalise (7 for the square norm, root, 4 products) and multiply each quaternion onto its prefix."""
    return quaternions * (12 + PRODUCT)


def prefix_backward(quaternions: float) -> float:
    """Per quaternion: G conj(P), its suffix sum, two products; normalised (12), its gradient projected (7 + 8 + 4)."""
    return quaternions * (3 * PRODUCT + 4 + 12 + 19)


def turn_forward(blocks: float, group: str) -> float:
    """``blocks`` of all heads and tokens turned."""
    return blocks * TURN[group]


def turn_backward(blocks: float, group: str) -> float:
    """Their gradients; those of a frame that several heads share are summed."""
    return blocks * (TURN_BACKWARD[group] + COMPONENTS[group])
