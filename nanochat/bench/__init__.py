"""The A/B engine: arms at equal operations, tuned alike, judged over paired seeds.

Example:
    >>> verdicts = run(SuiteConfig(arms=("standard", "tropical"), preset="quick"))
    >>> [(arm.label, arm.verdict) for arm in verdicts.contenders]
"""

from typing import TYPE_CHECKING, Any

from nanochat.bench.config import SuiteConfig

if TYPE_CHECKING:
    from nanochat.bench.engine import run
    from nanochat.bench.observe import Observer

__all__ = ["Observer", "SuiteConfig", "run"]


def __getattr__(name: str) -> Any:
    """The engine on first use, so that a faulty design is refused before it is imported (PEP 562)."""
    if name == "run":
        from nanochat.bench.engine import run

        return run
    if name == "Observer":
        from nanochat.bench.observe import Observer

        return Observer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
