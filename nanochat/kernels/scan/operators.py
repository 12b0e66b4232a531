"""Prefix products and turns as PyTorch operators ``mgr::*``: differentiable, opaque to the compiler, countable.

Values and gradients are computed in fp32 (fp64 for fp64 inputs) whatever the inputs are: a bf16 prefix would drift.
"""

from __future__ import annotations

from math import pi
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from nanochat.counter import register
from nanochat.kernels.scan import chunked, cost, matrices
from nanochat.kernels.scan.cost import COMPONENTS, GROUPS, LANES, generators, size_of
from nanochat.kernels.scan.naive import identity, matrix_identity
from nanochat.registry import Operations

BACKENDS = ("auto", "cpp", "torch")


def _native(x: Tensor, backend: str) -> bool:
    """Whether the C++ kernel takes this tensor."""
    if backend == "torch" or x.device.type != "cpu":
        return False
    from nanochat.kernels.scan import cpu

    return cpu.require() if backend == "cpp" else cpu.available()


@torch.library.custom_op("mgr::quaternion_prefix", mutates_args=())
def _prefix(raw: Tensor, start: Tensor, backend: str) -> Tensor:
    raw, start = raw.contiguous(), start.contiguous()
    if _native(raw, backend):
        return torch.ops.mgr_scan.prefix_forward(raw, start)
    return chunked.prefix_forward(raw, start)


@_prefix.register_fake
def _prefix_shape(raw: Tensor, start: Tensor, backend: str) -> Tensor:
    return torch.empty(raw.shape, dtype=raw.dtype, device=raw.device)


@torch.library.custom_op("mgr::quaternion_prefix_backward", mutates_args=())
def _prefix_backward(gradient: Tensor, raw: Tensor, frames: Tensor, start: Tensor, backend: str) -> Tensor:
    gradient, raw, start = gradient.contiguous(), raw.contiguous(), start.contiguous()
    if _native(raw, backend):
        return torch.ops.mgr_scan.prefix_backward(gradient, raw, frames, start)
    return chunked.prefix_backward(gradient, raw, frames, start)


@_prefix_backward.register_fake
def _prefix_backward_shape(gradient: Tensor, raw: Tensor, frames: Tensor, start: Tensor, backend: str) -> Tensor:
    return torch.empty(raw.shape, dtype=raw.dtype, device=raw.device)


def _prefix_save(ctx, inputs, output) -> None:
    raw, start, ctx.backend = inputs
    ctx.save_for_backward(raw, output, start)


def _prefix_grad(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
    return _prefix_backward(gradient, *ctx.saved_tensors, ctx.backend), None, None


_prefix.register_autograd(_prefix_grad, setup_context=_prefix_save)


@torch.library.custom_op("mgr::matrix_prefix", mutates_args=())
def _matrix_prefix(raw: Tensor, start: Tensor) -> Tensor:
    with torch.autocast(raw.device.type, enabled=False):
        return matrices.prefix_forward(raw, start)


@_matrix_prefix.register_fake
def _matrix_prefix_shape(raw: Tensor, start: Tensor) -> Tensor:
    return raw.new_empty(*raw.shape[:3], *start.shape[2:])


@torch.library.custom_op("mgr::matrix_prefix_backward", mutates_args=())
def _matrix_prefix_backward(gradient: Tensor, frames: Tensor, start: Tensor) -> Tensor:
    with torch.autocast(frames.device.type, enabled=False):
        return matrices.prefix_backward(gradient, frames, start)


@_matrix_prefix_backward.register_fake
def _matrix_prefix_backward_shape(gradient: Tensor, frames: Tensor, start: Tensor) -> Tensor:
    return frames.new_empty(*frames.shape[:3], generators(size_of("so", frames.shape[3])), frames.shape[4])


def _matrix_prefix_save(ctx, inputs, output) -> None:
    ctx.save_for_backward(output, inputs[1])


def _matrix_prefix_grad(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
    return _matrix_prefix_backward(gradient, *ctx.saved_tensors), None


_matrix_prefix.register_autograd(_matrix_prefix_grad, setup_context=_matrix_prefix_save)


@torch.library.custom_op("mgr::turn", mutates_args=())
def _turn(frame: Tensor, x: Tensor, group: str, inverse: bool, backend: str) -> Tensor:
    frame = frame.contiguous()
    if _native(x, backend):
        return torch.ops.mgr_scan.turn_forward(frame, x.contiguous(), GROUPS.index(group), inverse)
    return chunked.turn_forward(frame, x, group, inverse)


@_turn.register_fake
def _turn_shape(frame: Tensor, x: Tensor, group: str, inverse: bool, backend: str) -> Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)


@torch.library.custom_op("mgr::turn_backward", mutates_args=())
def _turn_backward(
    gradient: Tensor, frame: Tensor, x: Tensor, group: str, inverse: bool, backend: str
) -> tuple[Tensor, Tensor]:
    frame = frame.contiguous()
    if _native(x, backend):
        gradient, x = gradient.contiguous(), x.contiguous()
        return torch.ops.mgr_scan.turn_backward(gradient, frame, x, GROUPS.index(group), inverse)
    return chunked.turn_backward(gradient, frame, x, group, inverse)


@_turn_backward.register_fake
def _turn_backward_shape(
    gradient: Tensor, frame: Tensor, x: Tensor, group: str, inverse: bool, backend: str
) -> tuple[Tensor, Tensor]:
    like_frame, like_x = (torch.empty(each.shape, dtype=each.dtype, device=each.device) for each in (frame, x))
    return like_frame, like_x


def _turn_save(ctx, inputs, output) -> None:
    frame, x, ctx.group, ctx.inverse, ctx.backend = inputs
    ctx.save_for_backward(frame, x)


def _turn_grad(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
    frame, x = ctx.saved_tensors
    return *_turn_backward(gradient, frame, x, ctx.group, ctx.inverse, ctx.backend), None, None, None


_turn.register_autograd(_turn_grad, setup_context=_turn_save)


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def quaternion_prefix(
    raw: Float[Tensor, "B K T 4 L"], start: Float[Tensor, "B K 4 L"] | None = None, backend: str = "auto"
) -> Float[Tensor, "B K T 4 L"]:
    r"""Frames :math:`P_t = P_0\, g_1 \cdots g_t`, :math:`g_t = r_t / |r_t|` (1 where :math:`r_t` is 0).

    Args:
        raw: quaternions of any length but 0, component before lane.
        start: the unit quaternion :math:`P_0`, for instance the last frame of what came before; 1 if not given.
            A state, not a parameter: no gradient flows into it.
        backend: ``auto``, ``cpp`` (raises where it cannot be built) or ``torch``.

    Raises:
        ValueError: shapes that do not fit together, no token, unknown backend, a ``start`` that wants a gradient.

    Example:
        >>> quaternion_prefix(torch.tensor([0.0, 3.0, 0.0, 0.0]).expand(1, 1, 2, 4)[..., None])[0, 0, :, 0, 0]  # i, i i
        tensor([ 0., -1.])
    """
    raw = _wide(raw)
    if start is None:
        start = identity(raw[:, :, 0]) if raw.shape[2:3] != (0,) else raw[:, :, 0:0]
    if raw.ndim != 5 or raw.shape[3] != 4 or raw.shape[2] == 0 or start.shape != (*raw.shape[:2], *raw.shape[3:]):
        raise ValueError(
            f"quaternion prefix: got raw {tuple(raw.shape)}, start {tuple(start.shape)}, "
            "need (B,K,T,4,L) with T > 0 and (B,K,4,L)"
        )
    if backend not in BACKENDS or start.requires_grad:
        raise ValueError(f"quaternion prefix: got backend {backend!r}, need one of {BACKENDS} and a detached start")
    return _prefix(raw, start.to(raw.dtype), backend)


def angle_prefix(
    raw: Float[Tensor, "B K T n"], start: Float[Tensor, "B K n"] | None = None
) -> Float[Tensor, "B K T n"]:
    r"""Sums :math:`\theta_0 + \theta_1 + \dots + \theta_t` of angles, modulo :math:`2\pi`, in fp32 or wider.

    They add up in fp64: the sum outgrows fp32 long before its remainder does.
    """
    total = raw.to(torch.float64).cumsum(2)
    total = total if start is None else total + start.unsqueeze(2)
    return total.remainder(2 * pi).to(_wide(raw).dtype)


def matrix_prefix(
    raw: Float[Tensor, "B K T m L"], size: int, start: Float[Tensor, "B K c L"] | None = None
) -> Float[Tensor, "B K T c L"]:
    r"""Frames :math:`P_t = P_0\, g_1 \cdots g_t` of n x n rotations, c = n^2, each named by m = n (n - 1) / 2 numbers.

    :math:`g = (1 - A)^{-1} (1 + A)`, see :func:`nanochat.kernels.scan.naive.skew`. PyTorch only: no C++ form.

    Args:
        raw: numbers, in the order of the pairs a < b, before lane.
        size: n, at least 2.
        start: the orthogonal matrix :math:`P_0`, 1 if not given; a state: no gradient flows into it.

    Raises:
        ValueError: shapes that do not fit together, no token, a ``start`` that wants a gradient.

    Example:
        >>> matrix_prefix(torch.ones(1, 1, 2, 1, 1) * 2**0.5, 2)[0, 0, :, :, 0]  # a quarter turn, and another
        tensor([[ 0., -1.,  1.,  0.],
                [-1.,  0.,  0., -1.]])
    """
    raw = _wide(raw)
    if raw.ndim != 5 or raw.shape[2] == 0 or size < 2 or raw.shape[3] != generators(size):
        raise ValueError(
            f"matrix prefix: got raw {tuple(raw.shape)}, need (B,K,T,m,L), T > 0, m = n(n-1)/2, n = {size}"
        )
    shape = (*raw.shape[:2], size * size, raw.shape[4])
    if start is None:
        start = matrix_identity(raw.new_empty(shape))
    if start.shape != shape or start.requires_grad:
        raise ValueError(f"matrix prefix: got start {tuple(start.shape)}, need {shape}, detached")
    return _matrix_prefix(raw, start.to(raw.dtype))


def turn(
    frame: Float[Tensor, "B K T c L"],
    x: Float[Tensor, "B H T D"],
    group: str,
    inverse: bool = False,
    backend: str = "auto",
) -> Float[Tensor, "B H T D"]:
    """Each token's frame acts on its heads, or is undone: :func:`nanochat.kernels.scan.naive.turn`; in the type of x.

    Raises:
        ValueError: unknown group or backend, shapes that do not fit together.
    """
    if group not in GROUPS or backend not in BACKENDS or (group, backend) == ("so", "cpp"):
        raise ValueError(
            f"turn: got group {group!r}, backend {backend!r}, need {GROUPS}, {BACKENDS}, for so not the C++ one"
        )
    (batch, heads, length, dim), lanes = x.shape, frame.shape[-1]
    size = size_of(group, frame.shape[-2])
    rows = size * size if group == "so" else COMPONENTS[group] // LANES[group]
    wanted = (batch, frame.shape[1], length, rows, lanes)
    if frame.shape != wanted or heads % frame.shape[1] or lanes % LANES[group] or size * lanes // LANES[group] > dim:
        raise ValueError(
            f"turn: got frame {tuple(frame.shape)}, x {tuple(x.shape)} for {group}, need (B,K,T,c,L) and (B,H,T,D) "
            "with K dividing H and all blocks inside D"
        )
    wide = _wide(x)
    backend = "torch" if group == "so" else backend
    return _turn(frame.to(wide.dtype), wide, group, inverse, backend).to(x.dtype)


def _blocks(frame: Tensor, x: Tensor, group: str) -> tuple[int, str, int]:
    blocks = x.shape[0] * x.shape[1] * x.shape[2] * (frame.shape[-1] // LANES[group])
    return blocks, group, size_of(group, frame.shape[-2])


def _frames(frames: Tensor, *_: Tensor) -> tuple[float, int]:
    """Matrices and their size, of tensors whose last axes are the components and the lanes."""
    return frames.numel() / frames.shape[-2], size_of("so", frames.shape[-2])


def _charge(place: int, formula: Any, measure: Any) -> Any:
    """Counting rule: ``formula`` of what ``measure`` reads from the arguments from ``place`` on."""
    return lambda args, kwargs, result: Operations(elementwise=formula(*measure(*args[place:])))


register("mgr::quaternion_prefix", _charge(0, cost.prefix_forward, lambda raw, *_: (raw.numel() / 4,)))
register("mgr::quaternion_prefix_backward", _charge(1, cost.prefix_backward, lambda raw, *_: (raw.numel() / 4,)))
for _name, _place, _formula in (("mgr::turn", 0, cost.turn_forward), ("mgr::turn_backward", 1, cost.turn_backward)):
    register(_name, _charge(_place, _formula, lambda frame, x, group, *_: _blocks(frame, x, group)))
register("mgr::matrix_prefix_backward", _charge(1, cost.matrix_prefix_backward, _frames))
register(
    "mgr::matrix_prefix",
    lambda args, kwargs, result: Operations(elementwise=cost.matrix_prefix_forward(*_frames(result))),
)
