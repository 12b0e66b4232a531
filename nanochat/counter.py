"""Counts the scalar operations that PyTorch executes, one dispatched operator at a time.

The ledger (``nanochat.flops``) says what a step should cost; the counter says what was executed. Conventions, the same
for every arm of a comparison:

* **matmul**: a multiply-add counts 2. Adding the other term of ``addmm`` and its kin counts 1 per output element.
* **elementwise**: 1 per output element of a pointwise operator and 1 per input element of a reduction, whatever the
  function. An operator that fuses several is charged for its parts, see :data:`WEIGHTS`.
* **attention**: a fused causal kernel is charged for the pairs that the mask leaves, T (T + 1) / 2 of each head. Which
  masked blocks a kernel computes all the same depends on the device and its block sizes (measured: PyTorch's CPU kernel
  takes the same time with and without the mask up to 512 keys, and 0.77, 0.63, 0.57 of it at 1024, 2048, 4096), and
  that must not tilt a verdict; wall time, reported beside it, shows it. An explicit mask is data: then
  every pair is charged.
* **semiring**: an addition counts 1, a maximum or minimum 1, in kernels registered here.
* **free**: views, allocation, filling, copies and casts, gathering rows, random numbers, communication.

PyTorch's own ``FlopCounterMode`` counts matrix products only, and 0 for attention on the CPU. Operators executed inside
a compiled graph are not seen: count eager steps. An operator that no rule covers raises :class:`UnknownOperation`:
nothing is silently 0.

Example:
    >>> with Counter() as counter:
    ...     model(idx, targets).backward()
    >>> counter.operations.total
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import log2
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from nanochat.kernels.maxplus import cost
from nanochat.registry import Operations

Rule = Callable[[tuple, dict, Any], Operations]
"""``(arguments, keyword arguments, result) -> Operations`` of one call of an operator."""


class UnknownOperation(NotImplementedError):
    """An operator ran that no counting rule covers."""


FREE = frozenset(
    """
    clone copy_ _to_copy to contiguous lift_fresh _unsafe_view _reshape_alias cat stack constant_pad_nd
    empty empty_like empty_strided new_empty new_empty_strided zeros zeros_like new_zeros ones ones_like new_ones
    full full_like new_full fill_ fill zero_ arange eye scalar_tensor set_ resize_
    rand randn randint rand_like randn_like normal_ uniform_ random_ bernoulli_ randperm
    embedding index index_select gather take scatter masked_select repeat roll flip tril triu
    _local_scalar_dense is_same_size sym_size equal nonzero
    _foreach_copy_ _foreach_zero_ index_put_ index_put select_backward slice_backward
    """.split()
)
"""Operators that move, allocate, name or draw and compute nothing, by name whatever the overload."""

WEIGHTS = {
    "lerp": 3,  # subtract, multiply, add
    "addcmul": 2,  # multiply, add
    "addcdiv": 2,  # divide, add
    "sigmoid": 3,  # exp, add, reciprocal
    "sigmoid_backward": 3,  # g s (1 - s)
    "tanh_backward": 3,  # g (1 - y^2)
    "silu": 4,  # sigmoid, multiply
    "silu_backward": 8,  # sigmoid, then g s (1 + x (1 - s))
    "gelu": 5,  # scale, erf, add, multiply, halve
    "gelu_backward": 11,  # the same 4 for Phi, 4 for the density, multiply, add, multiply by g
    "linalg_vector_norm": 2,  # multiply, add
    "_softmax": 5,  # maximum, subtract, exp, sum, divide
    "_safe_softmax": 5,  # the same; rows without keys, of which it takes care, are no arithmetic
    "_log_softmax": 5,  # maximum, subtract, exp, sum, subtract
    "_softmax_backward_data": 4,  # multiply, sum, subtract, multiply
    "_log_softmax_backward_data": 4,  # sum, exp, multiply, subtract
    "_fused_rms_norm": 3,  # square, mean, multiply
    "_fused_rms_norm_backward": 8,  # as the separate operators
    "cumsum": 1,
    "embedding_dense_backward": 1,  # each row of the gradient is added to its row of the table
    "_foreach_norm": 2,
    "_fused_adamw_": 14,  # see nanochat.optim.registry
    "logsumexp": 4,  # maximum, subtract, exp, sum
    "scatter_add": 1,
    "scatter_add_": 1,
    "index_add_": 1,
    "index_add": 1,
    "nll_loss_backward": 0,
}
"""Scalar operations per element where an operator fuses several. Elements are those of its largest tensor operand."""


def _numel(value: Any) -> int:
    if isinstance(value, Tensor):
        return value.numel()
    if isinstance(value, list | tuple):
        return sum(_numel(item) for item in value)
    return 0


def _largest(values: Iterable[Any]) -> int:
    return max((value.numel() for value in values if isinstance(value, Tensor)), default=0)


def _elementwise(count: float) -> Operations:
    return Operations(elementwise=count)


def _product(args: tuple, kwargs: dict, result: Any) -> Operations:
    """mm, bmm, mv, dot and their like: 2 per output element and per inner index."""
    return Operations(matmul=2 * result.numel() * args[0].shape[-1])


def _product_plus(args: tuple, kwargs: dict, result: Any) -> Operations:
    """addmm, baddbmm: the product and one addition per output element."""
    return Operations(matmul=2 * result.numel() * args[1].shape[-1], elementwise=result.numel())


def pairs(queries: int, keys: int, causal: bool) -> float:
    """Query-key pairs of one head; a causal kernel aligns query i with key i."""
    if not causal:
        return queries * keys
    seen = min(queries, keys)
    return seen * (seen + 1) / 2 + (queries - seen) * keys


def attention_cost(
    heads: int, queries: int, keys: int, dim: int, causal: bool, backward: bool, value_dim: int | None = None
) -> Operations:
    """Softmax attention of ``heads`` heads (batch included), fused.

    Forward: two products; per pair scale, maximum, subtract, exp, sum (5); per output a division. Backward: five
    products (scores again); per pair scale, subtract, exp, subtract, multiply, scale (6); per output multiply and sum.
    """
    values = dim if value_dim is None else value_dim
    seen = heads * pairs(queries, keys, causal)
    outputs = heads * queries * values
    if backward:
        return Operations(matmul=2 * seen * (3 * dim + 2 * values), elementwise=6 * seen + 2 * outputs)
    return Operations(matmul=2 * seen * (dim + values), elementwise=5 * seen + outputs)


def _flag(args: tuple, kwargs: dict, place: int) -> bool:
    return bool(kwargs.get("is_causal", args[place] if len(args) > place else False))


def _attention(place: int) -> Rule:
    """Rule of a fused forward kernel ``(query, key, value, ...)`` whose ``is_causal`` stands at ``place``."""

    def rule(args: tuple, kwargs: dict, result: Any) -> Operations:
        query, key, value = args[:3]
        batch, heads, queries, dim = query.shape
        return attention_cost(
            batch * heads, queries, key.shape[-2], dim, _flag(args, kwargs, place), False, value.shape[-1]
        )

    return rule


def _attention_backward(place: int) -> Rule:
    """Rule of a fused backward kernel ``(gradient, query, key, value, ...)``."""

    def rule(args: tuple, kwargs: dict, result: Any) -> Operations:
        query, key, value = args[1:4]
        batch, heads, queries, dim = query.shape
        return attention_cost(
            batch * heads, queries, key.shape[-2], dim, _flag(args, kwargs, place), True, value.shape[-1]
        )

    return rule


def _convolution(args: tuple, kwargs: dict, result: Any) -> Operations:
    """Each output element is a dot product with the filter's inputs."""
    weight = args[1]
    return Operations(matmul=2 * result.numel() * weight[0].numel())


def _first_list(weight: float) -> Rule:
    """``_foreach_*`` and fused optimizers: one weight per element of the first list."""
    return lambda args, kwargs, result: _elementwise(weight * _numel(args[0]))


def _tropical(args: tuple, kwargs: dict, result: Any) -> Operations:
    query, key, _, score = args[:4]
    batch, heads, queries, dim = query.shape
    return Operations(semiring=cost.attention_forward(batch * heads, queries, key.shape[2], dim, score))


def _tropical_backward(args: tuple, kwargs: dict, result: Any) -> Operations:
    query, key, score = args[1], args[2], args[5]
    batch, heads, queries, dim = query.shape
    return Operations(semiring=cost.attention_backward(batch * heads, queries, key.shape[2], dim, score))


def _tropical_tangent(args: tuple, kwargs: dict, result: Any) -> Operations:
    batch, heads, queries, dim = args[0].shape
    return Operations(semiring=cost.attention_tangent(batch * heads, queries, dim, args[6]))


def _maxplus(args: tuple, kwargs: dict, result: Any) -> Operations:
    (batch, rows, inner), columns = args[0].shape, args[1].shape[2]
    return Operations(semiring=cost.matmul_forward(batch, rows, inner, columns))


def _maxplus_backward(args: tuple, kwargs: dict, result: Any) -> Operations:
    return Operations(semiring=cost.matmul_backward(*args[0].shape))


def _sort(args: tuple, kwargs: dict, result: Any) -> Operations:
    """n log2 n comparisons along the sorted dimension."""
    values = result[0] if isinstance(result, tuple) else result
    dim = kwargs.get("dim", next((each for each in args[1:] if type(each) is int), -1))
    return _elementwise(values.numel() * log2(max(2, values.shape[dim] if values.ndim else 1)))


def _eigenvectors(args: tuple, kwargs: dict, result: Any) -> Operations:
    """9 n^3 for eigenvalues and eigenvectors of a symmetric matrix (Golub and Van Loan, Matrix Computations, 8.3)."""
    return _elementwise(9 * args[0].numel() * args[0].shape[-1])


def _targets(args: tuple, kwargs: dict, result: Any) -> Operations:
    """The negative log-likelihood adds one number per target."""
    return _elementwise(args[1].numel())


RULES: dict[str, Rule] = {
    **dict.fromkeys(("aten::mm", "aten::bmm", "aten::mv", "aten::dot", "aten::vdot"), _product),
    **dict.fromkeys(("aten::addmm", "aten::baddbmm", "aten::addmv"), _product_plus),
    "aten::convolution": _convolution,
    "aten::_scaled_dot_product_flash_attention_for_cpu": _attention(4),
    "aten::_scaled_dot_product_flash_attention": _attention(4),
    "aten::_scaled_dot_product_efficient_attention": _attention(6),
    "aten::_scaled_dot_product_cudnn_attention": _attention(6),
    "aten::_scaled_dot_product_flash_attention_for_cpu_backward": _attention_backward(7),
    "aten::_scaled_dot_product_flash_attention_backward": _attention_backward(11),
    "aten::_scaled_dot_product_efficient_attention_backward": _attention_backward(11),
    "aten::_scaled_dot_product_cudnn_attention_backward": _attention_backward(14),
    "aten::nll_loss_forward": _targets,
    "aten::_linalg_eigh": _eigenvectors,
    "aten::sort": _sort,
    "aten::argsort": _sort,
    "aten::_fused_adamw_": _first_list(WEIGHTS["_fused_adamw_"]),
    "aten::_foreach_norm": _first_list(WEIGHTS["_foreach_norm"]),
    "aten::_foreach_lerp_": _first_list(WEIGHTS["lerp"]),
    **{
        f"aten::_foreach_{name}": _first_list(1)
        for name in ("add", "add_", "sub", "sub_", "mul", "mul_", "div", "div_", "sqrt", "sqrt_", "neg", "neg_")
    },
    "mgr::tropical_attention": _tropical,
    "mgr::tropical_attention_backward": _tropical_backward,
    "mgr::tropical_attention_tangent": _tropical_tangent,
    "mgr::maxplus_matmul": _maxplus,
    "mgr::maxplus_matmul_backward": _maxplus_backward,
}
"""Operators with a rule of their own, by qualified name whatever the overload."""

SILENT = ("prim", "profiler", "c10d", "_c10d_functional")
"""Namespaces that record or communicate and compute nothing."""


def register(name: str, rule: Rule) -> None:
    """Teach the counter an operator, for instance a kernel of ``torch.library``.

    Args:
        name: qualified, without the overload: ``mgr::tropical_attention``.
        rule: see :data:`Rule`.

    Raises:
        ValueError: the operator has a rule already.
    """
    if name in RULES:
        raise ValueError(f"counter: {name} has a rule already, need a new name")
    RULES[name] = rule


def operations_of(operator: Any, args: tuple, kwargs: dict, result: Any) -> Operations:
    """What one call of an operator counts.

    Raises:
        UnknownOperation: no rule covers it.
    """
    name = operator._schema.name
    space, _, short = name.partition("::")
    if name in RULES:
        return RULES[name](args, kwargs, result)
    if space in SILENT:
        return Operations()
    if space == "aten":
        base = short if short in WEIGHTS else short.removesuffix("_")
        if base in WEIGHTS:
            return _elementwise(WEIGHTS[base] * _largest(args))
        if short in FREE or operator.is_view:
            return Operations()
        if torch.Tag.pointwise in operator.tags:
            return _elementwise(_numel(result))
        if torch.Tag.reduction in operator.tags:
            return _elementwise(_largest(args))
    raise UnknownOperation(f"counter: got operator {operator}, need a rule for it in nanochat/counter.py")


class Counter(TorchDispatchMode):
    """Adds up the operations of everything that runs inside a ``with`` block, backward passes included.

    Attributes:
        operations: the sum so far.
        by_operator: the same for each operator's name.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations = Operations()
        self.by_operator: dict[str, Operations] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        counted = operations_of(func, args, kwargs, result)
        self.operations += counted
        self.by_operator[str(func)] = self.by_operator.get(str(func), Operations()) + counted
        return result


def count(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Operations:
    """Operations that one call executes, those of the backward passes it starts included.

    Raises:
        UnknownOperation: an operator without a rule ran.

    Example:
        >>> count(torch.mm, torch.ones(2, 3), torch.ones(3, 5))
        Operations(matmul=60.0, semiring=0.0, elementwise=0.0)
    """
    with Counter() as counter:
        function(*args, **kwargs)
    return counter.operations
