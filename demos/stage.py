"""How every demo is staged: four acts in order, joined into one result, and the parts that all of them show.

A new demo is a folder with ``maths.py`` (definitions), ``checks.py`` (laws, plain numpy), ``model.py`` (what learns,
and its control), ``figures.py`` (its pictures in print) and ``demo.py``: a generator of four :class:`Scene`, a
``closing``, a ``gist`` and ``run = staged(scenes, closing, gist)``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from demos import terminal
from demos.certificate import Certificate
from demos.result import ACTS, Act, DemoConfig, Part, Plot, Result, Table
from demos.runtime import session

Scenes = Callable[[DemoConfig, np.random.Generator], "Iterator[Scene]"]
Closing = Callable[[DemoConfig, Mapping[str, float]], tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Scene:
    """One act and what it leaves behind: certificates, and numbers for the closing sentences."""

    title: str
    parts: Sequence[Part]
    certificates: Sequence[Certificate] = ()
    numbers: Mapping[str, float] = field(default_factory=dict)


def staged(scenes: Scenes, closing: Closing, gist: Closing) -> Callable[[DemoConfig], Result]:
    """A demo's ``run``: its scenes one after the other, in float64 and with one random generator, as a result.

    Args:
        scenes: gives four scenes: object, laws, learning, limits. A generator, so that a later one can use what an
            earlier one trained.
        closing: two sentences from the numbers of all scenes.
        gist: for the table of all demos, in 60 characters each: what was learned, and what was lost, with both numbers.
    """

    def run(config: DemoConfig) -> Result:
        start = time.perf_counter()
        with session(config):
            played = list(scenes(config, np.random.default_rng(config.seed)))
        numbers = {key: value for scene in played for key, value in scene.numbers.items()}
        return Result(
            config=config,
            acts=tuple(Act(name, scene.title, tuple(scene.parts)) for name, scene in zip(ACTS, played, strict=True)),
            certificates=tuple(certificate for scene in played for certificate in scene.certificates),
            closing=closing(config, numbers),
            numbers=numbers,
            gist=gist(config, numbers),
            seconds=time.perf_counter() - start,
        )

    return run


def parameters(weights: Any) -> int:
    """How many numbers a model learns."""
    return sum(np.size(leaf) for leaf in jax.tree.leaves(weights))


def laws(
    certified: Mapping[str, Certificate],
    measured: Mapping[str, tuple[float, float]],
    broken: Mapping[str, tuple[float, float]],
) -> Table:
    """What must hold, with the error found beside the one allowed, and what must not hold.

    Args:
        certified: name of a law to its certificate.
        measured: name to (error, tolerance), of laws without a certificate.
        broken: negative controls, name to (error, what it must exceed).
    """
    rows = [(name, f"{item.value:.1e}", f"{item.tolerance:.0e}") for name, item in certified.items()]
    rows += [(name, f"{error:.1e}", f"{tolerance:.0e}") for name, (error, tolerance) in measured.items()]
    rows += [(f"not a law: {name}", f"{error:.1e}", f"> {least:.0e}") for name, (error, least) in broken.items()]
    return Table(("law", "error", "tolerance"), tuple(rows))


def loss_plot(
    losses: Mapping[str, np.ndarray], title: str = "Training loss", detail: bool = False, points: int = 60
) -> Plot:
    """Loss by training step of several models, each the mean over windows; the plot's name is ``loss``."""
    steps = min(map(len, losses.values()))
    window = max(1, steps // points)
    smooth = {name: loss[: steps // window * window].reshape(-1, window).mean(1) for name, loss in losses.items()}
    taken = (np.arange(steps // window) + 1) * window
    text = terminal.chart({name: (taken, y) for name, y in smooth.items()}, xlabel="step", ylabel="loss", logy=True)
    return Plot(title, text, "loss", {"steps": taken, **smooth}, detail)
