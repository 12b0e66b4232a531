"""Modules in two halves: what the declaration knows is free, what needs tensors waits, and both are one module."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

import nanochat.attention as attention_package
import nanochat.block as block_package
import nanochat.optim as optim_package
import nanochat.schedule as schedule_package
from nanochat.deferred import HEAVY, declare
from nanochat.registry import Mechanism, Operations, Registry, Unknown

PACKAGES = [attention_package, block_package, optim_package, schedule_package]

DECLARATION = """
from __future__ import annotations
from {package} import REGISTRY
from nanochat.registry import Mechanism, Operations

ANSWER = 42
REGISTRY.append(__name__)

import torch

loaded = torch.tensor(ANSWER)

def double() -> int:
    return int(2 * loaded)
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A throw-away package with one mechanism file."""
    name = f"throwaway_{tmp_path.name}".replace("-", "_")
    folder = tmp_path / name
    folder.mkdir()
    (folder / "__init__.py").write_text("REGISTRY = []\n")
    (folder / "one.py").write_text(DECLARATION.format(package=name))
    monkeypatch.syspath_prepend(tmp_path)
    __import__(name)
    yield name, folder
    for module in [module for module in sys.modules if module.partition(".")[0] == name]:
        del sys.modules[module]


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_declarations_import_neither_torch_nor_jax_nor_numpy():
    assert (
        python(
            """
        import sys
        from nanochat.architecture import attention_types, faults, plan
        from nanochat.attention import MIXERS
        from nanochat.block import BLOCKS
        from nanochat.config import GPTConfig
        from nanochat.optim import OPTIMIZERS
        from nanochat.schedule import SCHEDULES
        config = GPTConfig(attention_type="reversible")
        assert not faults(config) and plan(config).block.title
        for record in (*MIXERS, *BLOCKS):
            record.operations(config, 64), record.backward(config, 64), record.state(config, 1, 64)
        print(sorted({"torch", "jax", "numpy"} & set(sys.modules)))
        """
        )
        == "[]"
    )


@pytest.mark.parametrize(
    "first", ["MIXERS.get('standard').load()", "__import__('nanochat.attention.standard', fromlist=['x']).Standard"]
)
def test_the_class_is_one_whoever_touches_it_first(first):
    assert (
        python(
            f"""
        from nanochat.attention import MIXERS
        one = {first}
        import nanochat.attention.standard as module
        from nanochat.attention.standard import Standard
        print(one is Standard is MIXERS.get("standard").load() is module.Standard)
        """
        )
        == "True"
    )


def test_the_lower_half_waits_for_its_first_name(package):
    name, folder = package
    (module,) = declare(name, folder)
    assert module.ANSWER == 42
    assert "loaded" not in vars(module)
    assert module.double() == 84
    assert "loaded" in vars(module)


def test_a_name_that_neither_half_has_is_an_ordinary_attribute_error(package):
    name, folder = package
    (module,) = declare(name, folder)
    with pytest.raises(AttributeError, match="has no attribute 'triple'"):
        _ = module.triple
    assert module.double() == 84
    with pytest.raises(AttributeError, match="has no attribute 'triple'"):
        _ = module.triple


def test_looking_for_special_names_loads_nothing(package):
    name, folder = package
    (module,) = declare(name, folder)
    assert not hasattr(module, "__path__")
    assert "loaded" not in vars(module)


def test_tracebacks_name_the_true_line(package):
    name, folder = package
    file = folder / "one.py"
    file.write_text(file.read_text() + "\ndef fail() -> None:\n    raise KeyError('here')\n")
    (module,) = declare(name, folder)
    with pytest.raises(KeyError) as caught:
        module.fail()
    entry = caught.traceback[-1]
    assert str(entry.path) == str(file)
    assert file.read_text().splitlines()[entry.lineno].strip() == "raise KeyError('here')"


def test_a_lower_half_that_fails_is_tried_again(package):
    name, folder = package
    file = folder / "one.py"
    file.write_text(file.read_text().replace("loaded = ", "if ANSWER == 42: raise RuntimeError('not yet')\nloaded = "))
    (module,) = declare(name, folder)
    with pytest.raises(RuntimeError, match="not yet"):
        module.double()
    module.ANSWER = 21
    assert module.double() == 42


def test_an_upper_half_that_fails_leaves_no_broken_module(package):
    name, folder = package
    (folder / "one.py").write_text("raise ValueError('broken')\n")
    with pytest.raises(ValueError, match="broken"):
        declare(name, folder)
    assert f"{name}.one" not in sys.modules


def test_threads_that_meet_get_one_body(package):
    name, folder = package
    file = folder / "one.py"
    file.write_text(
        file.read_text().replace("loaded = ", "import time; time.sleep(0.05); REGISTRY.append('body')\nloaded = ")
    )
    (module,) = declare(name, folder)
    seen: list[int] = []
    threads = [threading.Thread(target=lambda: seen.append(module.double())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [84] * 4
    assert module.REGISTRY.count("body") == 1


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_no_other_heavy_import_stands_before_the_lower_half(package):
    for module in declare(package.__name__, Path(package.__file__).parent):
        with open(module.__spec__.origin, encoding="utf-8") as file:
            upper, _, lower = file.read().partition(HEAVY)
        for heavy in ("jax", "numpy", "scipy", "torch"):
            assert f"\nimport {heavy}" not in upper and f"\nfrom {heavy}" not in upper, module.__name__
        assert "register(" not in lower, f"{module.__name__} registers in its lower half"


def record(name: str) -> Mechanism:
    def free(config: object, length: int) -> Operations:
        return Operations()

    return Mechanism(
        name=name,
        title=name,
        source="arXiv:1",
        cls="Any",
        operations=free,
        backward=free,
        decode=free,
        state=lambda config, batch, length: 0,
    )


def test_a_second_record_of_the_same_name_is_refused():
    registry: Registry[Mechanism] = Registry("attention type")
    registry.register(record("one"), "first.module")
    with pytest.raises(ValueError, match=r"'one' is registered twice: first\.module, second\.module"):
        registry.register(record("one"), "second.module")


def test_a_file_that_registers_nothing_is_refused(package):
    name, folder = package
    with pytest.raises(ValueError, match="registers no attention type"):
        Registry("attention type").discover(name, folder)


def test_an_unknown_name_says_which_are_near():
    registry: Registry[Mechanism] = Registry("attention type")
    registry.register(record("tropical"), "m")
    with pytest.raises(
        Unknown, match=r"unknown attention type 'tropicl': need one of tropical; did you mean 'tropical'"
    ):
        registry.get("tropicl")
