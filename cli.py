"""`mgr`: parse, call one function of ``demos`` or ``nanochat``, render. No science here, and nothing heavy on import.

Exit codes: 0 done; 1 the work ran and found a failure; 2 usage or input; 3 environment; 130 interrupted.
"""

from __future__ import annotations

import inspect
import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.exceptions import TyperException

import cli_runs
import cli_study
from cli_view import (
    FOUND_A_FAILURE,
    AsJson,
    console,
    emit,
    following,
    readable,
    render,
    render_certificates,
    render_checks,
    render_site,
    render_summary,
    render_verdicts,
    suite_options,
    waiting,
    with_options,
    working,
)
from nanochat.tables import table as plain_table

if TYPE_CHECKING:
    from demos.pool import Outcome
    from demos.result import Result

USAGE, ENVIRONMENT, INTERRUPTED = 2, 3, 130

app = typer.Typer(
    help="Unusual mathematics meets language models; every claim gets an honest verdict.",
    epilog="Training: python -m nanochat.train --help",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
config_app = typer.Typer(help="The configuration of training runs.", rich_markup_mode=None)
app.add_typer(config_app, name="config")
app.add_typer(cli_runs.app, name="runs")
app.command()(cli_runs.regressions)
app.command()(cli_runs.compare)
app.command()(cli_runs.verdict)
app.command()(cli_runs.worker)
app.command()(cli_study.selftest)
app.command()(cli_study.ablate)
app.command()(cli_study.heads)

Name = Annotated[str, typer.Argument(help="A name that `mgr list` shows.", metavar="NAME")]
Seed = Annotated[int, typer.Option(help="Seed of all random numbers.")]
Quick = Annotated[bool, typer.Option("--quick", help="Smaller sizes; under 20 seconds.")]
Iterations = Annotated[int | None, typer.Option(help="Cap on the training iterations.")]
Debug = Annotated[bool, typer.Option("--debug", help="Stop at the first NaN and show where it arose.")]
Plots = Annotated[Path | None, typer.Option(help="Write the figures into this folder.")]
PlotsFormat = Annotated[Literal["png", "svg"] | None, typer.Option(help="Of the figures (default: png).")]


def demo_options() -> Iterable[inspect.Parameter]:
    """The options that single demos add; which demo takes which is checked by ``DemoConfig``."""
    from demos.registry import DEMOS

    takers: dict[str, list[str]] = {}
    found = {}
    for demo in DEMOS.values():
        for option in demo.options:
            takers.setdefault(option.name, []).append(demo.name)
            found[option.name] = option
    for name, option in found.items():
        about = f"{', '.join(takers[name])}: {option.about}."
        declared = typer.Option(None, option.flag, help=about, envvar=option.variable or None, show_envvar=False)
        kind: Any = bool | None if isinstance(option.default, bool) else str | None
        if isinstance(option.default, bool):
            declared.param_decls = (f"{option.flag}/--no-{option.flag[2:]}",)
        yield inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=declared, annotation=kind)


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
) -> int:
    """Unusual mathematics meets language models; every claim gets an honest verdict."""
    if version:
        from importlib.metadata import version as installed

        typer.echo(f"mgr {installed('model-guided-research')}")
        raise typer.Exit(0)
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
    return 0


@app.command("list")
def list_(as_json: AsJson = False) -> int:
    """Everything that has a name: demos, attention types, optimizers, schedules."""
    from demos.registry import DEMOS
    from nanochat.catalogue import describe, mechanisms

    kinds = mechanisms()
    if as_json:
        demos = [demo.describe() for demo in DEMOS.values()]
        return emit({"schema": "mgr.list.v1", "demos": demos} | {k: [describe(r) for r in v] for k, v in kinds.items()})
    rows = [[demo.name, demo.title, demo.twin, demo.status] for demo in DEMOS.values()]
    typer.echo(plain_table(["demo (mgr run)", "what it is", "in PyTorch (nanochat.train)", "status"], rows))
    for kind, records in kinds.items():
        flag = f"--{kind.replace('_', '-')[:-1]}"
        rows = [[record.name, record.title, record.source] for record in records]
        typer.echo("\n" + plain_table([flag, "what it is", "source"], rows))
    return 0


@app.command()
def info(name: Name, as_json: AsJson = False) -> int:
    """What is known about one name: idea, theorem, how to run and train it, options, cost, page, papers."""
    from demos.registry import DEMOS
    from nanochat.catalogue import mechanisms, told
    from nanochat.registry import Unknown, unknown

    wanted = {name, *(DEMOS[name].twins if name in DEMOS else ())}
    kinds = mechanisms()
    entries = [(kind, record) for kind, records in kinds.items() for record in records if record.name in wanted]
    if name not in DEMOS and not entries:
        known = [*DEMOS, *(record.name for records in kinds.values() for record in records)]
        raise Unknown(unknown("name", name, list(dict.fromkeys(known))))
    demo = {"demo": DEMOS[name].describe()} if name in DEMOS else {}
    twins = [{"kind": kind.rstrip("s"), **told(kind, record)} for kind, record in entries]
    if as_json:
        return emit({"schema": "mgr.info.v1", "name": name, **demo, "mechanisms": twins})
    for kind, entry in [*demo.items(), *((twin.pop("kind"), twin) for twin in twins)]:
        title = entry.pop("name")
        rows = [[key.replace("_", " "), readable(value)] for key, value in entry.items() if value not in ("", [], {})]
        typer.echo(plain_table([kind.replace("_", " "), title], rows) + "\n")
    return 0


@app.command()
@with_options(demo_options())
def run(
    context: typer.Context,
    name: Name,
    quick: Quick = False,
    seed: Seed = 0,
    max_iterations: Iterations = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show the details too.")] = False,
    debug: Debug = False,
    export_json: Annotated[Path | None, typer.Option(help="Write numbers and certificates to this file.")] = None,
    plots: Plots = None,
    plots_format: PlotsFormat = None,
    as_json: AsJson = False,
    **given: Any,
) -> int:
    """Run one demo: its object, its laws, what it learns, where it ends; certificates are computed from the result."""
    common = {"quick": quick, "seed": seed, "max_iterations": max_iterations, "verbose": verbose, "debug": debug}
    own = {key: value for key, value in given.items() if value is not None and not foreign(context, name, key)}
    usable({"--export-json": export_json}, {"--plots": plots}, plots_format)
    result = perform(name, options=own, **common)
    if export_json is not None:
        from demos.result import export

        export(result, export_json)
    if plots is not None:
        from demos.plots import save

        save(result, plots, plots_format or "png")
    if as_json:
        emit(result.to_json())
    else:
        render(result, verbose)
    return 0 if result.holds else FOUND_A_FAILURE


@app.command("run-all")
def run_all(
    quick: Quick = False,
    seed: Seed = 0,
    max_iterations: Iterations = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show the closing sentences of every demo too.")] = False,
    debug: Debug = False,
    jobs: Annotated[int | None, typer.Option(min=1, help="Demos at a time (default: one per physical core).")] = None,
    export_json: Annotated[Path | None, typer.Option(help="Write NAME.json of every demo into this folder.")] = None,
    plots: Plots = None,
    plots_format: PlotsFormat = None,
    as_json: AsJson = False,
) -> int:
    """Run every demo that is ready, each in a process of its own, and say which certificates hold."""
    from demos.registry import DEMOS, ready

    usable({}, {"--export-json": export_json, "--plots": plots}, plots_format)
    common = {"quick": quick, "seed": seed, "max_iterations": max_iterations, "verbose": verbose, "debug": debug}
    outcomes = perform_all(jobs, common, exports=export_json, plots=plots, suffix=plots_format or "png")
    planned = [name for name in DEMOS if name not in ready()]
    if as_json:
        demos = [outcome.document for outcome in outcomes if outcome.document]
        failed = [{"demo": outcome.name, "reason": outcome.reason} for outcome in outcomes if not outcome.document]
        emit({"schema": "mgr.run-all.v1", "demos": demos, "failed": failed, "planned": planned})
    else:
        render_summary(outcomes, planned, verbose)
    return 0 if all(outcome.holds for outcome in outcomes) else FOUND_A_FAILURE


@app.command()
def verify(file: Path, as_json: AsJson = False) -> int:
    """Recompute every certificate of FILE, which `mgr run --export-json FILE` wrote, from its witness alone."""
    from demos.certificate import read, verify_document

    verdicts = verify_document(read(file))
    holds = all(verdict.holds for verdict in verdicts.values())
    if as_json:
        found = [{"id": name, "holds": verdict.holds, "reason": verdict.reason} for name, verdict in verdicts.items()]
        emit({"schema": "mgr.verify.v1", "file": str(file), "holds": holds, "certificates": found})
    else:
        render_verdicts(verdicts)
    return 0 if holds else FOUND_A_FAILURE


@config_app.command(
    "show", context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
)
def config_show(context: typer.Context, as_json: AsJson = False) -> int:
    """What a training run would use, as TOML for --config; takes all options of `python -m nanochat.train`."""
    from nanochat.config import plain
    from nanochat.options import parse
    from nanochat.toml import write

    resolved = plain(parse(context.args, "mgr config show").config)
    if as_json:
        return emit({"schema": "mgr.config.v1", **resolved})
    typer.echo(write(resolved), nl=False)
    return 0


@app.command()
def certify(name: Name, run: Path, as_json: AsJson = False) -> int:
    """Check the event log of the finished run in folder RUN, whose schedule is NAME, against the losses it recorded."""
    from nanochat.schedule import certify as examined

    document = examined(name, run)
    if as_json:
        emit(document)
    else:
        typer.echo("\n".join(document["lines"]))
    return 0 if document["holds"] else FOUND_A_FAILURE


@app.command()
def doctor(as_json: AsJson = False) -> int:
    """What this machine offers, and what to do about what is missing."""
    from dataclasses import asdict

    from nanochat.doctor import examine, healthy

    with working("asking PyTorch and JAX"):
        checks = examine()
    if as_json:
        document = {"schema": "mgr.doctor.v1", "healthy": healthy(checks), "checks": [asdict(item) for item in checks]}
        emit(document)
    else:
        render_checks(checks)
    return 0 if healthy(checks) else ENVIRONMENT


@app.command()
def docs(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of this machine; 0 takes any free one.")] = 8000,
    build: Annotated[Path | None, typer.Option(help="Build into this folder and serve nothing.")] = None,
    as_json: AsJson = False,
) -> int:
    """Build the pages as a site and show it to this machine until Ctrl-C; no page loads anything from elsewhere."""
    from nanochat import documentation

    if build is not None:
        with working("mkdocs builds the pages"):
            site = documentation.build(build)
        render_site(site.to_json(), as_json)
        return FOUND_A_FAILURE if site.warnings else 0
    with documentation.listening(port) as server:
        with working("mkdocs builds the pages"):
            site = documentation.build(server.folder)
        render_site(site.to_json() | {"address": server.address}, as_json)
        server.run()
    return 0


@app.command("bench-fixed-flops")
@with_options(suite_options())
def bench_fixed_flops(
    suite_file: Annotated[
        Path | None, typer.Option("--suite", help="Take the design from this TOML file; see suites/.", metavar="FILE")
    ] = None,
    include_demo_certs: Annotated[
        bool, typer.Option("--include-demo-certs", help="Run the ready demos too and add their certificates.")
    ] = False,
    plain: Annotated[
        bool, typer.Option("--plain", help="Progress as lines now and then, as in a pipe, on a terminal too.")
    ] = False,
    as_json: AsJson = False,
    **given: Any,
) -> int:
    """Compare arms at equal operations on real text: paired seeds, equal tuning, audited budgets, a verdict per arm."""
    from nanochat.bench.suite import configure, prepare

    chosen: dict[str, Any] = {key: tuple(x) if isinstance(x, list) else x for key, x in given.items()}
    chosen = {key: value for key, value in chosen.items() if value not in (None, ())}
    if suite_file is None:
        suite = configure(chosen)
    else:
        from nanochat.bench.design import read

        suite = read(suite_file, chosen)
    prepare(suite)  # a faulty design is refused at once: what follows imports more
    from nanochat.bench import run as run_suite
    from nanochat.bench.view import LiveSuite, PlainSuite, verdict_table

    out = console(stderr=as_json)
    live = out.is_terminal and not plain
    view = LiveSuite(out) if live else PlainSuite(lambda line: typer.echo(line, err=as_json))
    verdicts = run_suite(suite, view=view)
    out.print(verdict_table(verdicts))
    certificates = certificates_of_demos(verdicts.directory) if include_demo_certs else []
    if as_json:
        summary = json.loads((verdicts.directory / "summary.json").read_text(encoding="utf-8"))
        emit(summary | ({"certificates": certificates} if include_demo_certs else {}))
    elif include_demo_certs:
        render_certificates(out, certificates)
    good = verdicts.valid and all(entry["holds"] for entry in certificates)
    return 0 if good else FOUND_A_FAILURE


def foreign(context: typer.Context, name: str, option: str) -> bool:
    """Whether an option comes from a variable of the environment that is meant for another demo."""
    from demos.registry import DEMOS

    source = context.get_parameter_source(option)
    own = {item.name for item in DEMOS[name].options} if name in DEMOS else set()
    return source is not None and source.name == "ENVIRONMENT" and option not in own


def perform(name: str, **options: Any) -> Result:
    """Validate, then run one demo behind a line that says so."""
    from demos import registry

    demo = registry.get(name)
    if demo.status == registry.PLANNED:
        demo.load()
    from demos.result import DemoConfig

    config = DemoConfig(name=name, **options)
    return waiting(f"mgr run {name}: JAX compiles on the first call", lambda: demo.load()(config))


def perform_all(jobs: int | None, common: dict[str, Any], **asked: Any) -> list[Outcome]:
    """Run every ready demo in processes side by side; their outcomes in the order of the catalogue."""
    from demos.pool import Pool, Request
    from demos.registry import ready
    from demos.result import DemoConfig
    from nanochat.bench.crew import physical_cores

    configs = [DemoConfig(name=name, **common) for name in ready()]
    cores = physical_cores()
    pool = Pool(cores, min(jobs or len(cores), len(configs)), Request(**asked))
    outcomes = sorted(following(pool.run(configs), ready()), key=lambda outcome: ready().index(outcome.name))
    for outcome in outcomes:
        if outcome.document is None:
            complain(f"demo {outcome.name} did not finish\n{outcome.details}", FOUND_A_FAILURE)
    return outcomes


def certificates_of_demos(folder: Path) -> list[dict[str, Any]]:
    """Run every ready demo in its quick form, keep its export in the suite's folder, and give the certificates."""
    outcomes = perform_all(None, {"quick": True}, exports=folder / "certificates")
    found = [entry for outcome in outcomes for entry in outcome.certificates]
    return [{key: value for key, value in entry.items() if key != "witness"} for entry in found]


def usable(files: dict[str, Path | None], folders: dict[str, Path | None], suffix: str | None) -> None:
    """Find out before the work, not after it, that its result could not be written."""
    from nanochat.config import ConfigError

    faults = []
    needed = dict(folders)
    for flag, file in files.items():
        needed[flag] = file.parent if file else None
        if file is not None and file.is_dir():
            faults.append(f"{flag}: got the folder {file}, need a file")
    for flag, folder in needed.items():
        try:
            if folder is not None:
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            faults.append(f"{flag}: cannot create {folder}: {error.strerror}")
    if suffix is not None and folders["--plots"] is None:
        faults.append(f"--plots-format: got {suffix} without figures, need --plots DIR too")
    if faults:
        raise ConfigError(faults)


def input_faults() -> tuple[type[Exception], ...]:
    """What a user can get wrong; looked up only when something was raised, and only where it can come from."""
    from demos.registry import UnknownDemo
    from nanochat.config import ConfigError
    from nanochat.registry import Unknown

    known = {"demos.result": "DemoConfigError", "demos.certificate": "Unreadable"}
    loaded = (getattr(sys.modules[module], name) for module, name in known.items() if module in sys.modules)
    return (ConfigError, Unknown, UnknownDemo, *loaded)


def environment_faults() -> tuple[type[Exception], ...]:
    """What the machine lacks."""
    from demos.registry import Planned
    from nanochat.config import EnvironmentFault

    return EnvironmentFault, Planned


def execute(arguments: list[str]) -> int:
    """Run one command line and return its exit code; a defect of ours keeps its traceback."""
    try:
        code = app(arguments, prog_name="mgr", standalone_mode=False) or 0
        return complain("interrupted; what was finished is kept", code) if code == INTERRUPTED else code
    except TyperException as error:
        return complain(error.format_message(), error.exit_code)
    except input_faults() as error:
        return complain(str(error), USAGE)
    except environment_faults() as error:
        return complain(str(error), ENVIRONMENT)


def complain(message: str, code: int) -> int:
    """One line per fault on the error stream."""
    for line in message.splitlines():
        typer.echo(f"mgr: {line}", err=True)
    return code


def main() -> None:
    """Entry of the console script."""
    code = execute(sys.argv[1:])
    if code == INTERRUPTED:  # a compiled loop may still run in a thread, and the end of Python would wait for it
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    main()
