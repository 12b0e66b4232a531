"""The last self-tests of this place, and the line about them that stands in every report. No heavy import."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nanochat.bench.code import engine_hash
from nanochat.bench.selftests.finding import Finding
from nanochat.config import ConfigError
from nanochat.record import environment, write_json

SCHEMA = "mgr.selftest.v1"
FILE = "selftest.json"


class Kept:
    """``<artifacts>/bench/selftest.json``: the last finding of every self-test, with its date, code and machine.

    Args:
        artifacts: root of everything that runs write.

    Raises:
        ConfigError: the folder cannot be written to.
    """

    def __init__(self, artifacts: Path):
        self.path = artifacts / "bench" / FILE
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            probe = self.path.with_suffix(".writable")
            probe.touch()
            probe.unlink()
        except OSError as error:
            fault = f"--artifacts-dir: got {artifacts} ({error.strerror}), need a writable folder"
            raise ConfigError([fault]) from error

    def keep(self, finding: Finding) -> None:
        """Replace what is known of this self-test."""
        known = {entry["name"]: entry for entry in read(self.path)}
        now = datetime.now(UTC).isoformat(timespec="seconds")
        machine = environment()
        known[finding.name] = {
            **finding.to_json(),
            "date": now,
            "code": engine_hash(),
            "machine": f"{machine['processor']}, {machine['cores']} cores, Python {machine['python']}",
        }
        write_json(self.path, {"schema": SCHEMA, "findings": list(known.values())})


def read(path: Path) -> list[dict[str, Any]]:
    """The findings in a file; none where it is not there or not ours."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError, UnicodeDecodeError):
        return []
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        return []
    return content["findings"]


def standing(artifacts: Path) -> dict[str, Any]:
    """What the reports of this place say about the engine: ``badge``, and the findings behind it."""
    findings = read(artifacts / "bench" / FILE)
    return {"badge": badge(findings, engine_hash()), "findings": findings}


def badge(findings: list[dict[str, Any]], code: str) -> str:
    """One line: how many passed, when, the rates that matter most, and whether the engine has changed since.

    Args:
        findings: kept ones.
        code: hash of the engine as it is now.

    Example:
        >>> badge([], "")
        'self-tests: never run here (mgr selftest)'
    """
    from nanochat.bench.selftests import SELFTESTS

    if not findings:
        return "self-tests: never run here (mgr selftest)"
    passed = [entry["name"] for entry in findings if entry["passed"]]
    failed = [entry["name"] for entry in findings if not entry["passed"]]
    missing = [test.name for test in SELFTESTS if test.name not in {entry["name"] for entry in findings}]
    parts = [f"self-tests {len(passed)}/{len(SELFTESTS)} passed{_when(findings)}"]
    if failed:
        parts.append(f"FAILED: {', '.join(failed)}")
    if missing:
        parts.append(f"not run here: {', '.join(missing)} (mgr selftest --full)")
    parts += [entry["headline"] for entry in findings if entry["headline"]]
    if any(entry["code"] != code for entry in findings):
        parts.append("the engine's code has changed since")
    return "; ".join(parts)


def _when(findings: list[dict[str, Any]]) -> str:
    days = sorted({entry["date"][:10] for entry in findings})
    return f" on {days[0]}" if len(days) == 1 else f" between {days[0]} and {days[-1]}"
