"""The Hessian of a loss as a linear map: one graph, then one more backward pass for each product."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel


class Curvature:
    r"""Products of the Hessian of a loss with vectors, :math:`v \mapsto \nabla_w \langle \nabla_w L, v \rangle`.

    Vectors are flat: the parameters' numbers one after another, n in all. The graph of the gradient is built once and
    lives as long as this object does; hold it no longer than a step.

    Args:
        loss: returns a scalar; called once, with SDPA's math path in place of its fused kernels, which have one
            derivative only. Every operation in it must be twice differentiable.
        parameters: those over which it is differentiated; any that it does not depend on have rows of zeros.
        mean: averages a vector over processes, each of which holds its own share of the loss.

    Raises:
        RuntimeError: (from a product) an operation without a second derivative.

    Example:
        >>> w = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> Curvature(lambda: (w**3).sum(), [w])(torch.tensor([1.0, 1.0]))
        tensor([ 6., 12.])
    """

    def __init__(
        self,
        loss: Callable[[], Tensor],
        parameters: Sequence[Tensor],
        mean: Callable[[Tensor], Tensor] | None = None,
    ):
        self.parameters = list(parameters)
        self.mean = mean
        self.products = 0
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            found = torch.autograd.grad(loss(), self.parameters, create_graph=True, allow_unused=True)
        self._gradients = [(place, each) for place, each in enumerate(found) if each is not None and each.grad_fn]

    def __call__(self, vector: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        parts = vector.split([parameter.numel() for parameter in self.parameters])
        given = [parts[place].view_as(each).to(each.dtype) for place, each in self._gradients]
        found = torch.autograd.grad(
            [each for _, each in self._gradients],
            self.parameters,
            given,
            retain_graph=True,
            allow_unused=True,
            materialize_grads=True,
        )
        self.products += 1
        product = torch.cat([each.flatten().to(vector.dtype) for each in found])
        return product if self.mean is None else self.mean(product)
