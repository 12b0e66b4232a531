"""Finished runs and suites for other programs: tables, TensorBoard event files, Weights & Biases without a network.

A training run is one TensorBoard run and one W&B run, grouped by the suite whose summary names it, with its learning
curve, its final numbers and the hyperparameters that decided them. Runs that no finished suite rests on are in the
group :data:`OTHER`. Nothing is computed here: every number is the store's.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanochat.bench.index import COLUMNS, Index
from nanochat.bench.store import Outcome
from nanochat.config import ConfigError, EnvironmentFault
from nanochat.record import write_bytes

if TYPE_CHECKING:
    from nanochat.bench.compare import Suite

OTHER = "other"
PROJECT = "model-guided-research"
TENSORBOARD, WANDB = "tensorboard", "wandb"
TABLES = (".csv", ".parquet")
KINDS = (TENSORBOARD, WANDB, *(suffix[1:] for suffix in TABLES))
OPTIONS = ", ".join(f"--{kind}" for kind in KINDS)
NEED_TABLE = f"need a name that ends in .parquet or .csv, or one of {OPTIONS} and a folder"

IDENTITY: Mapping[str, str] = {"suite": "TEXT", "arm": "TEXT", "stage": "TEXT"}

RUN_COLUMNS = {**IDENTITY, **COLUMNS}

CURVE_COLUMNS = {
    **IDENTITY,
    "key": "TEXT",
    "seed": "INTEGER",
    "step": "INTEGER",
    "operations": "REAL",
    "seconds": "REAL",
    "train_nats": "REAL",
}
"""A point of a learning curve: mean training loss of the steps up to ``step`` since the point before it."""

VERDICT_COLUMNS = {
    "suite": "TEXT",
    "label": "TEXT",
    "against": "TEXT",
    "verdict": "TEXT",
    "flags": "TEXT",
    "note": "TEXT",
    "seeds": "INTEGER",
    "mean": "REAL",
    "difference": "REAL",
    "low": "REAL",
    "high": "REAL",
    "sd": "REAL",
    "p": "REAL",
    "p_adjusted": "REAL",
    "p_sign_flip": "REAL",
    "p_tie": "REAL",
    "detectable": "REAL",
    "seeds_needed": "INTEGER",
    "confirmation": "TEXT",
    "equal_seconds": "TEXT",
    "audit_faults": "INTEGER",
    "optimizer": "TEXT",
    "scheduler": "TEXT",
    "learning_rate": "REAL",
    "steps": "INTEGER",
    "parameters": "INTEGER",
    "operations": "REAL",
    "step_seconds": "REAL",
    "seconds": "REAL",
    "time_ratio": "REAL",
    "peak_bytes": "REAL",
    "budget": "REAL",
    "sesoi": "REAL",
    "alpha": "REAL",
    "design": "TEXT",
}
"""An arm of a suite; the names are those of ``summary.json``."""


@dataclass(frozen=True, slots=True)
class Exported:
    """One finished run.

    Args:
        suite: that rests on it, or :data:`OTHER`.
        arm: its label there; the attention type where no suite names it.
        stage: what it was for; empty where no suite names it.
        row: what the index says of it.
        outcome: what it came to.
        facts: what its key is the hash of.
    """

    suite: str
    arm: str
    stage: str
    row: Mapping[str, Any]
    outcome: Outcome
    facts: Mapping[str, Any]

    @property
    def key(self) -> str:
        return self.row["key"]

    @property
    def identity(self) -> dict[str, str]:
        return {"suite": self.suite, "arm": self.arm, "stage": self.stage}

    @property
    def name(self) -> str:
        """Unique in its suite."""
        return f"{self.arm} {self.stage} seed {self.row['seed']} {self.key[:8]}".replace("  ", " ")

    @property
    def hyperparameters(self) -> dict[str, bool | int | float | str]:
        """What was chosen: every plain value of the run's facts, by section and name."""
        sections = {name: part for name, part in self.facts.items() if isinstance(part, dict)}
        found = {
            f"{section}.{name}": value
            for section, part in sections.items()
            for name, value in part.items()
            if isinstance(value, bool | int | float | str)
        }
        return {**self.identity, **found}

    @property
    def metrics(self) -> dict[str, float]:
        """What it came to; a run that diverged has no ``bits_per_byte``."""
        outcome = self.outcome
        score = {} if outcome.bpb is None else {"bits_per_byte": outcome.bpb}
        names = ("diverged", "tokens", "flops_used", "parameters", "step_seconds", "wall_seconds", "peak_bytes")
        return {**score, **{name: float(getattr(outcome, name)) for name in names}}

    def points(self) -> Iterator[dict[str, Any]]:
        """The learning curve; operations and seconds by the share of the run's steps."""
        outcome = self.outcome
        for step, loss in outcome.loss_curve:
            share = (step + 1) / outcome.steps
            yield {
                "step": int(step),
                "operations": share * outcome.flops_used,
                "seconds": share * outcome.wall_seconds,
                "train_nats": loss,
            }


def collect(index: Index, suites: Sequence[Suite], where: Iterable[str] = (), *, others: bool) -> list[Exported]:
    """The runs to write, suite by suite; a run that two suites share is in both.

    Args:
        index: of the store.
        suites: finished ones.
        where: conditions on the index, as in :meth:`Index.rows`.
        others: runs that none of the suites rests on, too.
    """
    rows = {row["key"]: row for row in index.rows(where)}
    places: dict[tuple[str, str], tuple[str, str]] = {}
    for suite in suites:
        for label, arm in suite.arms.items():
            for run in arm["runs"]:
                places.setdefault((suite.name, run["key"]), (label, run["stage"]))
    used = {key for _, key in places}
    if others:
        places |= {(OTHER, key): (row["attention"], "") for key, row in rows.items() if key not in used}
    found = []
    for (suite, key), (arm, stage) in places.items():
        if key in rows:
            outcome, facts = index.store.load(key), index.facts(key)
            assert outcome is not None and facts is not None  # or the index had no row
            found.append(Exported(suite, arm, stage, rows[key], outcome, facts))
    return found


def run_rows(runs: Iterable[Exported]) -> list[dict[str, Any]]:
    """A row per run."""
    return [{**run.identity, **run.row} for run in runs]


def curve_rows(runs: Iterable[Exported]) -> list[dict[str, Any]]:
    """A row per point of every learning curve."""
    return [
        {**run.identity, "key": run.key, "seed": run.row["seed"], **point} for run in runs for point in run.points()
    ]


def verdict_rows(suites: Iterable[Suite]) -> list[dict[str, Any]]:
    """A row per arm of every suite: the verdict table."""
    return [_verdict_row(suite, arm) for suite in suites for arm in suite.arms.values()]


def _verdict_row(suite: Suite, arm: Mapping[str, Any]) -> dict[str, Any]:
    again = {"confirmation": arm["confirmation"], "equal_seconds": arm["time"]}
    derived = {
        "suite": suite.name,
        "flags": " ".join(arm["flags"]),
        "seeds": len(arm["bpb"]),
        "audit_faults": len(arm["audit"]["faults"]),
        "learning_rate": arm["tuning"]["learning_rate"],
        **{name: None if found is None else found["verdict"] for name, found in again.items()},
        **{name: suite.summary[name] for name in ("budget", "sesoi", "alpha", "design")},
    }
    return {name: derived[name] if name in derived else arm[name] for name in VERDICT_COLUMNS}


def write_table(rows: Sequence[Mapping[str, Any]], path: Path, columns: Mapping[str, str] = COLUMNS) -> None:
    """Write rows as ``.parquet`` or ``.csv``, complete or not at all.

    Args:
        rows: values by column.
        path: of the file.
        columns: SQL types by name.
    """
    import pyarrow as pa

    kinds = {"TEXT": pa.string(), "TEXT PRIMARY KEY": pa.string(), "INTEGER": pa.int64(), "REAL": pa.float64()}
    schema = pa.schema([(name, kinds[kind]) for name, kind in columns.items()])
    table = pa.Table.from_pylist(list(rows), schema=schema)
    buffer = pa.BufferOutputStream()
    if path.suffix == ".csv":
        from pyarrow import csv

        csv.write_csv(table, buffer)
    else:
        from pyarrow import parquet

        parquet.write_table(table, buffer)
    write_bytes(path, buffer.getvalue().to_pybytes())


def write_tables(runs: Sequence[Exported], suites: Sequence[Suite], folder: Path, suffix: str) -> None:
    """``runs``, ``curves`` and ``verdicts`` as ``.csv`` or ``.parquet``."""
    write_table(run_rows(runs), folder / f"runs{suffix}", RUN_COLUMNS)
    write_table(curve_rows(runs), folder / f"curves{suffix}", CURVE_COLUMNS)
    write_table(verdict_rows(suites), folder / f"verdicts{suffix}", VERDICT_COLUMNS)


def finished_suites(names: Iterable[str], reports: Path) -> list[Suite]:
    """The suites of these names, or all finished ones.

    Raises:
        ConfigError: there is no such suite.
    """
    from nanochat.bench.compare import SUMMARY, read

    chosen = list(names) or sorted(str(path.parent) for path in reports.glob(f"*/{SUMMARY}"))
    return [read(name, reports) for name in chosen]


def ready(path: Path, kinds: Collection[str], suites: Collection[str]) -> None:
    """Find out before anything is read or written that something could not be.

    Args:
        path: a folder; a table of runs where there are no ``kinds``.
        kinds: of :data:`KINDS`.
        suites: names that were asked for.

    Raises:
        EnvironmentFault: the package of a program is not installed.
        ConfigError: the path is not of that kind, or has an earlier export: its curves would be drawn twice.
    """
    if not kinds:
        faults = [] if path.suffix in TABLES else [f"export: got {path.name}, {NEED_TABLE}"]
        faults += ["--suite: got no kind of export, need one of " + OPTIONS] if suites else []
    else:
        taken = [path / program for program in PROGRAMS if program in kinds and (path / program).exists()]
        faults = [f"export: got {place}, which is there already, need a new folder" for place in taken]
        faults += [f"export: got {path} with --{kind}, need a folder" for kind in kinds if path.suffix in TABLES][:1]
        faults += [f"export: got the file {path}, need a folder"] if path.is_file() else []
    if faults:
        raise ConfigError(faults)
    missing = [name for name in PROGRAMS if name in kinds and importlib.util.find_spec(name) is None]
    if missing:
        need = f"need the extra: pip install -e '.[{','.join(missing)}]'"
        raise EnvironmentFault(f"export: {' and '.join(missing)} not installed; {need}")


def write_tensorboard(runs: Iterable[Exported], folder: Path) -> None:
    """Event files in ``folder/tensorboard/SUITE/ARM/RUN``, for ``tensorboard --logdir folder/tensorboard``.

    Wall times are those of the run: its last point is when it was finished.
    """
    from torch.utils.tensorboard import SummaryWriter
    from torch.utils.tensorboard.summary import hparams

    for run in runs:
        tail = run.name.removeprefix(run.arm).strip().replace(" ", "-")
        begin = run.row["finished"] - run.outcome.wall_seconds
        writer = SummaryWriter(str(folder / TENSORBOARD / run.suite / _file_name(run.arm) / tail))
        for point in run.points():
            writer.add_scalar("train/nats", point["train_nats"], point["step"], begin + point["seconds"])
        if run.outcome.bpb is not None:
            writer.add_scalar("held_out/bits_per_byte", run.outcome.bpb, run.outcome.steps, run.row["finished"])
        metrics = {f"final/{name}": value for name, value in run.metrics.items()}
        for name, value in metrics.items():
            writer.add_scalar(name, value, run.outcome.steps, run.row["finished"])
        assert writer.file_writer is not None  # SummaryWriter.add_hparams would make a second run of it
        for part in hparams(run.hyperparameters, metrics):
            writer.file_writer.add_summary(part)
        writer.close()


def write_wandb(runs: Iterable[Exported], folder: Path) -> None:
    """Offline runs in ``folder/wandb``; ``wandb sync`` would send them, this sends nothing and asks for nothing.

    Every way of the client to reach a network, or to look at this machine, is off; a test holds it to that.
    """
    os.environ["WANDB_ERROR_REPORTING"] = "false"  # read on import: there is no other way to say it
    import wandb  # pyright: ignore[reportMissingImports]  # an extra that the tests do not install

    settings = wandb.Settings(
        mode="offline",
        silent=True,
        console="off",
        disable_git=True,
        disable_code=True,
        x_disable_stats=True,
        x_disable_meta=True,
        x_disable_machine_info=True,
        x_save_requirements=False,
    )
    for run in runs:
        record = wandb.init(
            project=PROJECT,
            group=run.suite,
            job_type=run.stage or None,
            name=run.name,
            id=f"{run.key[:16]}-{_file_name(run.suite)}",
            config=run.hyperparameters,
            dir=str(folder),
            settings=settings,
        )
        for point in run.points():
            record.log(dict(point), step=point["step"])
        record.summary.update(run.metrics)
        record.finish()
    wandb.teardown()


PROGRAMS = {TENSORBOARD: write_tensorboard, WANDB: write_wandb}


@dataclass(frozen=True, slots=True)
class Written:
    """What :func:`export` did: ``runs`` were written; ``missing`` ones are named by a suite and not in the store."""

    runs: int
    missing: int


def export(
    index: Index,
    path: Path,
    kinds: Collection[str],
    *,
    suites: Sequence[str] = (),
    reports: Path,
    where: Iterable[str] = (),
) -> Written:
    """Write the runs of a store; see :func:`ready` for the arguments and what is refused."""
    ready(path, kinds, suites)
    if not kinds:
        rows = index.rows(where)
        write_table(rows, path)
        return Written(len(rows), 0)
    chosen = finished_suites(suites, reports)
    runs = collect(index, chosen, where, others=not suites)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError([f"export: got {path} ({error.strerror}), need a folder"]) from error
    for name, write in PROGRAMS.items():
        if name in kinds:
            write(runs, path)
    for suffix in TABLES:
        if suffix[1:] in kinds:
            write_tables(runs, chosen, path, suffix)
    named = {run["key"] for suite in chosen for arm in suite.arms.values() for run in arm["runs"]}
    return Written(len(runs), sum(index.store.load(key) is None for key in named))


def _file_name(text: str) -> str:
    """A label as one part of a path."""
    return re.sub(r"[^\w.,=+-]", "_", text)
