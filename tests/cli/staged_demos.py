"""Demos that are over at once, in place of the real ones; a process of `mgr run-all` finds them by their names."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace
from pathlib import Path

from demos.certificate import Certificate
from demos.result import Act, DemoConfig, Plot, Result, Table, Text


def outcome(name: str = "tropical", *, holds: bool = True, config: DemoConfig | None = None) -> Result:
    """A small result with every kind of part, some of it text that markup could misread."""
    certificate = Certificate(
        id=f"{name}.law", statement="x[0] holds", value=0.5, tolerance=1.0, holds=holds, witness={}, seal="s"
    )
    parts = (
        Text("A paragraph with [brackets]."),
        Table(("item", "number"), (("[one]", "1"),), title="numbers"),
        Plot("a picture", "▁▂▃█" * 10),
        Text("only when asked", detail=True),
    )
    return Result(
        config=config or DemoConfig(name=name),
        acts=(Act("object", "The object", parts),),
        certificates=(certificate,),
        closing=("First sentence.", "Second sentence."),
        numbers={"n": 1.0},
        seconds=1.25,
    )


def only_tropical_holds(config: DemoConfig) -> Result:
    return outcome(config.name, holds=config.name == "tropical", config=config)


def by_name(config: DemoConfig) -> Result:
    """One that holds and talks, one that does not hold, one that fails, one that is killed; the others hold."""
    if config.name == "reversible":
        raise ZeroDivisionError("a defect [of ours]")
    if config.name == "surreal":
        os.kill(os.getpid(), signal.SIGKILL)
    os.write(1, b"native code prints")
    return replace(outcome(config.name, holds=config.name != "octonion", config=config), gist=("5 to 1", "1 to 5"))


def cores(config: DemoConfig) -> Result:
    """Says how many cores it may use."""
    return replace(outcome(config.name), numbers={"cores": float(len(os.sched_getaffinity(0)))})


def sleeps(config: DemoConfig) -> Result:
    """Leaves its process number in the working folder and never ends."""
    Path(f"{os.getpid()}.pid").touch()
    while True:
        time.sleep(60)
