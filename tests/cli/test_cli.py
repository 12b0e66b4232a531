"""`mgr` as a user meets it: what each command prints, and with which exit code it ends."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from staged_demos import outcome

import cli
from demos import pool, registry
from demos.result import DemoConfig, Result
from nanochat.bench.config import SuiteConfig

NAMES = [
    *("matrix-gauge", "ultrametric", "tropical", "simplicial", "nonstandard", "octonion"),
    *("ordinal", "reversible", "ifs-fractal", "knot-braid", "surreal"),
]
Mgr = Callable[..., CompletedProcess[str]]


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], list[DemoConfig]]:
    """Put a function in place of every demo's ``run``; returns the configurations it was called with."""

    def put(run: Callable[[DemoConfig], Result]) -> list[DemoConfig]:
        seen: list[DemoConfig] = []

        def load(demo: registry.Demo) -> Callable[[DemoConfig], Result]:
            return lambda config: (seen.append(config), run(config))[1]

        monkeypatch.setattr(registry.Demo, "load", load)
        return seen

    return put


# --- list and info ------------------------------------------------------------------------------------------------


def test_list_names_all_eleven_frameworks_and_says_which_run(mgr: Mgr) -> None:
    document = json.loads(mgr("list", "--json").stdout)
    assert [demo["name"] for demo in document["demos"]] == NAMES
    status = {demo["name"]: demo["status"] for demo in document["demos"]}
    assert {name for name, value in status.items() if value == "ready"} == set(registry.ready())
    assert {"tropical", "reversible", "ultrametric"} <= set(registry.ready())
    assert {entry["name"] for entry in document["attention_types"]} >= {"standard", "tropical", "reversible"}
    assert {entry["name"] for entry in document["optimizer_types"]} >= {"adamw", "muon"}
    assert {entry["name"] for entry in document["scheduler_types"]} >= {"none", "cosine", "linear", "wsd"}


def test_list_fits_80_columns_and_shows_every_name(mgr: Mgr) -> None:
    text = mgr("list").stdout
    assert max(map(len, text.splitlines())) <= 80
    assert all(name in text for name in [*NAMES, "standard", "muon", "wsd", "ready"])


@pytest.mark.parametrize("name", NAMES)
def test_info_says_what_it_is_how_to_run_and_train_it_and_what_that_costs(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    demo = registry.get(name)
    assert cli.execute(["info", name]) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    text = " ".join(shown.split())
    wanted = [demo.title, f"mgr run {name}", demo.page, *demo.papers, *(option.flag for option in demo.options)]
    flag = demo.twin.partition(" ")[0]
    wanted += [f"python -m nanochat.train {flag} {twin}" for twin in demo.twins]
    assert [word for word in wanted if word not in text] == []
    assert all(word in text for word in (*demo.idea.split(), *demo.theorem.split()))  # they wrap in a column
    assert text.count(" operations ") >= len(demo.twins)


def test_info_as_json() -> None:
    def told(name: str) -> dict[str, Any]:
        with contextlib.redirect_stdout(io.StringIO()) as out:
            assert cli.execute(["info", name, "--json"]) == 0
        return json.loads(out.getvalue())

    document = told("octonion")
    assert document["demo"]["papers"] and document["demo"]["theorem"]
    assert {entry["name"]: entry["kind"] for entry in document["mechanisms"]} == {
        "octonion": "attention_type",
        "quaternion": "attention_type",
    }
    (tropical,) = told("tropical")["mechanisms"]
    assert tropical["source"].startswith("arXiv:") and "--tropical-score" in tropical["options"]
    assert not any("{" in sentence for sentence in tropical["requires"]) and len(tropical["cost"]) == 3
    (muon,) = told("muon")["mechanisms"]
    assert muon["train"] == "python -m nanochat.train --optimizer-type muon"


@pytest.mark.parametrize(
    ("arguments", "suggestion"),
    [(("info", "tropcial"), "tropical"), (("run", "reversable"), "reversible"), (("lst",), "list")],
)
def test_a_mistyped_name_gets_the_nearest_one(mgr: Mgr, arguments: tuple[str, ...], suggestion: str) -> None:
    done = mgr(*arguments)
    assert done.returncode == 2 and done.stdout == ""
    assert f"id you mean '{suggestion}'?" in done.stderr and len(done.stderr.splitlines()) == 1


def test_version(mgr: Mgr) -> None:
    assert mgr("--version").stdout == "mgr 0.1.0\n"


def test_every_command_takes_json() -> None:
    for arguments in (["list"], ["info"], ["run"], ["run-all"], ["doctor"], ["bench-fixed-flops"]):
        done = subprocess.run(
            [sys.executable, "-c", "import cli; cli.main()", *arguments, "--help"], capture_output=True, text=True
        )
        assert "--json" in done.stdout, arguments


# --- run ----------------------------------------------------------------------------------------------------------


def test_planned_demo_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    planned = dataclasses.replace(registry.get("octonion"), module="")
    monkeypatch.setattr(registry, "DEMOS", {**registry.DEMOS, "octonion": planned})
    assert cli.execute(["run", "octonion"]) == 3
    said = capsys.readouterr().err
    assert "planned" in said and all(name in said.split("ready are")[1] for name in ("tropical", "surreal"))


def test_run_passes_every_option(stage: Any) -> None:
    seen = stage(lambda config: outcome("reversible"))
    line = "run reversible --quick --seed 3 --max-iterations 7 --verbose --debug --rev-cayley"
    assert cli.execute(line.split()) == 0
    wanted = DemoConfig(
        name="reversible", quick=True, seed=3, max_iterations=7, verbose=True, debug=True, options={"rev_cayley": True}
    )
    assert seen == [wanted]


def test_a_variable_of_the_founding_document_is_an_alias_of_an_option(
    stage: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = stage(lambda config: outcome(config.name))
    monkeypatch.setenv("ULTRA_SCALE_COMPARE", "1")
    assert cli.execute(["run", "ultrametric"]) == 0 and cli.execute(["run", "tropical"]) == 0
    assert cli.execute(["run", "ultrametric", "--no-scale-compare"]) == 0
    assert [config.options.get("scale_compare") for config in seen] == [True, None, False]
    capsys.readouterr()
    cli.execute(["run", "--help"])
    assert "ULTRA_SCALE_COMPARE=1 means the same" in " ".join(capsys.readouterr().out.split())
    monkeypatch.setenv("TROP_SPARSE_TRAIN", "1")
    assert cli.execute(["run", "tropical"]) == 0 and cli.execute(["run", "tropical", "--no-sparse-train"]) == 0
    assert [config.options["sparse_train"] for config in seen[-2:]] == [True, False]
    assert cli.execute(["run", "tropical", "--scale-compare"]) == 2
    assert "--scale-compare: not an option of demo 'tropical'" in capsys.readouterr().err


def test_run_shows_acts_certificates_and_closing(stage: Any, capsys: pytest.CaptureFixture[str]) -> None:
    stage(lambda config: outcome())
    assert cli.execute(["run", "tropical"]) == 0
    shown = capsys.readouterr().out
    for part in ("The object", "[brackets]", "[one]", "▁▂▃█" * 10, "x[0] holds", "1 of 1 hold", "Second sentence."):
        assert part in shown, part
    assert "only when asked" not in shown and max(map(len, shown.splitlines())) <= 80
    cli.execute(["run", "tropical", "--verbose"])
    assert "only when asked" in capsys.readouterr().out


def test_a_broken_certificate_is_exit_code_1(stage: Any, capsys: pytest.CaptureFixture[str]) -> None:
    stage(lambda config: outcome(config.name, holds=config.name != "tropical"))
    assert cli.execute(["run", "tropical"]) == 1
    assert "BROKEN" in capsys.readouterr().out
    assert cli.execute(["run", "reversible"]) == 0


def test_run_writes_json_where_asked(stage: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stage(lambda config: outcome())
    target = tmp_path / "new" / "folder" / "tropical.json"
    assert cli.execute(["run", "tropical", "--export-json", str(target), "--json"]) == 0
    written = json.loads(target.read_text())
    assert written == json.loads(capsys.readouterr().out)
    assert written["schema"] == "mgr.demo.v1"


def test_ctrl_c_is_130_at_once_and_without_a_traceback(stage: Any, capsys: pytest.CaptureFixture[str]) -> None:
    over = threading.Event()

    def deaf(config: DemoConfig) -> Result:
        """As a compiled loop: goes on."""
        signal.raise_signal(signal.SIGINT)
        over.wait(30)
        return outcome()

    stage(deaf)
    start = time.monotonic()
    assert cli.execute(["run", "tropical"]) == 130
    over.set()
    assert time.monotonic() - start < 10 and "Traceback" not in capsys.readouterr().err


def test_a_defect_of_ours_keeps_its_traceback(stage: Any) -> None:
    def defective(config: DemoConfig) -> Result:
        raise ZeroDivisionError("a defect")

    stage(defective)
    with pytest.raises(ZeroDivisionError):
        cli.execute(["run", "tropical"])


def test_two_closing_lines_are_not_read_as_markup(stage: Any, capsys: pytest.CaptureFixture[str]) -> None:
    stage(lambda config: replace(outcome(), closing=("[red]not a colour[/red]", "x[i] < y[j]")))
    assert cli.execute(["run", "tropical"]) == 0
    assert "[red]not a colour[/red]" in capsys.readouterr().out


# --- config show --------------------------------------------------------------------------------------------------


def test_config_show_is_a_file_that_loads_into_the_same_configuration(mgr: Mgr, tmp_path: Path) -> None:
    chosen = "--attention-type tropical --tropical-score maxplus --n-layer 3 --learning-rate 2e-3 --compile".split()
    first = mgr("config", "show", *chosen)
    assert first.returncode == 0, first.stderr
    (tmp_path / "run.toml").write_text(first.stdout)
    assert mgr("config", "show", "--config", "run.toml").stdout == first.stdout
    document = json.loads(mgr("config", "show", "--json", "--config", "run.toml").stdout)
    assert document["model"]["knobs"] == {"tropical": document["model"]["knobs"]["tropical"]}
    assert document["model"]["n_layer"] == 3 and document["train"]["compile"] is True


def test_config_show_precedence_is_defaults_then_file_then_command_line(mgr: Mgr, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text("[model]\nn_layer = 2\nn_embd = 64\n")
    document = json.loads(mgr("config", "show", "--json", "--config", "run.toml", "--n-layer", "5").stdout)
    assert (document["model"]["n_layer"], document["model"]["n_embd"], document["model"]["n_head"]) == (5, 64, 4)


def test_written_toml_is_toml() -> None:
    import tomllib

    from nanochat.toml import write

    values = {"a": {"text": 'quote " back \\ \x7f snow ☃ 🎲', "number": 1e-20, "none": None, "b": {"flag": True}}}
    assert tomllib.loads(write(values)) == {"a": {**{k: v for k, v in values["a"].items() if v is not None}}}


# --- bench-fixed-flops --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Suite:
    """What the command needs of a suite's verdicts."""

    directory: Path
    valid: bool = True


@pytest.fixture
def suite(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., list[SuiteConfig]]:
    """A suite that is over at once; returns the configurations it was asked for."""

    def put(*, valid: bool = True) -> list[SuiteConfig]:
        from nanochat.bench import engine, view

        seen: list[SuiteConfig] = []
        (tmp_path / "summary.json").write_text('{"schema": "mgr.suite.v1"}')

        def run(config: SuiteConfig, *, view: object) -> Suite:
            seen.append(config)
            return Suite(tmp_path, valid)

        monkeypatch.setattr(engine, "run", run)
        monkeypatch.setattr(view, "verdict_table", lambda verdicts: "the verdicts")
        return seen

    return put


def test_bench_takes_the_commands_of_the_users_document(suite: Any, capsys: pytest.CaptureFixture[str]) -> None:
    seen = suite()
    line = "--run-id flops_suite_cpu --device cpu --target-flops 2e9 -a standard -a tropical -a reversible"
    assert cli.execute(["bench-fixed-flops", *line.split()]) == 0
    arms = ("standard", "tropical", "reversible")
    assert seen == [SuiteConfig(run_id="flops_suite_cpu", device="cpu", target_flops=2e9, arms=arms)]
    assert "the verdicts" in capsys.readouterr().out


def test_bench_without_options_is_the_configurations_defaults(suite: Any) -> None:
    seen = suite()
    assert cli.execute(["bench-fixed-flops"]) == 0
    assert seen == [SuiteConfig()]


def test_every_field_of_the_suite_is_an_option(mgr: Mgr) -> None:
    shown = mgr("bench-fixed-flops", "--help").stdout
    for item in fields(SuiteConfig):
        flag = item.metadata["flag"] or item.name.replace("_", "-")
        assert f"-{flag}," in shown if len(flag) == 1 else f"--{flag} " in shown, item.name


def test_an_audit_that_fails_is_exit_code_1(suite: Any, capsys: pytest.CaptureFixture[str]) -> None:
    suite(valid=False)
    assert cli.execute(["bench-fixed-flops", "--json"]) == 1
    assert json.loads(capsys.readouterr().out) == {"schema": "mgr.suite.v1"}


def test_bench_adds_the_certificates_of_the_demos(
    suite: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suite()
    monkeypatch.setattr(pool, "Request", functools.partial(pool.Request, play="staged_demos.only_tropical_holds"))
    assert cli.execute(["bench-fixed-flops", "--include-demo-certs", "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert [(entry["id"], entry["holds"]) for entry in document["certificates"]] == [
        (f"{name}.law", name == "tropical") for name in registry.ready()
    ]
    written = json.loads((tmp_path / "certificates" / "tropical.json").read_text())
    assert written["schema"] == "mgr.demo.v1" and written["config"]["quick"]
