"""How the C++ max-plus kernel is built: never at import, once among processes, and without it the tiles take over."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from nanochat.kernels import native
from nanochat.kernels.maxplus import cpu, naive, operators

KERNEL = cpu.KERNEL

TINY = 'extern "C" int answer() { return 42; }\n'


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """A build folder of its own, and a module that remembers nothing, before and after."""
    monkeypatch.setattr(native.cpp_extension, "get_default_build_root", lambda: str(tmp_path / "extensions"))
    KERNEL.forget()
    yield tmp_path
    KERNEL.forget()


@pytest.fixture
def tiny(fresh, monkeypatch) -> Path:
    """A source that compiles in no time."""
    if shutil.which(native.cpp_extension.get_cxx_compiler()) is None:
        pytest.skip("no compiler")
    monkeypatch.setattr(KERNEL, "source", fresh / "tiny.cpp")
    KERNEL.source.write_text(TINY)
    return KERNEL.library()


def test_without_a_compiler_the_tiles_take_over_and_it_is_said_once(fresh, monkeypatch, caplog):
    monkeypatch.setattr(native.cpp_extension, "get_cxx_compiler", lambda: "no-such-compiler")
    q, k, v = (torch.randn(1, 2, 9, 4, dtype=torch.float64) for _ in range(3))
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert torch.equal(operators.attention(q, k, v), naive.attention(q, k, v))
    assert "no-such-compiler" in cpu.reason() and not cpu.available()
    assert len(caplog.records) == 1 and "no-such-compiler" in caplog.text
    with pytest.raises(cpu.KernelUnavailable, match="need a C"):
        operators.attention(q, k, v, backend="cpp")


def test_a_source_that_does_not_compile_gives_the_compilers_words(fresh, monkeypatch):
    monkeypatch.setattr(KERNEL, "source", fresh / "broken.cpp")
    KERNEL.source.write_text("int broken( {\n")
    assert "error" in cpu.reason() or "no such" in cpu.reason().lower()
    assert not list(fresh.rglob("*.so"))


def test_a_folder_that_cannot_be_made_is_a_reason(fresh, monkeypatch):
    (fresh / "extensions").write_text("a file where the folder should be")
    assert "extensions" in cpu.reason()


def test_a_compiler_that_hangs_is_given_up(fresh, monkeypatch):
    monkeypatch.setattr(KERNEL, "command", lambda target: ["sleep", "30"])
    monkeypatch.setattr(KERNEL, "seconds", 0.1)
    with pytest.raises(cpu.KernelUnavailable, match=r"more than 0.1 s"):
        KERNEL.build(fresh / "x" / "maxplus.so")


def test_parallel_builders_compile_once(tiny, monkeypatch):
    calls: list[list[str]] = []
    run = KERNEL.compile
    monkeypatch.setattr(KERNEL, "compile", lambda arguments: (calls.append(arguments), run(arguments)))
    builders = [threading.Thread(target=KERNEL.build, args=(tiny,)) for _ in range(4)]
    for builder in builders:
        builder.start()
    for builder in builders:
        builder.join(60)
    assert tiny.exists() and len(calls) == 1


def test_a_killed_builder_blocks_nobody(tiny):
    tiny.parent.mkdir(parents=True)
    script = (
        "import fcntl, sys, time\n"
        f"lock = open({str(tiny.with_suffix('.lock'))!r}, 'w')\n"
        "fcntl.flock(lock, fcntl.LOCK_EX)\n"
        f"open({str(tiny.with_suffix('.part'))!r}, 'w').write('half')\n"
        "print('held', flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        holder.kill()
    KERNEL.build(tiny)
    assert tiny.stat().st_size > len("half") and not tiny.with_suffix(".part").exists()


def test_the_name_changes_with_what_the_binary_depends_on(fresh, monkeypatch):
    names = {KERNEL.library()}
    for attribute, value in (("processor", lambda: "lesser"), ("source", fresh / "other.cpp")):
        with monkeypatch.context() as change:
            (fresh / "other.cpp").write_text(TINY)
            change.setattr(KERNEL, attribute, value)
            names.add(KERNEL.library())
    assert len(names) == 3


def test_nothing_is_built_at_import(tmp_path):
    code = (
        "import nanochat.attention.tropical as t, nanochat.kernels.maxplus.cpu as c\n"
        "print(t.Tropical.__name__, c.KERNEL.tried)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["Tropical", "False"]
