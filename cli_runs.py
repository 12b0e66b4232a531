"""`mgr runs`, `mgr worker`, `mgr verdict` and others: the store of training runs, who fills it, suites over time."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from cli_view import FOUND_A_FAILURE, AsJson, emit, readable
from nanochat.tables import table as plain_table

app = typer.Typer(help="The finished runs of suites: list, show, export, clean up.", rich_markup_mode=None)

Artifacts = Annotated[Path, typer.Option(help="Root of everything that runs write.")]
StoreFolder = Annotated[Path | None, typer.Option("--store", help="Folder of finished runs; `store` in the root.")]
Where = Annotated[list[str] | None, typer.Option(help="`column=value`, repeatable, such as attention=gauge.")]

ROOT = Path("artifacts")
SHOWN = ("attention", "optimizer", "learning_rate", "seed", "steps", "bpb", "finished")


def index_of(store: Path | None, artifacts: Path) -> Any:
    """The index of a store that exists."""
    from nanochat.bench.index import Index
    from nanochat.bench.store import Store
    from nanochat.config import ConfigError

    root = store or artifacts / "store"
    if not root.is_dir():
        raise ConfigError([f"--store: got {root}, need a folder of runs (mgr bench-fixed-flops makes one)"])
    return Index(Store(root))


@app.command("list")
def list_(
    where: Where = None,
    sort: Annotated[str, typer.Option(help="Column to sort by, largest first.")] = "finished",
    limit: Annotated[int, typer.Option(help="At most so many; 0 for all.", min=0)] = 20,
    store: StoreFolder = None,
    artifacts_dir: Artifacts = ROOT,
    as_json: AsJson = False,
) -> int:
    """Runs, the newest first."""
    index = index_of(store, artifacts_dir)
    rows = index.rows(where or (), sort, limit or None)
    if as_json:
        return emit({"schema": "mgr.runs.v1", "runs": rows})
    cells = [[row["key"][:8], *(_cell(name, row[name]) for name in SHOWN)] for row in rows]
    typer.echo(plain_table(["key", *(name.replace("_", " ") for name in SHOWN)], cells) if rows else "no runs")
    if rows and len(rows) == limit:
        typer.echo(f"\nthe first {limit}; --limit 0 shows all, --where attention=NAME fewer")
    return 0


def _cell(name: str, value: Any) -> str:
    if name == "finished":
        return datetime.fromtimestamp(value).strftime("%m-%d %H:%M")
    if value is None:
        return "diverged" if name == "bpb" else ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


@app.command()
def show(
    key: Annotated[str, typer.Argument(help="The first letters of a key, enough to tell it from others.")],
    store: StoreFolder = None,
    artifacts_dir: Artifacts = ROOT,
    as_json: AsJson = False,
) -> int:
    """Everything about one run: what decided its numbers, and its numbers."""
    from dataclasses import asdict

    index = index_of(store, artifacts_dir)
    found, outcome, facts = index.find(key)
    if as_json:
        return emit({"schema": "mgr.runs.show.v1", "key": found, "facts": facts, "result": asdict(outcome)})
    numbers = {name: value for name, value in asdict(outcome).items() if not isinstance(value, list)}
    for title, section in (("result", numbers), *((name, part) for name, part in facts.items() if part)):
        values = section if isinstance(section, dict) else {title: section}
        typer.echo(plain_table([title, found[:8]], [[name, readable(value)] for name, value in values.items()]) + "\n")
    typer.echo(f"folder: {index.store.directory(found)}")
    return 0


@app.command()
def reindex(store: StoreFolder = None, artifacts_dir: Artifacts = ROOT, as_json: AsJson = False) -> int:
    """Throw the index away and make it from the folders, which are the truth."""
    index = index_of(store, artifacts_dir)
    index.drop()
    count = index.refresh()
    if as_json:
        return emit({"schema": "mgr.runs.reindex.v1", "runs": count})
    typer.echo(f"{count} runs in {index.path}")
    return 0


@app.command()
def gc(
    unused: Annotated[bool, typer.Option("--unused", help="Finished runs that no report rests on, too.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Remove; otherwise only say what would go.")] = False,
    store: StoreFolder = None,
    artifacts_dir: Artifacts = ROOT,
    as_json: AsJson = False,
) -> int:
    """Remove what attempts, suites and workers left behind that never finished."""
    index = index_of(store, artifacts_dir)
    found = index.collect(artifacts_dir / "bench" / "suites", unused=unused, remove=yes)
    if as_json:
        counts = {"attempts": len(found.attempts), "unused": len(found.unused), "bytes": found.bytes, "removed": yes}
        counts["leftovers"] = len(found.leftovers)
        return emit({"schema": "mgr.runs.gc.v1", **counts})
    what = f"{len(found.attempts)} unfinished attempts and {len(found.unused)} unused runs, {found.bytes / 1e6:.1f} MB"
    what += f", {len(found.leftovers)} requests, leases and failures of who is gone" if found.leftovers else ""
    typer.echo(f"removed {what}" if yes else f"{what} would go; add --yes to remove them")
    return 0


@app.command()
def export(
    path: Annotated[Path, typer.Argument(help="A table ending in .parquet or .csv; or a folder, with the options.")],
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Event files, a TensorBoard run per run.")] = False,
    wandb: Annotated[bool, typer.Option("--wandb", help="Offline Weights & Biases runs; nothing is sent.")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="Tables of runs, learning curves, verdicts as .csv.")] = False,
    parquet: Annotated[bool, typer.Option("--parquet", help="The same tables as .parquet.")] = False,
    suites: Annotated[
        list[str] | None, typer.Option("--suite", help="With its runs only; repeatable. All runs if not given.")
    ] = None,
    where: Where = None,
    store: StoreFolder = None,
    artifacts_dir: Artifacts = ROOT,
    as_json: AsJson = False,
) -> int:
    """Write runs, their learning curves and the verdicts of suites for other programs."""
    from nanochat.bench.export import export as write
    from nanochat.bench.export import ready

    asked = {"tensorboard": tensorboard, "wandb": wandb, "csv": csv, "parquet": parquet}
    kinds = [kind for kind, wanted in asked.items() if wanted]
    ready(path, kinds, suites or ())
    index, reports = index_of(store, artifacts_dir), artifacts_dir / "bench" / "suites"
    done = write(index, path, kinds, suites=suites or (), reports=reports, where=where or ())
    if as_json:
        return emit(
            {
                "schema": "mgr.runs.export.v1",
                "runs": done.runs,
                "missing": done.missing,
                "file": str(path),
                "kinds": kinds,
            }
        )
    missing = f"; {done.missing} more that suites name are not in the store" if done.missing else ""
    typer.echo(f"{done.runs} runs in {path}{missing}")
    return 0


def worker(
    store: Annotated[Path, typer.Option("--store", help="Folder of finished runs, shared with whoever asks for more.")],
    jobs: Annotated[int | None, typer.Option(help="Processes; one per physical core if not given.", min=1)] = None,
    idle_exit: Annotated[
        float | None, typer.Option(help="Go home after so many seconds without work (default: stay).", min=0)
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Each process goes home after one run.")] = False,
    as_json: AsJson = False,
) -> int:
    """Train the runs that suites ask for in a shared folder, on this machine, until Ctrl-C."""
    from nanochat.bench.crew import LocalCrew, physical_cores
    from nanochat.bench.queue import POLL_SECONDS, Queue
    from nanochat.bench.store import Store
    from nanochat.config import ConfigError

    if not (store / "leases").is_dir():
        raise ConfigError([f"--store: got {store}, need the folder of runs that a suite made (mgr bench-fixed-flops)"])
    queue = Queue(Store(store))
    count = len(physical_cores()) if jobs is None else jobs
    say: Callable[[dict[str, Any]], None] = _say_json if as_json else _say
    crew = LocalCrew(say, eager=True, idle=idle_exit, once=once, guest=True)
    say({"event": "waiting", "store": str(queue.store.root), "workers": count})
    try:
        crew.start(queue.store.root.resolve(), count)
        while crew.working:
            for note in crew.poll():
                say({"event": "note", "reason": note})
            time.sleep(POLL_SECONDS)
    finally:
        crew.stop()
    return 0


def _say_json(event: dict[str, Any]) -> None:
    typer.echo(json.dumps(event))


def _say(event: dict[str, Any]) -> None:
    """One line for what a worker told of itself; that it is ready is no news."""
    run = "{label}, {stage}, seed {seed}".format_map(event) if "label" in event else ""
    told = {
        "waiting": "waiting for runs in {store}, {workers} at a time; Ctrl-C ends it and loses no finished run",
        "began": f"{run}: begins",
        "done": f"{run}: done in {{seconds:.1f}} s",
        "lost": f"{run}: another worker took it over",
        "left": f"{run}: left to other machines ({{reason}})",
        "failed": f"{run}: failed ({{reason}})",
        "note": "{reason}",
    }
    if event["event"] in told:
        typer.echo(told[event["event"]].format_map(event))


Suite = Annotated[str, typer.Argument(help="A suite: its name, its folder or its summary.json.")]


def verdict(suite: Suite, artifacts_dir: Artifacts = ROOT, as_json: AsJson = False) -> int:
    """What a suite ruled, from its verdict.json; exit code 1 if an audit failed, 0 otherwise, INCONCLUSIVE included."""
    from nanochat.bench.ruling import read

    found = read(suite, artifacts_dir / "bench" / "suites")
    if as_json:
        emit(found)
    else:
        rows = [
            [arm["label"], _judged(arm), _interval(arm), _number(arm["p_adjusted"]), arm["note"]]
            for arm in found["arms"]
        ]
        typer.echo(plain_table(["arm", "verdict, bits per byte", "interval", "p", "note"], rows))
        typer.echo(f"design {found['design'][:16]}; " + ("all audits hold" if found["valid"] else "an audit failed"))
    return 0 if found["valid"] else FOUND_A_FAILURE


def _interval(arm: dict[str, Any]) -> str:
    return "" if arm["low"] is None else f"[{arm['low']:+.4f}, {arm['high']:+.4f}]"


def regressions(base: Suite, new: Suite, artifacts_dir: Artifacts = ROOT, as_json: AsJson = False) -> int:
    """Has anything become worse from suite BASE to suite NEW? Loss, memory and speed; exit code 1 if so."""
    from dataclasses import asdict

    from nanochat.bench.compare import broken, read
    from nanochat.bench.compare import regressions as changes_between

    reports = artifacts_dir / "bench" / "suites"
    changes = changes_between(read(base, reports), read(new, reports))
    if as_json:
        emit({"schema": "mgr.regressions.v1", "changes": [asdict(change) for change in changes]})
    else:
        rows = [
            [change.arm, change.measure, change.word, _number(change.old), _number(change.new), _span(change)]
            for change in changes
        ]
        typer.echo(plain_table(["arm", "measure", "is", "old", "new", ""], rows))
    return FOUND_A_FAILURE if broken(changes) else 0


def compare(
    suites: Annotated[list[str], typer.Argument(help="Two or more suites.", metavar="SUITE...")],
    artifacts_dir: Artifacts = ROOT,
    as_json: AsJson = False,
) -> int:
    """Suites side by side: verdict and difference of every arm in each."""
    from nanochat.bench.compare import read, side_by_side

    found = [read(name, artifacts_dir / "bench" / "suites") for name in suites]
    rows = side_by_side(found)
    if as_json:
        return emit({"schema": "mgr.compare.v1", "arms": rows})
    cells = [[row["arm"], *(_judged(row["suites"].get(suite.name)) for suite in found)] for row in rows]
    typer.echo(plain_table(["arm", *(suite.name for suite in found)], cells))
    return 0


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _span(change: Any) -> str:
    span = "" if change.low is None else f"[{change.low:+.4f}, {change.high:+.4f}]"
    return " ".join(part for part in (span, change.note) if part)


def _judged(arm: dict[str, Any] | None) -> str:
    if arm is None:
        return ""
    number = arm["mean"] if arm["difference"] is None else arm["difference"]
    sign = "" if arm["difference"] is None else "+"
    return arm["verdict"] if number is None else f"{arm['verdict']} {format(number, sign + '.4f')}"
