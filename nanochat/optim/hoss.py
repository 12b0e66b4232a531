r"""HOSS: the gradient flow of the loss's quadratic model, solved for a whole interval of time on a Krylov space.

A step of length delta ends where :math:`\dot w = -(g + H (w - w_0))` is after time delta: short along stiff directions,
which have arrived, and long along flat ones. Directions of negative curvature are left at the rate at which their
mirror image would be approached.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nanochat.config import ConfigError, common_faults, option
from nanochat.optim.registry import OPTIMIZERS
from nanochat.registry import Operations, OptimizerRecord, Refresh

if TYPE_CHECKING:
    from nanochat.gpt import GPT

SPACES = ("whole", "groups")


@dataclass(frozen=True, kw_only=True, slots=True)
class HossKnobs:
    """Options of ``hoss``."""

    krylov: int = option(8, "dimension of a Krylov space: Hessian products per refresh", unit="products")
    refresh: int = option(1, "new curvature every so many steps", unit="steps")
    spaces: str = option(
        "whole", "one Krylov space for all weights, or one per parameter group (block-diagonal Hessian)", choices=SPACES
    )
    temperature: float = option(0.0, "of Langevin noise with the covariance of the exact flow; 0 is none")
    noise_seed: int = option(0, "seed of the noise")

    def __post_init__(self) -> None:
        faults = common_faults(self)
        for name, low in (("krylov", 1), ("refresh", 1), ("temperature", 0), ("noise_seed", 0)):
            if getattr(self, name) < low:
                faults.append(f"--hoss-{name.replace('_', '-')}: got {getattr(self, name):g}, need at least {low}")
        if faults:
            raise ConfigError(faults)


def _weights(matrices: list[tuple[int, int]], others: int) -> int:
    return sum(rows * columns for rows, columns in matrices) + others


def operations(matrices: list[tuple[int, int]], others: int, knobs: HossKnobs) -> Operations:
    """Per step and weight: 4 k in products with the basis, twice that with noise; elementwise 2 for what lies outside
    the space, length 2, limit and update; 3 more for noise.
    """
    acts, extra = (2, 3) if knobs.temperature else (1, 0)
    return _weights(matrices, others) * Operations(matmul=4 * knobs.krylov * acts, elementwise=6 + extra)


def curvature(matrices: list[tuple[int, int]], others: int, groups: int, knobs: HossKnobs) -> Refresh:
    """A space takes k products; per weight, two rounds of making k directions orthogonal to those before, 4 k (k - 1)
    + 2 k in products, and elementwise 2 subtractions, length 2, division for each but the last, 3 for the first.
    """
    k = knobs.krylov
    vectors = Operations(matmul=4 * k * (k - 1) + 2 * k, elementwise=5 * (k - 1) + 3)
    spaces = groups if knobs.spaces == "groups" else 1
    return Refresh(every=knobs.refresh, products=spaces * k, operations=_weights(matrices, others) * vectors)


OPTIMIZERS.register(
    OptimizerRecord(
        name="hoss",
        title="exponential-Euler macro steps in a Krylov space of the Hessian",
        source="doi:10.1017/S0962492910000048",
        cls="HOSS",
        knobs=HossKnobs,
        learning_rate=1.0,
        operations=operations,
        curvature=curvature,
    ),
    __name__,
)

import torch
from torch import Tensor

from nanochat.config import OptimConfig
from nanochat.curvature import Curvature
from nanochat.initialise import generator_for
from nanochat.optim import _krylov
from nanochat.optim._parameters import groups_of
from nanochat.optim.registry import peak_rate


class MacroStep(torch.optim.Optimizer):
    r"""With g the gradient, :math:`|H| = S |\Lambda| S^\top` and :math:`\varphi_\delta(\lambda) =
    (1 - e^{-\delta\lambda}) / \lambda`, each step is

    .. math:: w \leftarrow w - \varphi_\delta(|H|)\, g + \xi, \qquad
              \xi \sim N\bigl(0,\; \tau\, \varphi_{2\delta}(|H|)\bigr),

    both inside a Krylov space (:func:`nanochat.optim._krylov.act`), outside of which |H| is its largest Ritz value. The
    covariance solves :math:`\dot\Sigma = -|H|\Sigma - \Sigma|H| + 2\tau` from 0 over time :math:`\delta`.

    Groups may have different rates: with D their ratios to the first, the flow is :math:`\dot w = -D\,\nabla L`, that
    is the one above for :math:`D^{1/2} H D^{1/2}` in the coordinates :math:`D^{-1/2} w`.

    Args:
        params: parameters or groups with ``lr`` (the time :math:`\delta`), ``initial_lr``, ``weight_decay``. Between
            groups only the ratios of ``initial_lr`` count; :math:`\delta` is that of the first.
        lr: of groups without their own.
        krylov: dimension of a space.
        refresh: steps between two looks at the curvature.
        by_group: one space per group, of its block of the Hessian, instead of one for all.
        temperature: :math:`\tau`.
        noise_seed: keys the noise, together with the number of the step.
        limit: longest step over :math:`\delta`, infinity for none. Where :math:`\delta` is small this is gradient
            clipping; where it is not, it acts on what the curvature has left of the gradient.

    Example:
        >>> optimizer = MacroStep(model.parameters(), lr=1.0)
        >>> model(x, y).backward()
        >>> optimizer.step(lambda: Curvature(lambda: model(x, y), optimizer.parameters))
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1.0,
        *,
        krylov: int = 8,
        refresh: int = 1,
        by_group: bool = False,
        temperature: float = 0.0,
        noise_seed: int = 0,
        limit: float = float("inf"),
    ):
        super().__init__(params, {"lr": lr, "weight_decay": 0.0, "taken": 0})
        for group in self.param_groups:
            group.setdefault("initial_lr", group["lr"])
        self.krylov = krylov
        self.refresh = refresh
        self.by_group = by_group
        self.temperature = temperature
        self.noise_seed = noise_seed
        self.limit = limit

    @property
    def parameters(self) -> list[Tensor]:
        """All of them, in the order of the groups: the order of flat vectors."""
        return [parameter for group in self.param_groups for parameter in group["params"]]

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One macro step; where the curvature is not finite, none.

        Args:
            closure: returns the :class:`nanochat.curvature.Curvature` of the loss over :attr:`parameters`; called
                where curvature is due.

        Raises:
            ValueError: curvature is due and there is no closure, or its parameters are not those here.
        """
        parameters = self.parameters
        if all(parameter.grad is None for parameter in parameters):
            return
        gradient = self._scaled(_flat(parameters, [parameter.grad for parameter in parameters]))
        spaces = self._spaces(gradient, closure)
        time = self.param_groups[0]["lr"]
        if all(bool(space.projected.isfinite().all()) for _, space in spaces):
            moves = [
                self._limited(_krylov.act(space, lambda values: _krylov.phi(values, time), gradient[span]), time)
                for span, space in spaces
            ]
            if self.temperature:
                noise = self._noise(gradient)
                for move, (span, space) in zip(moves, spaces, strict=True):
                    move += _krylov.act(space, lambda values: self._deviation(values, time), noise[span])
            self._move(self._scaled(torch.cat(moves)))
        for group in self.param_groups:
            group["taken"] += 1

    def _deviation(self, values: Tensor, time: float) -> Tensor:
        return (self.temperature * _krylov.phi(values, 2 * time)).sqrt()

    def _limited(self, move: Tensor, time: float) -> Tensor:
        """Downhill, no longer than the limit allows."""
        length = float(torch.linalg.vector_norm(move))
        return move.mul_(-min(1.0, self.limit * time / length) if length else -1.0)

    def _noise(self, like: Tensor) -> Tensor:
        """Standard normal numbers that depend on seed, step and place only."""
        shape = (like.numel(),)
        generator = generator_for(self.noise_seed, f"noise.{self.param_groups[0]['taken']}", shape)
        return torch.randn(shape, generator=generator, dtype=torch.float32).to(like)

    def _move(self, moves: Tensor) -> None:
        place = 0
        for group in self.param_groups:
            kept = 1 - group["lr"] * group["weight_decay"]
            for parameter in group["params"]:
                part = moves[place : place + parameter.numel()].view_as(parameter)
                place += parameter.numel()
                if parameter.grad is None:
                    continue
                if kept != 1:
                    parameter.mul_(kept)
                parameter.add_(part.to(parameter.dtype))

    def _sizes(self) -> list[int]:
        return [sum(parameter.numel() for parameter in group["params"]) for group in self.param_groups]

    def _scaled(self, vector: Tensor) -> Tensor:
        """D^(1/2) times a flat vector."""
        rates = [group["initial_lr"] for group in self.param_groups]
        if all(rate == rates[0] for rate in rates):
            return vector
        parts = vector.split(self._sizes())
        return torch.cat([part * (rate / rates[0]) ** 0.5 for part, rate in zip(parts, rates, strict=True)])

    def _spaces(self, gradient: Tensor, closure: Any) -> list[tuple[slice, _krylov.Space]]:
        """Which numbers of a flat vector each Krylov space is of, and the space."""
        groups = [[group] for group in self.param_groups] if self.by_group else [self.param_groups]
        leads = [block[0]["params"][0] for block in groups]
        spans, start = [], 0
        for block in groups:
            end = start + sum(parameter.numel() for group in block for parameter in group["params"])
            spans.append(slice(start, end))
            start = end
        due = self.param_groups[0]["taken"] % self.refresh == 0
        if due or any("basis" not in self.state.get(lead, {}) for lead in leads):
            curvature = self._curvature(closure)
            spaces = [self._space(curvature, gradient, span) for span in spans]
            if self.refresh > 1:
                for lead, space in zip(leads, spaces, strict=True):
                    self.state[lead] = {"basis": space.basis, "projected": space.projected}
            return list(zip(spans, spaces, strict=True))
        kept = [self.state[lead] for lead in leads]
        spaces = [_krylov.Space(state["basis"].to(gradient), state["projected"].double().cpu()) for state in kept]
        return list(zip(spans, spaces, strict=True))

    def _curvature(self, closure: Any) -> Curvature:
        if closure is None:
            raise ValueError("hoss: got no closure in a step in which curvature is due, need one that returns it")
        curvature = closure()
        if [id(parameter) for parameter in curvature.parameters] != [id(parameter) for parameter in self.parameters]:
            raise ValueError("hoss: got the curvature of other parameters, need `optimizer.parameters`, in their order")
        return curvature

    def _space(self, curvature: Curvature, gradient: Tensor, span: slice) -> _krylov.Space:
        """The Krylov space that these numbers' gradient and their block of the Hessian generate."""

        def product(vector: Tensor) -> Tensor:
            whole = torch.zeros_like(gradient)
            whole[span] = vector
            return self._scaled(curvature(self._scaled(whole)))[span]

        return _krylov.lanczos(product, gradient[span], self.krylov)


def _flat(parameters: list[Tensor], values: list[Tensor | None]) -> Tensor:
    """One vector of all, zero where there is none; in float64 where a parameter is, else in float32."""
    exact = any(parameter.dtype == torch.float64 for parameter in parameters)
    wide = torch.float64 if exact else torch.float32
    pairs = zip(parameters, values, strict=True)
    return torch.cat([(torch.zeros_like(one) if value is None else value).flatten().to(wide) for one, value in pairs])


class HOSS(MacroStep):
    """:class:`MacroStep` over every parameter of a model, whatever its shape.

    Args:
        model: its parameters are grouped as ``matrices``, ``embedding``, ``head``, ``others``; empty groups are left
            out. Only ``matrices`` decay.
        optim: the time of a step (``learning_rate``), the scales of embedding and head, weight decay, the limit of a
            step over its time (``grad_clip``); the options of :class:`HossKnobs` under ``knobs["hoss"]``.
    """

    def __init__(self, model: GPT, optim: OptimConfig):
        knobs = optim.knobs.get("hoss", HossKnobs())
        rate = peak_rate("hoss", optim)
        super().__init__(
            groups_of(model, optim, rate),
            rate,
            krylov=knobs.krylov,
            refresh=knobs.refresh,
            by_group=knobs.spaces == "groups",
            temperature=knobs.temperature,
            noise_seed=knobs.noise_seed,
            limit=optim.grad_clip or float("inf"),
        )
