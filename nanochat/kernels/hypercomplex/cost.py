"""Scalar operations of ``fast`` in the units of ``nanochat.counter``, per number of the algebra. No torch."""

from __future__ import annotations

from nanochat.registry import Operations


def multiply(n: int) -> Operations:
    """A product: per component one multiplication and n - 1 fused multiply-adds. Its backward is two of them."""
    return Operations(elementwise=n * (2 * n - 1))


def expansion(weights: float) -> Operations:
    """A quaternion matrix of so many numbers as a real one: three of four components negated once; the rest copies."""
    return Operations(elementwise=0.75 * weights)


def expansion_backward(weights: float) -> Operations:
    """Four uses of every number added up, the negated ones negated back."""
    return Operations(elementwise=3.75 * weights)


def unit_backward(n: int) -> Operations:
    """The norm again (square, sum, epsilon, root, multiply), multiply and sum, addcmul, multiply."""
    return Operations(elementwise=8 * n + 2)


def multiply_hessian(n: int) -> Operations:
    """One product of the second derivative: that of all three products, whose terms autograd derives one by one."""
    return Operations(elementwise=8 * n * (2 * n - 1) + n)


def unit_hessian(n: int) -> Operations:
    """One product of the second derivative of a unit, forward and closed-form backward derived operator by operator."""
    return Operations(elementwise=27 * n + 7)


def coordinates_width(n: int) -> int:
    """Coordinates of a map x -> (x conj(k)) v: 1 + n (n - 1) / 2."""
    return 1 + n * (n - 1) // 2


def coordinates(n: int) -> Operations:
    """The inner product, and a product and a multiply-add for each plane."""
    return Operations(elementwise=2 * n + 3 * (coordinates_width(n) - 1))


def coordinates_backward(n: int) -> Operations:
    """Two products with the scalar coordinate; per plane two products, sums and multiply-adds; per row two adds."""
    return Operations(elementwise=2 * n + 8 * (coordinates_width(n) - 1) + 2 * (n - 1))


def coordinates_hessian() -> Operations:
    """One product of the second derivative, n = 8: closed-form backward passes, derived by autograd; counted."""
    return Operations(elementwise=1649)


def apply_hessian() -> Operations:
    """The same of applying a map: its products with the constant four times, and 1244 elementwise; counted."""
    return Operations(matmul=4 * apply(8).matmul, elementwise=1244)


def apply(n: int) -> Operations:
    """Coordinates to matrices in one product with a constant, then a matrix times a number."""
    return Operations(matmul=2 * n * n * coordinates_width(n)) + multiply(n)


def apply_backward(n: int) -> Operations:
    """The matrices again, the transposed one applied, the outer product and its coordinates."""
    return Operations(matmul=4 * n * n * coordinates_width(n), elementwise=n * n) + multiply(n)
