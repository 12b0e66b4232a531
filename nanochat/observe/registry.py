"""The registry of probes: what can be seen in the heads of a mixer, found by the mixer's name."""

from __future__ import annotations

from dataclasses import dataclass

from nanochat.registry import Record, Registry


@dataclass(frozen=True, slots=True)
class Measure:
    """A number per head.

    Args:
        name: as in the table and in JSON.
        unit: of its values.
        about: what it is, in a clause.
    """

    name: str
    unit: str
    about: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe(Record):
    """How to look into the heads of one mixer; ``name`` is the mixer's.

    ``cls`` is a function ``(mixer, x, rope) -> Seen`` of the declaring file, see :class:`nanochat.observe._seen.Seen`.

    Args:
        measures: what it finds beside what all mixers have.
    """

    measures: tuple[Measure, ...] = ()


PROBES: Registry[Probe] = Registry("probe")
