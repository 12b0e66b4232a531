"""The A/B engine: arms at equal operations, tuned alike, judged over paired seeds.

Example:
    >>> verdicts = run(SuiteConfig(arms=("standard", "tropical"), preset="quick"))
    >>> [(arm.label, arm.verdict) for arm in verdicts.contenders]
"""

from nanochat.bench.engine import run
from nanochat.bench.observe import Observer
from nanochat.config import SuiteConfig

__all__ = ["Observer", "SuiteConfig", "run"]
