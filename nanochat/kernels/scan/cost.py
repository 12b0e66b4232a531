"""Scalar operations of prefix products and turns, without a tensor: the ledger and the counter read the same formulas.

Operations are those of the definition, one quaternion product 16 multiplications and 12 additions; a factor that is
imaginary, or a real part that nobody reads, saves a quarter. Signs are free: they fold into the sums around them.
Products of n x n matrices are charged by the scalar as well, n^2 (2 n - 1).
"""

from __future__ import annotations

from math import isqrt

GROUPS = ("so3", "u1", "so4", "so")
"""What a frame can be: a rotation of 3-vectors, of planes, of 4-vectors, of n-vectors as a matrix."""

SIZE = {"so3": 3, "u1": 2, "so4": 4}
"""Channels of one transported block; n for ``so``."""

COMPONENTS = {"so3": 4, "u1": 2, "so4": 8}
"""Numbers of one frame: a unit quaternion, a cosine and a sine, a left and a right unit quaternion; n^2 for ``so``."""

LANES = {"so3": 1, "u1": 1, "so4": 2, "so": 1}
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


def size_of(group: str, rows: int) -> int:
    """Channels of a block whose frame has this many components per lane."""
    return isqrt(rows) if group == "so" else SIZE[group]


def generators(size: int) -> int:
    """Numbers that name a skew matrix of n x n: those above its diagonal."""
    return size * (size - 1) // 2


def matrix_product(size: int) -> int:
    """One product of n x n matrices."""
    return size * size * (2 * size - 1)


def matrix_prefix_forward(matrices: float, size: int) -> float:
    """Scaled numbers, an inverse (2 n^3) doubled and less the identity, and a product onto the prefix."""
    return matrices * (generators(size) + 2 * size**3 + 2 * size**2 + matrix_product(size))


def matrix_prefix_backward(matrices: float, size: int) -> float:
    """Per matrix six products, the suffix sum, 1 + g; the skew part, halved and scaled at once."""
    return matrices * (6 * matrix_product(size) + 2 * size**2 + 2 * generators(size))


def prefix_forward(quaternions: float) -> float:
    """Normalise (7 for the square norm, root, 4 products) and multiply each quaternion onto its prefix."""
    return quaternions * (12 + PRODUCT)


def prefix_backward(quaternions: float) -> float:
    """Per quaternion: G conj(P), its suffix sum, two products; normalised (12), its gradient projected (7 + 8 + 4)."""
    return quaternions * (3 * PRODUCT + 4 + 12 + 19)


def turn_forward(blocks: float, group: str, size: int = 0) -> float:
    """``blocks`` of all heads and tokens turned; ``size`` n is read for ``so``."""
    return blocks * (size * (2 * size - 1) if group == "so" else TURN[group])


def turn_backward(blocks: float, group: str, size: int = 0) -> float:
    """Their gradients; those of a frame that several heads share are summed."""
    if group == "so":  # products of gradient and block, the transposed turn, the sum over heads
        return blocks * (2 * size**2 + size * (2 * size - 1))
    return blocks * (TURN_BACKWARD[group] + COMPONENTS[group])
