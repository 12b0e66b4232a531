"""Who trains the runs of a suite: processes of this machine, tasks of a Ray cluster, or jobs of Slurm.

All of them work on the same folder of runs, and none keeps anything that is not there. No heavy import.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from importlib.util import find_spec
from typing import Any, get_type_hints

from nanochat.bench.arms import convert
from nanochat.bench.clusters.on_ray import RayCrew, RayOptions
from nanochat.bench.clusters.on_slurm import SlurmCrew, SlurmOptions
from nanochat.bench.config import SuiteConfig
from nanochat.bench.crew import Absent, Crew
from nanochat.config import ConfigError, EnvironmentFault
from nanochat.registry import unknown

DISTRIBUTION = "model-guided-research"

LOCAL = "local"


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of crew that needs an extra.

    Args:
        options: dataclass of what can be said about it.
        build: makes the crew of its options and of whether each worker gets a GPU of its own.
        module: that the extra, which has the crew's name, installs.
    """

    options: type
    build: Callable[[Any, bool], Crew]
    module: str


KINDS = {
    "ray": Kind(RayOptions, RayCrew, "ray"),
    "slurm": Kind(SlurmOptions, SlurmCrew, "submitit"),
}
NAMES = (LOCAL, *KINDS)


def options_of(name: str, pairs: Iterable[str]) -> Any:
    """The options of a crew from ``key=value`` texts; None for the local one, which has none.

    Raises:
        ConfigError: all faults together.
    """
    if name not in NAMES:
        raise ConfigError([unknown("--crew", name, list(NAMES))])
    if name == LOCAL:
        faults = [f"--crew-option: got {pair!r}, need --crew {' or '.join(KINDS)}" for pair in pairs]
        if faults:
            raise ConfigError(faults)
        return None
    cls = KINDS[name].options
    values, faults = _values(cls, pairs)
    if not faults:
        try:
            return cls(**values)
        except ConfigError as error:
            faults += error.faults
    raise ConfigError([f"--crew-option: {fault}" for fault in faults])


def _values(cls: type, pairs: Iterable[str]) -> tuple[dict[str, Any], list[str]]:
    hints = get_type_hints(cls)
    known = [item.name for item in fields(cls)]
    values: dict[str, Any] = {}
    faults = []
    for pair in pairs:
        key, equals, text = (part.strip() for part in pair.partition("="))
        if not (key and equals and text):
            faults.append(f"got {pair!r}, need key=value")
        elif key not in known:
            faults.append(unknown("key", key, known))
        elif key in values:
            faults.append(f"got {key} twice, need it once")
        else:
            try:
                values[key] = convert(text, hints[key])
            except ConfigError as error:
                faults += [f"{key}: {fault}" for fault in error.faults]
    return values, faults


def crew_of(suite: SuiteConfig) -> Crew | None:
    """Who trains a suite, as it asks for it; None for processes of this machine, which the engine starts itself.

    Raises:
        ConfigError: a fault of the options.
        EnvironmentFault: the extra is not installed.
    """
    name = suite.crew
    options = options_of(name, suite.crew_options)
    if name == LOCAL:
        return Absent() if suite.jobs == 0 else None
    if not suite.jobs:
        got = "none" if suite.jobs is None else suite.jobs
        raise ConfigError([f"--jobs: got {got}, need how many workers --crew {name} has"])
    kind = KINDS[name]
    if find_spec(kind.module) is None:
        raise EnvironmentFault(f"--crew {name}: {kind.module} is not installed: pip install '{DISTRIBUTION}[{name}]'")
    return kind.build(options, suite.device.startswith("cuda"))
