"""Registries as frozen data: what the trainer, the command line, the suite, the pages and the contract tests read.

No heavy import happens here. A record points to its class by name; :meth:`Record.load` fetches it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from nanochat.deferred import declare

if TYPE_CHECKING:
    from nanochat.config import GPTConfig


@dataclass(frozen=True, slots=True)
class Operations:
    """Counts of scalar operations, in one unit for all arms of a comparison.

    ``matmul`` counts a multiply-add as 2, ``semiring`` an add-and-max as 2, ``elementwise`` one per output element
    of a pointwise operation and one per input element of a reduction (exp, log, division weigh 1 as well).
    """

    matmul: float = 0.0
    semiring: float = 0.0
    elementwise: float = 0.0

    def __add__(self, other: Operations) -> Operations:
        return Operations(
            self.matmul + other.matmul, self.semiring + other.semiring, self.elementwise + other.elementwise
        )

    def __mul__(self, factor: float) -> Operations:
        return Operations(self.matmul * factor, self.semiring * factor, self.elementwise * factor)

    __rmul__ = __mul__

    @property
    def total(self) -> float:
        """The algorithmic operations that budgets are stated in."""
        return self.matmul + self.semiring + self.elementwise


@dataclass(frozen=True, slots=True)
class Hessian:
    """What second derivatives cost, per token (and layer, of a mechanism).

    Attention runs without fused kernels then, which have one derivative only: all T x T pairs are computed.

    Args:
        graph: forward and backward passes that are recorded to be differentiated again.
        product: one product of the Hessian with a vector: a backward pass through both.
    """

    graph: Operations
    product: Operations

    def __add__(self, other: Hessian) -> Hessian:
        return Hessian(self.graph + other.graph, self.product + other.product)

    def __mul__(self, factor: float) -> Hessian:
        return Hessian(self.graph * factor, self.product * factor)

    __rmul__ = __mul__


@dataclass(frozen=True, slots=True)
class Refresh:
    """How an optimizer looks at the curvature.

    Args:
        every: steps between two looks.
        products: Hessian-vector products of each.
        operations: its own of each, beside the products.
    """

    every: int
    products: int
    operations: Operations


@dataclass(frozen=True, slots=True)
class Requirement:
    """A constraint on the configuration: ``holds(config)`` or ``sentence`` says what is wrong.

    ``sentence`` is a format string that may use ``{config.n_embd}`` and the like.
    """

    holds: Callable[[Any], bool]
    sentence: str

    def fault(self, config: Any) -> str | None:
        return None if self.holds(config) else self.sentence.format(config=config)


@dataclass(frozen=True, slots=True)
class NoKnobs:
    """A mechanism without options of its own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """What every registry entry has.

    Args:
        name: what the user types.
        title: one line for tables.
        source: arXiv number or DOI of what it implements.
        cls: name of the class in the file that declares the entry.
        knobs: frozen dataclass of its own options; they surface as ``--<name>-<knob>``.
        module: filled in by :meth:`Registry.register`.
    """

    name: str
    title: str
    source: str
    cls: str
    knobs: type = NoKnobs
    module: str = ""

    def load(self) -> Any:
        """The class itself; this is what imports torch."""
        return getattr(sys.modules[self.module], self.cls)


@dataclass(frozen=True, kw_only=True, slots=True)
class Limit:
    """The known function that a limit of a mechanism equals.

    ``check()`` takes the limit numerically in float64 and returns the largest absolute difference; the contract suite
    holds it to ``tolerance``. It is a function name in the declaring file, so that no tensor is needed to declare it.
    """

    statement: str
    check: str
    tolerance: float = 1e-6


@dataclass(frozen=True, kw_only=True, slots=True)
class Mechanism(Record):
    """A mixer (``nanochat/attention``) or a whole block stack (``nanochat/block``).

    Args:
        operations: ``(config, length) -> Operations`` per token of one layer, forward, for a sequence of ``length``.
        backward: the same for the backward pass (recomputation included).
        decode: the same for one new token when ``length`` tokens are already cached.
        hessian: ``(config, length)`` to what second derivatives of one layer cost, or to the reason why at these
            options there are none; optimizers that need them are refused with it. None where nobody has looked.
        recompute: of a block stack, how many extra forward passes of its mixers, MLPs and norms its backward pass runs;
            the ledger charges ``backward + recompute * forward`` for those parts. What the block itself adds (joining
            adds and their reconstruction) stands in its ``operations`` and ``backward``.
        state: ``(config, batch, length) -> bytes`` that one layer keeps for decoding, in fp32.
        shapes: ``config -> shapes`` of one layer's parameters, where they are not a mixer's four head projections
            (none, for a block stack).
        length_aware: whether ``--logit-scaling`` acts on it: its scores are linear in the query, which it takes from
            ``HeadMixer.forward`` (or from ``HeadMixer.sharpen``, if it has a forward pass of its own).
        length_blind: otherwise, why: a clause on the mixer, which the refusal of ``--logit-scaling`` quotes.
        requires: constraints; all broken ones are reported together.
        reduces_to: the limit that ties it to something known, tested.
        claims: ids of the capability tasks on which it is judged.
        page: file in ``markdown_documentation``.
        twin: dotted name of the JAX function it must agree with (``demos``), or empty with the reason in ``no_twin``.
    """

    operations: Callable[[GPTConfig, int], Operations]
    backward: Callable[[GPTConfig, int], Operations]
    decode: Callable[[GPTConfig, int], Operations]
    state: Callable[[GPTConfig, int, int], int]
    hessian: Callable[[GPTConfig, int], Hessian | str] | None = None
    recompute: float = 0.0
    shapes: Callable[[GPTConfig], list[tuple[int, ...]]] | None = None
    length_aware: bool = False
    length_blind: str = ""
    requires: tuple[Requirement, ...] = ()
    reduces_to: Limit | None = None
    claims: tuple[str, ...] = ()
    page: str = ""
    twin: str = ""
    no_twin: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerRecord(Record):
    """An optimizer: ``cls`` is a ``torch.optim.Optimizer`` whose constructor takes ``(model, config: OptimConfig)``.

    Args:
        learning_rate: prior that ``--learning-rate`` defaults to and that tuning grids are centred on.
        operations: ``(matrices, others, knobs) -> Operations`` per step; ``matrices`` are the 2-D shapes, ``others``
            the count of remaining scalars, ``knobs`` its own options.
        curvature: ``(matrices, others, groups, knobs) -> Refresh`` of an optimizer that needs second derivatives, over
            so many parameter groups. Its ``step`` takes a closure that returns a :class:`nanochat.curvature.Curvature`,
            and it limits its own steps: gradients are not clipped.
    """

    learning_rate: float
    operations: Callable[[list[tuple[int, int]], int, Any], Operations]
    curvature: Callable[[list[tuple[int, int]], int, int, Any], Refresh] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ScheduleRecord(Record):
    """A learning-rate schedule: ``cls(config: OptimConfig, total_steps)``, see ``nanochat.schedule``."""


R = TypeVar("R", bound=Record)


class Unknown(ValueError):
    """A name that no registry knows; the message names the nearest ones."""


def unknown(kind: str, name: str, names: list[str]) -> str:
    """One line for a mistyped name: what, got, need."""
    import difflib

    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"unknown {kind} {name!r}: need one of {', '.join(names)}{hint}"


@dataclass
class Registry(Generic[R]):
    """Named records of one kind. Names are unique; a duplicate raises.

    Args:
        kind: the word used in messages, for instance ``attention type``.
    """

    kind: str
    _records: dict[str, R] = field(default_factory=dict)

    def register(self, record: R, module: str) -> R:
        """Enter a record; ``module`` is the ``__name__`` of the declaring file."""
        if record.name in self._records:
            raise ValueError(
                f"{self.kind} {record.name!r} is registered twice: {self._records[record.name].module}, {module}"
            )
        from dataclasses import replace

        self._records[record.name] = replace(record, module=module)
        return self._records[record.name]

    def discover(self, package: str, folder: Path) -> None:
        """Declare every mechanism file of the folder: adding a file is adding a mechanism."""
        for module in declare(package, folder):
            if not any(record.module == module.__name__ for record in self._records.values()):
                raise ValueError(f"{module.__name__} registers no {self.kind}")

    def get(self, name: str) -> R:
        if name not in self._records:
            raise Unknown(unknown(self.kind, name, self.names()))
        return self._records[name]

    def names(self) -> list[str]:
        return list(self._records)

    def __contains__(self, name: object) -> bool:
        return name in self._records

    def __iter__(self) -> Iterator[R]:
        return iter(self._records.values())


def default_knobs(records: Mapping[str, Record] | list[Record]) -> dict[str, Any]:
    """Fresh default options of each record that has any, by name."""
    values = records.values() if isinstance(records, Mapping) else records
    return {record.name: record.knobs() for record in values if record.knobs is not NoKnobs}


def qualified(fault: str, record: Record) -> str:
    """A knob's fault under the name that the command line has for it."""
    for item in fields(record.knobs):
        short = f"--{item.name.replace('_', '-')}"
        if not item.metadata.get("flag") and short in fault:
            return fault.replace(short, f"--{record.name}-{short[2:]}", 1)
    return fault
