"""What a demo takes and gives. Nothing here prints; a renderer walks ``Result.acts`` in order.

Rendering: for each :class:`Act` a heading, then its parts in order. A part is a :class:`Text` (paragraph), a
:class:`Table` (columns and rows, already formatted as strings) or a :class:`Plot` (``text`` is a picture of at most 80
columns in plain Unicode, to be shown as it stands). Parts with ``detail=True`` are for ``--verbose`` only. Then the
certificates, then ``closing`` (two sentences) in a panel. Exit code 1 unless ``Result.holds``.

No import of numpy or jax at the top: the command line builds a :class:`DemoConfig` before anything heavy.
"""

from __future__ import annotations

import json
import math
import os
import platform
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from demos import registry
from demos.certificate import SCHEMA, Certificate, plain, seal

if TYPE_CHECKING:
    import numpy as np

ACTS = ("object", "laws", "learning", "limits")


class DemoConfigError(ValueError):
    """Faults in what the user asked a demo to do, all of them, one line each in ``faults``."""

    def __init__(self, faults: list[str]):
        super().__init__("\n".join(faults))
        self.faults = tuple(faults)


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoConfig:
    """What every demo takes.

    Args:
        name: demo, as in the catalogue.
        seed: of all random numbers, 0 to 2^32 - 1.
        max_iterations: cap on the training iterations of the learning act; ``None`` is the demo's own count.
        quick: smaller sizes, under 20 seconds.
        verbose: compute and show the parts marked ``detail`` too (they are always in the result).
        debug: stop at the first NaN or infinity, with a traceback of where it arose.
        cache: keep compiled programs in the user's cache directory, so that a second run starts faster.
        options: the demo's own options, by name; missing ones take their defaults.

    Raises:
        DemoConfigError: with every fault.

    Example:
        >>> DemoConfig(name="tropical", quick=True).options["score"]
        'hilbert'
    """

    name: str
    seed: int = 0
    max_iterations: int | None = None
    quick: bool = False
    verbose: bool = False
    debug: bool = False
    cache: bool = True
    options: Mapping[str, bool | str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        demo = registry.get(self.name)
        faults = []
        if not 0 <= self.seed < 2**32:
            faults.append(f"--seed: got {self.seed}, need 0 to {2**32 - 1}")
        if self.max_iterations is not None and self.max_iterations < 1:
            faults.append(f"--max-iterations: got {self.max_iterations}, need at least 1")
        known = {option.name: option for option in demo.options}
        for key, value in self.options.items():
            if key not in known:
                faults.append(f"--{key.replace('_', '-')}: not an option of demo {self.name!r}")
            elif not _fits(known[key], value):
                need = ", ".join(known[key].choices) or "a switch"
                faults.append(f"{known[key].flag}: got {value!r}, need {'one of ' if known[key].choices else ''}{need}")
        if faults:
            raise DemoConfigError(faults)
        resolved = {option.name: self.options.get(option.name, option.default) for option in demo.options}
        object.__setattr__(self, "options", resolved)

    def iterations(self, own: int) -> int:
        """Training iterations: the demo's own count, or the cap where that is less."""
        return min(own, self.max_iterations or own)


def _fits(option: registry.DemoOption, value: bool | str) -> bool:
    return value in option.choices if option.choices else isinstance(value, bool)


@dataclass(frozen=True, slots=True)
class Text:
    """A paragraph."""

    text: str
    detail: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """Columns and rows of formatted cells. The first column is a label, the others are right-aligned."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    title: str = ""
    detail: bool = False


@dataclass(frozen=True, slots=True)
class Plot:
    """A picture: ``text`` for the terminal (at most 80 columns), ``arrays`` for the figure of ``--plots DIR``."""

    title: str
    text: str
    name: str = ""
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    detail: bool = False


Part = Text | Table | Plot


@dataclass(frozen=True, slots=True)
class Act:
    """One of the four acts of a demo, named as in ``ACTS``."""

    name: str
    title: str
    parts: tuple[Part, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """What a demo gives back.

    Args:
        config: what was asked.
        acts: object, laws, learning, limits.
        certificates: each can be checked from its witness alone, see :func:`demos.certificate.verify`.
        closing: two sentences computed from the numbers above them.
        numbers: named scalars that the closing sentences and tests rest on.
        seconds: wall time, compilation included.
        gist: a few words with their numbers: what was learned, against the control, and what was lost; for tables.
    """

    config: DemoConfig
    acts: tuple[Act, ...]
    certificates: tuple[Certificate, ...]
    closing: tuple[str, str]
    numbers: Mapping[str, float]
    seconds: float
    gist: tuple[str, str] = ("", "")

    @property
    def holds(self) -> bool:
        """Whether every certificate holds."""
        return all(certificate.holds for certificate in self.certificates)

    def plots(self) -> list[Plot]:
        """The pictures of all acts, in order."""
        return [part for act in self.acts for part in act.parts if isinstance(part, Plot)]

    def to_json(self) -> dict[str, Any]:
        """Strict JSON values: ``{schema, demo, config, environment, certificates, ...}`` with a seal over the whole."""
        document = {
            "schema": SCHEMA,
            "demo": self.config.name,
            "config": plain(asdict(self.config)),
            "environment": environment(),
            "acts": [{"name": act.name, "title": act.title} for act in self.acts],
            "numbers": {key: value if math.isfinite(value) else None for key, value in self.numbers.items()},
            "closing": list(self.closing),
            "gist": list(self.gist),
            "seconds": round(self.seconds, 3),
            "certificates": [certificate.to_json() for certificate in self.certificates],
        }
        return document | {"seal": seal(document)}


def environment() -> dict[str, str]:
    """What the numbers were computed with: versions and the kind of machine."""
    packages = {name: version(name) for name in ("jax", "jaxlib", "flax", "optax", "numpy")}
    return {"python": platform.python_version(), "system": platform.system(), "machine": platform.machine(), **packages}


def export(result: Result, path: Path) -> None:
    """Write the result as strict JSON, atomically: a reader sees the old file or the new one, never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(result.to_json(), allow_nan=False, indent=1) + "\n"
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
