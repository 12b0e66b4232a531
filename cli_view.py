"""What `mgr` shows: tables, panels, pictures, JSON. Rich is imported when something is drawn, not before."""

from __future__ import annotations

import contextlib
import inspect
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from demos.certificate import Verdict
    from demos.pool import Outcome
    from demos.result import Act, Result
    from nanochat.doctor import Check

T = TypeVar("T")

FOUND_A_FAILURE = 1
"""Exit code: the work ran and found a failure."""

AsJson = Annotated[bool, typer.Option("--json", help="Print strict JSON on standard output instead of tables.")]


def console(stderr: bool = False) -> Console:
    """A console as wide as the terminal, 80 columns where there is none."""
    from rich.console import Console

    return Console(stderr=stderr)


def table(*columns: str, title: str | None = None, right: bool = False) -> Table:
    """A rich table: the first column stays on one line, the others fold; numbers go right."""
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False)
    for index, column in enumerate(columns):
        made.add_column(column, no_wrap=index == 0, overflow="fold", justify="right" if right and index else "left")
    return made


def working(what: str) -> Any:
    """A spinner on the error stream while something long runs; nothing where there is no terminal."""
    return console(stderr=True).status(what) if sys.stderr.isatty() else contextlib.nullcontext()


def waiting(what: str, work: Callable[[], T]) -> T:
    """Work in a thread, behind a spinner: a compiled loop hears no signal, but the one who waits leaves at once."""
    import threading

    done: list[T] = []
    failed: list[BaseException] = []

    def attempt() -> None:
        try:
            done.append(work())
        except BaseException as error:  # noqa: BLE001 - raised again by the one who waits
            failed.append(error)

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    with working(what):
        while thread.is_alive():
            thread.join(0.5)  # without a limit no signal would be heard on Windows
    if failed:
        raise failed[0]
    return done[0]


def readable(value: Any) -> str:
    """A plain value for a table cell."""
    if isinstance(value, dict):
        return "\n".join(f"{key}: {readable(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return "\n".join(map(str, value))
    return "not given" if value is None else str(value)


def emit(document: dict[str, Any]) -> int:
    """Strict JSON on standard output."""
    typer.echo(json.dumps(document, indent=1, allow_nan=False))
    return 0


def holding(result: Result) -> str:
    """How many certificates hold."""
    good = sum(certificate.holds for certificate in result.certificates)
    return f"{good} of {len(result.certificates)} hold"


def render(result: Result, verbose: bool) -> None:
    """A demo's acts in order, its certificates, and two closing sentences."""
    from rich.panel import Panel
    from rich.text import Text

    out = console()
    for act in result.acts:
        render_act(out, act, verbose)
    out.rule("certificates", align="left")
    render_certificates(out, [certificate.to_json() for certificate in result.certificates])
    style = "green" if result.holds else "red"
    foot = f"{holding(result)} · {result.seconds:.1f} s"
    out.print(Panel(Text("\n".join(result.closing)), title=result.config.name, subtitle=foot, border_style=style))


def render_certificates(out: Console, certificates: list[dict[str, Any]]) -> None:
    """What was certified, the number that was computed for it, and the largest for which it holds."""
    from rich.text import Text

    rows = table("certificate", "statement", "value, limit", "")
    one = len({item["id"].partition(".")[0] for item in certificates}) == 1
    for item in certificates:
        name = item["id"].partition(".")[2] if one else item["id"]
        numbers = Text(f"{item['value']:.1e}\n{item['tolerance']:.0e}", justify="right")
        rows.add_row(name.replace("_", " "), Text(item["statement"]), numbers, verdict_mark(item["holds"]))
    out.print(rows)


def render_act(out: Console, act: Act, verbose: bool) -> None:
    """One act: a heading, then paragraphs, tables and pictures."""
    from rich.text import Text

    from demos import result as parts

    out.rule(f"{act.name}: {act.title}" if act.name != act.title else act.title, align="left")
    for part in act.parts:
        if part.detail and not verbose:
            continue
        if isinstance(part, parts.Text):
            out.print(Text(part.text))
        elif isinstance(part, parts.Plot):
            out.print(Text(part.title, "bold"))
            out.print(Text(part.text, no_wrap=True, overflow="ignore"), crop=False)
        else:
            rows = table(*part.columns, title=part.title or None, right=True)
            for row in part.rows:
                rows.add_row(*map(Text, row))
            out.print(rows)
        out.print()


def following(outcomes: Iterable[Outcome], names: list[str]) -> Iterator[Outcome]:
    """Pass on what finishes; on a terminal with a line for each, and what is still to come, on the error stream."""
    out, left = console(stderr=True), list(names)
    with working(f"{len(left)} demos: JAX compiles on the first call") as status:
        for outcome in outcomes:
            left.remove(outcome.name)
            if out.is_terminal:
                out.print(f"{outcome.name:<13} {outcome.verdict:<16} {outcome.seconds:5.1f} s", highlight=False)
                status.update(f"still to come: {', '.join(left)}")
            yield outcome


def render_summary(outcomes: list[Outcome], planned: list[str], verbose: bool) -> None:
    """One line for each demo that ran, or what stopped it; with ``verbose`` their closing sentences too."""
    from rich.text import Text

    out = console()
    rows = table("demo", "hold", "s", "learned, against its control", "where it lost")
    for outcome in outcomes:
        cells = [Text(sentence) for sentence in outcome.gist]
        style = "" if outcome.holds else "bold red"
        rows.add_row(outcome.name, Text(outcome.verdict, style), f"{outcome.seconds:.0f}", *cells)
    out.print(rows)
    for outcome in outcomes if verbose else ():
        out.print(Text.assemble((outcome.name, "bold"), ": ", " ".join(outcome.closing)), "")
    held = sum(item["holds"] for outcome in outcomes for item in outcome.certificates)
    total = sum(len(outcome.certificates) for outcome in outcomes)
    out.print(f"{held} of {total} certificates hold, of {len(outcomes)} demos", highlight=False)
    if planned:
        out.print(f"planned: {', '.join(planned)}", markup=False, highlight=False)


def render_verdicts(verdicts: Mapping[str, Verdict]) -> None:
    """What the recomputation of each certificate found."""
    from rich.text import Text

    rows = table("certificate", "", "found")
    for name, verdict in verdicts.items():
        rows.add_row(Text(name), verdict_mark(verdict.holds), Text(verdict.reason))
    console().print(rows)


def verdict_mark(holds: bool) -> Text:
    """``holds`` in green or ``BROKEN`` in red."""
    from rich.text import Text

    return Text("holds", "green") if holds else Text("BROKEN", "bold red")


def render_site(site: dict[str, Any], as_json: bool) -> None:
    """What was built, where it can be seen, and what mkdocs complained about."""
    if as_json:
        emit(site)
    else:
        size = f"{len(site['pages'])} pages, {site['bytes'] / 2**20:.1f} MiB, built in {site['seconds']:.1f} s"
        where = f"{site['address']} (Ctrl-C ends it)" if "address" in site else f"{site['folder']}/index.html"
        typer.echo(f"{size}\n{where}")
    for warning in site["warnings"]:
        typer.echo(f"mgr: {warning}", err=True)
    sys.stdout.flush()


def render_checks(checks: list[Check]) -> None:
    """The doctor's findings."""
    from rich.text import Text

    rows = table("check", "", "found", "what to do")
    style = {"ok": "green", "warn": "yellow", "fail": "bold red"}
    for item in checks:
        rows.add_row(item.name, Text(item.status, style[item.status]), Text(item.found), Text(item.advice))
    console().print(rows)


def with_options(parameters: Iterable[inspect.Parameter]) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Replace the ``**given`` of a command by real options, so that no option is written down twice."""

    def decorate(command: Callable[..., int]) -> Callable[..., int]:
        own = inspect.signature(command, eval_str=True).parameters.values()
        named = [parameter for parameter in own if parameter.kind is not inspect.Parameter.VAR_KEYWORD]
        signature = inspect.Signature([*named, *parameters])
        command.__signature__ = signature  # type: ignore[attr-defined]  # inspect's documented hook
        command.__annotations__ = {name: item.annotation for name, item in signature.parameters.items()}
        return command

    return decorate


def suite_options(without: tuple[str, ...] = ()) -> Iterable[inspect.Parameter]:
    """One option per field of the suite's configuration; ``None`` means not given, so that presets can fill it."""
    from nanochat.bench.config import SuiteConfig

    kinds = get_type_hints(SuiteConfig)
    for item in (item for item in fields(SuiteConfig) if item.name not in without):
        flag = item.metadata["flag"] or item.name.replace("_", "-")
        flags = (f"-{flag}", f"--{item.name.rstrip('s')}") if len(flag) == 1 else (f"--{flag}",)
        kind = kinds[item.name]
        if bool in (kind, *get_args(kind)):
            flags = (f"--{flag}/--no-{flag}",)
        default = "" if item.default in (None, MISSING) else item.default
        shown = ", ".join(map(str, default)) if isinstance(default, tuple) else str(default)
        about = " ".join([item.metadata["help"], *([f"[{item.metadata['unit']}]"] if item.metadata["unit"] else [])])
        about += f"; one of {', '.join(item.metadata['choices'])}" if item.metadata["choices"] else ""
        option = typer.Option(None, *flags, help=f"{about} (default: {shown})" if shown else about, show_default=False)
        kind = list[get_args(kind)[0]] if get_origin(kind) is tuple else kind
        yield inspect.Parameter(item.name, inspect.Parameter.KEYWORD_ONLY, default=option, annotation=kind | None)
