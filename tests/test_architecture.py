"""The house rules of the code base, checked on its syntax trees. Each rule is also shown a file that breaks it."""

from __future__ import annotations

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HEAVY = {"torch", "jax", "jaxlib", "flax", "optax", "numpy", "scipy", "matplotlib", "pyarrow"}
JAX = {"jax", "jaxlib", "flax", "optax"}
JAX_INSIDE_NANOCHAT = {"nanochat/train_jax.py", "nanochat/gpt_jax.py"}
COMMAND_LINE = ("cli.py", "cli_runs.py", "cli_study.py", "cli_view.py")
COMMAND_MODULES = tuple(path.removesuffix(".py") for path in COMMAND_LINE)
PRINTS = {"nanochat/console.py", "nanochat/bench/view.py", "nanochat/options.py", "nanochat/train.py", *COMMAND_LINE}
MECHANISM_FOLDERS = ("attention", "block", "optim", "schedule")
SHARED_BY_MECHANISMS = {"registry", "heads"}
READS_ENVIRONMENT = {
    "nanochat/distributed.py": "torchrun hands over ranks in it",
    "nanochat/data/store.py": "the platform's convention for the user's cache folder",
    "nanochat/bench/executor.py": "hands it on to its workers, with their thread count",
    "nanochat/bench/clusters/on_ray.py": "writes what Ray takes from nowhere else: not to report its use",
    "nanochat/bench/export.py": "writes what the W&B client takes from nowhere else: not to report its errors",
    "demos/runtime.py": "the platform's convention for the user's cache folder",
}
MAY_NAME_A_MECHANISM = {
    "nanochat/config.py": "defaults of the command line",
    "nanochat/bench/config.py": "defaults of the command line",
    "nanochat/bench/suite.py": "`standard` is a preset there",
    "nanochat/bench/books.py": "the options that cannot be tried as they are declared",
    "nanochat/sizing.py": "the reference whose price per token sets one size for all arms",
    "nanochat/architecture.py": "the block stack that mixers run in by default",
}
# layer -> layers that it must not import; everything else flows from left to right
FORBIDDEN = {
    "config": {"kernels", "attention", "block", "optim", "schedule", "gpt", "train", "bench", "data"},
    "registry": {"kernels", "attention", "block", "optim", "schedule", "gpt", "train", "bench", "data"},
    "kernels": {"attention", "block", "optim", "schedule", "gpt", "train", "bench", "data"},
    "data": {"kernels", "attention", "block", "optim", "schedule", "gpt", "train", "bench"},
    "attention": {"gpt", "train", "bench", "data"},
    "block": {"gpt", "train", "bench", "data"},
    "optim": {"train", "bench", "data"},
    "schedule": {"gpt", "train", "bench", "data"},
    "gpt": {"optim", "schedule", "train", "bench", "data"},
    "train": {"bench"},
}


@dataclass(frozen=True)
class File:
    """One source file: its path below the repository, text and tree."""

    path: str
    text: str

    @property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @property
    def parts(self) -> tuple[str, ...]:
        return Path(self.path).with_suffix("").parts

    @property
    def top(self) -> str:
        return self.parts[0]


def imports(file: File) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of everything imported, inside functions too; names only used for types are left out."""
    typing_only: set[ast.AST] = set()
    for node in ast.walk(file.tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            typing_only |= {
                inner.lineno for child in node.body for inner in ast.walk(child) if hasattr(inner, "lineno")
            }
    for node in ast.walk(file.tree):
        if getattr(node, "lineno", None) in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file.path}:{node.lineno}: relative import, need the full name"
            yield node.lineno, node.module or ""
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def calls(file: File) -> Iterator[tuple[ast.Call, str]]:
    """Calls with the dotted name of what is called."""
    for node in ast.walk(file.tree):
        if isinstance(node, ast.Call):
            yield node, ast.unparse(node.func)


# --- rules: File -> sentences ------------------------------------------------------------------------------------


def frameworks_stay_apart(file: File) -> Iterator[str]:
    banned: set[str] = set()
    if file.top == "nanochat":
        banned = {"demos", "typer", "click", *COMMAND_MODULES} | (set() if file.path in JAX_INSIDE_NANOCHAT else JAX)
    elif file.top == "demos":
        banned = {"torch", "typer", "click", "rich", "nanochat", *COMMAND_MODULES}
    for line, name in imports(file):
        if name.partition(".")[0] in banned:
            yield f"{file.path}:{line} imports {name}"


def layers_point_one_way(file: File) -> Iterator[str]:
    if file.top != "nanochat" or len(file.parts) < 2:
        return
    for line, name in imports(file):
        words = name.split(".")
        if words[0] == "nanochat" and len(words) > 1 and words[1] in FORBIDDEN.get(file.parts[1], set()):
            yield f"{file.path}:{line}: {file.parts[1]} imports {name}"


def mechanisms_are_islands(file: File) -> Iterator[str]:
    """Nobody inside nanochat imports a mechanism; only a limit's check compares with the known function."""
    if file.top != "nanochat":
        return
    checks = [
        node for node in ast.walk(file.tree) if isinstance(node, ast.FunctionDef) and node.name.endswith("_limit")
    ]
    for line, name in imports(file):
        words = name.split(".")
        if any(check.lineno <= line <= (check.end_lineno or 0) for check in checks):
            continue
        if len(words) < 3 or words[0] != "nanochat" or words[1] not in MECHANISM_FOLDERS:
            continue
        if file.parts[1] == "observe" and words[2] == file.parts[-1]:
            continue  # the probe of this mechanism: one file beside it, in a folder of its own
        if words[2] in mechanism_names(words[1]):
            yield f"{file.path}:{line} imports the mechanism {name}"


def nothing_else_names_a_mechanism(file: File) -> Iterator[str]:
    if file.top != "nanochat" or file.path in MAY_NAME_A_MECHANISM:
        return
    names = mechanism_names("attention") | mechanism_names("block") | mechanism_names("optim")
    own = file.parts[-1]
    for node in ast.walk(file.tree):
        if isinstance(node, ast.Constant) and node.value in names and node.value != own:
            if file.parts[1] in MECHANISM_FOLDERS and node.value == "standard":
                continue  # the default inner mixer of a block stack is a knob's default
            yield f"{file.path}:{node.lineno} names the mechanism {node.value!r}"


def only_the_command_line_prints(file: File) -> Iterator[str]:
    if file.top not in ("nanochat", "demos") or file.path in PRINTS:
        return
    for node, name in calls(file):
        if name in ("print", "pprint", "sys.stdout.write", "sys.stderr.write"):
            yield f"{file.path}:{node.lineno} prints"
    for line, name in imports(file):
        if name.partition(".")[0] == "rich":
            yield f"{file.path}:{line} imports rich"


def waivers_give_a_reason(file: File) -> Iterator[str]:
    """Behind the waiver, or in a comment on the line above it."""
    waiver = re.compile(
        r"#\s*(noqa|type:\s*ignore|pyright:\s*ignore|pragma:\s*no cover)(:\s*[A-Z0-9, ]+\b|\[\w[\w, -]*\])?(.*)"
    )
    lines = file.text.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(file.text).readline):
        if token.type != tokenize.COMMENT:
            continue
        found = waiver.search(token.string)
        above = lines[token.start[0] - 2] if token.start[0] > 1 else ""
        if found and len(found.group(3).strip(" -:,#")) < 8 and "# " not in above:
            yield f"{file.path}:{token.start[0]} waives a rule without saying why: {token.string}"


def environment_is_no_option(file: File) -> Iterator[str]:
    if file.top not in ("nanochat", "demos", *COMMAND_MODULES) or file.path in READS_ENVIRONMENT:
        return
    for node in ast.walk(file.tree):
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv", "putenv"):
            yield f"{file.path}:{node.lineno} reads the environment"
        elif isinstance(node, ast.ImportFrom) and any(alias.name in ("environ", "getenv") for alias in node.names):
            yield f"{file.path}:{node.lineno} reads the environment"


def options_have_one_default(file: File) -> Iterator[str]:
    """``getattr(config, "x", default)`` would give an option a second default, and hide a typing error."""
    for node, name in calls(file):
        if name == "getattr" and len(node.args) == 3 and isinstance(node.args[1], ast.Constant):
            if re.search(r"\b(config|cfg|knobs|options|args|arguments|optim|train|data)\b", ast.unparse(node.args[0])):
                yield f"{file.path}:{node.lineno}: {ast.unparse(node)}"


def files_are_short(file: File) -> Iterator[str]:
    lines = file.text.count("\n")
    if lines > 500:
        yield f"{file.path} has {lines} lines, need at most 500"


UNSAFE = {
    f"{module}.{name}" for module in ("pickle", "marshal") for name in ("load", "loads", "dump", "dumps", "Unpickler")
}


def nothing_is_pickled(file: File) -> Iterator[str]:
    """Unpickling runs code; the name of its exception may be used."""
    for line, name in imports(file):
        if name in UNSAFE or name.partition(".")[0] in ("dill", "cloudpickle", "shelve"):
            yield f"{file.path}:{line} imports {name}"
    for node, name in calls(file):
        safe = any(word.arg == "weights_only" and ast.unparse(word.value) == "True" for word in node.keywords)
        if name in UNSAFE or (name == "torch.load" and not safe):
            yield f"{file.path}:{node.lineno}: {name} of what may not be ours; torch.load takes weights_only=True"


STUBS = {"NotImplementedError", "NotImplementedError()"}


def nothing_is_unfinished(file: File) -> Iterator[str]:
    """No stub is left behind and no exception is swallowed."""
    for node in ast.walk(file.tree):
        if isinstance(node, ast.ExceptHandler) and all(isinstance(line, ast.Pass) for line in node.body):
            yield f"{file.path}:{node.lineno} swallows an exception; contextlib.suppress names the intent"
        if isinstance(node, ast.Raise) and node.exc is not None and ast.unparse(node.exc) in STUBS:
            yield f"{file.path}:{node.lineno} is a stub; a base class says what a subclass must define"


RULES: dict[Callable[[File], Iterator[str]], list[File]] = {
    frameworks_stay_apart: [
        File("nanochat/x.py", "import demos.tropical.maths"),
        File("nanochat/x.py", "def f():\n    from jax import numpy"),
        File("demos/tropical/maths.py", "from torch import nn"),
        File("demos/tropical/demo.py", "import rich.table"),
        File("nanochat/x.py", "from cli import main"),
    ],
    layers_point_one_way: [
        File("nanochat/config.py", "from nanochat.gpt import GPT"),
        File("nanochat/kernels/maxplus/cpu.py", "from nanochat.attention import MIXERS"),
        File("nanochat/train.py", "from nanochat import bench"),
    ],
    mechanisms_are_islands: [
        File("nanochat/gpt.py", "from nanochat.attention.standard import Standard"),
        File("nanochat/block/reversible.py", "from nanochat.attention import standard"),
        File("nanochat/observe/gauge.py", "from nanochat.attention.braid import Braid"),
    ],
    nothing_else_names_a_mechanism: [
        File("nanochat/gpt.py", "if name == 'standard':\n    pass"),
    ],
    only_the_command_line_prints: [
        File("nanochat/gpt.py", "print('hello')"),
        File("demos/tropical/demo.py", "import sys\nsys.stdout.write('x')"),
        File("nanochat/gpt.py", "from rich.table import Table"),
    ],
    waivers_give_a_reason: [
        File("x.py", "import os  # no" + "qa: F401"),
        File("x.py", "import os  # no" + "qa"),
        File("x.py", "x = f()  # type" + ": ignore[attr-defined]"),
    ],
    environment_is_no_option: [
        File("nanochat/gpt.py", "import os\nx = os.environ['X']"),
        File("demos/tropical/demo.py", "from os import getenv"),
    ],
    options_have_one_default: [File("nanochat/gpt.py", "x = getattr(self.config, 'window', 0)")],
    files_are_short: [File("nanochat/gpt.py", "x = 1\n" * 501)],
    nothing_is_pickled: [
        File("x.py", "from pickle import loads"),
        File("x.py", "import pickle\nx = pickle.load(file)"),
        File("x.py", "state = torch.load(path)"),
        File("x.py", "state = torch.load(path, weights_only=False)"),
    ],
    nothing_is_unfinished: [
        File("x.py", "try:\n    f()\nexcept ValueError:\n    pass"),
        File("x.py", "def f():\n    raise NotImplementedError"),
    ],
}


def tracked(*patterns: str) -> list[str]:
    """Files of the repository that git knows or would take; a checkout without git is read from the disk."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *patterns]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        return [str(path.relative_to(ROOT)) for pattern in patterns for path in ROOT.rglob(pattern)]
    return [path for path in listed.stdout.split("\n") if path and (ROOT / path).is_file()]


def mechanism_names(folder: str) -> set[str]:
    """Mechanism files of one folder; the standard mixer stands for those that another checkout may have."""
    found = {path.stem for path in (ROOT / "nanochat" / folder).glob("*.py") if not path.stem.startswith("_")}
    return found - SHARED_BY_MECHANISMS


def sources() -> list[File]:
    paths = [
        path
        for path in tracked("*.py")
        if path.startswith(("nanochat/", "demos/", "benchmarks/")) or path in COMMAND_LINE
    ]
    return [File(path, (ROOT / path).read_text(encoding="utf-8")) for path in paths]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_rule_holds(rule: Callable[[File], Iterator[str]]) -> None:
    broken = [sentence for file in sources() for sentence in rule(file)]
    assert not broken, "\n".join(broken)


@pytest.mark.parametrize(
    ("rule", "file"),
    [(rule, file) for rule, files in RULES.items() for file in files],
    ids=lambda value: value.__name__ if callable(value) else "bad",
)
def test_rule_catches_a_file_that_breaks_it(rule: Callable[[File], Iterator[str]], file: File) -> None:
    assert list(rule(file))


def test_typing_only_imports_are_allowed() -> None:
    text = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from nanochat.gpt import GPT"
    assert not list(layers_point_one_way(File("nanochat/config.py", text)))


def test_waiver_with_a_reason_is_allowed() -> None:
    text = "import os  # no" + "qa: F401 re-exported for users of the old name"
    assert not list(waivers_give_a_reason(File("x.py", text)))


LIGHT = [
    "cli",
    "cli_runs",
    "cli_study",
    "cli_view",
    "demos.registry",
    "nanochat.architecture",
    "nanochat.attention",
    "nanochat.bench.config",
    "nanochat.bench.suite",
    "nanochat.block",
    "nanochat.catalogue",
    "nanochat.config",
    "nanochat.doctor",
    "nanochat.flops",
    "nanochat.observe",
    "nanochat.observed",
    "nanochat.optim",
    "nanochat.options",
    "nanochat.registry",
    "nanochat.schedule",
    "nanochat.sizing",
]


def test_declarations_import_nothing_heavy() -> None:
    """Upper halves of mechanism files, configuration, ledger and command line: milliseconds, not seconds."""
    present = [name for name in LIGHT if (ROOT / (name.replace(".", "/") + ".py")).exists()]
    present += [name for name in LIGHT if (ROOT / name.replace(".", "/") / "__init__.py").exists()]
    program = f"import sys\nfor name in {present}: __import__(name)\nprint(*({HEAVY} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == []


def test_no_registry_host_and_no_path_of_one_machine() -> None:
    words = [
        "pypi" + ".org",
        "python" + "hosted",
        "registry.npm" + "js",
        "download.py" + "torch",
        "/ro" + "ot/",
        "/wo" + "rk/",
    ]
    pattern = re.compile("|".join(re.escape(word) for word in words))
    texts = {
        path: (ROOT / path).read_bytes().decode("utf-8", "replace")
        for path in tracked("*")
        if not path.endswith(".png")
    }
    assert [path for path, text in texts.items() if pattern.search(text)] == []


def test_tracked_files_are_small() -> None:
    assert [path for path in tracked("*") if (ROOT / path).stat().st_size > 200 * 1024] == []


def test_links_between_pages_resolve() -> None:
    broken = []
    for page in tracked("*.md"):
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", (ROOT / page).read_text(encoding="utf-8")):
            if (
                "://" not in target
                and not target.startswith("mailto:")
                and not (ROOT / page).parent.joinpath(target).exists()
            ):
                broken.append(f"{page}: {target}")
    assert not broken, "\n".join(broken)
