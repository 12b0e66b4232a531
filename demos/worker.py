"""The process of one demo in `mgr run-all`: standard input says what to run, standard output gets the result as JSON.

When the process that started it is gone, it ends by itself.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from demos.result import DemoConfig, Result, export

WATCH_SECONDS = 1.0


def perform(config: DemoConfig) -> Result:
    """Run the demo that a configuration names."""
    from demos import registry

    return registry.get(config.name).load()(config)


def main() -> None:
    """See the head of this file; the request is one line, see :class:`demos.pool.Request`."""
    # Only the result may reach the pipe; native code that prints would break it.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    threading.Thread(target=end_with, args=(os.getppid(),), daemon=True).start()
    request = json.loads(sys.stdin.readline())
    if request["cores"] and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, request["cores"])  # before jax is imported: it starts a thread for each core it may use
    result = serve(request)
    json.dump(result.to_json(), answers, allow_nan=False)
    answers.close()


def end_with(parent: int) -> None:
    """End this process when its parent is gone, even in the middle of a compilation."""
    while os.getppid() == parent:
        time.sleep(WATCH_SECONDS)
    os._exit(1)


def serve(request: dict[str, Any]) -> Result:
    """Run the demo, and write what was asked for beside the result."""
    module, _, name = request["play"].rpartition(".")
    play: Callable[[DemoConfig], Result] = getattr(importlib.import_module(module), name)
    result = play(DemoConfig(**request["config"]))
    if request["exports"]:
        export(result, Path(request["exports"]) / f"{result.config.name}.json")
    if request["plots"]:
        from demos.plots import save

        save(result, Path(request["plots"]), request["suffix"])
    return result
