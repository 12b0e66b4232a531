"""Quick runs of the demos that several test files share: one process computes each of them once."""

from __future__ import annotations

import functools

from demos import registry
from demos.result import DemoConfig, Result

ITERATIONS = 20  # one number for all, so that programs are compiled once


def play(name: str, seed: int = 0, iterations: int = ITERATIONS, **options: bool | str) -> Result:
    config = DemoConfig(name=name, quick=True, seed=seed, max_iterations=iterations, options=options)
    return registry.get(name).load()(config)


played = functools.cache(play)
