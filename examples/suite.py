"""A comparison at equal operations from Python: which arms, at what budget, and what its verdict says.

Run: ``python examples/suite.py [ARM ...]`` with arms as in ``mgr bench-fixed-flops -a``; the first is the baseline.

This is the smallest preset, which shows that everything runs and is too small to judge; its verdicts say so. For an
answer take ``preset="quick"`` (minutes) or ``"standard"`` (hours). Finished runs are kept: a second call trains none.
"""

from __future__ import annotations

import argparse

from nanochat.bench import SuiteConfig, run
from nanochat.config import ConfigError


def main() -> None:
    """Run and read."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("arms", nargs="*", default=["standard", "gauge"])
    parser.add_argument("--artifacts-dir", default="artifacts")
    parser.add_argument("--cache-dir", help="where the prepared text goes")
    options = parser.parse_args()
    try:
        design = SuiteConfig(
            arms=tuple(options.arms),
            baseline=options.arms[0],
            preset="smoke",
            artifacts_dir=options.artifacts_dir,
            cache_dir=options.cache_dir,
        )
        verdicts = run(design)
    except ConfigError as error:
        parser.error(str(error))
    print(verdicts.plan.size)
    print(f"{verdicts.plan.budget:.3g} operations for each of {len(verdicts.plan.seeds)} seeds per arm")
    for arm in verdicts.arms:
        mean = "diverged" if arm.mean is None else f"{arm.mean:.3f} bits per byte"
        print(f"{arm.label}: {arm.verdict}, {mean} after {arm.steps} steps{'; ' * bool(arm.note)}{arm.note}")
    for arm in verdicts.contenders:
        if arm.low is not None and arm.high is not None:
            print(f"{arm.label} minus {design.baseline}: {arm.difference:+.3f} [{arm.low:+.3f}, {arm.high:+.3f}]")
    print(f"audits {'passed' if verdicts.valid else 'FAILED'}; report: {verdicts.directory / 'report.html'}")


if __name__ == "__main__":  # runs are trained in processes of their own, which import this file
    main()
