"""The store: a run is done when its result is there, under a key that changes with whatever changes the numbers."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from outcomes import OUTCOME

from nanochat.bench import code
from nanochat.bench.store import RESULT, Store, key_of
from nanochat.config import ConfigError

KEY = key_of({"seed": 1})


def test_keys_follow_content_and_not_order():
    assert key_of({"a": 1, "b": [1, 2]}) == key_of({"b": [1, 2], "a": 1})
    assert key_of({"a": 1}) != key_of({"a": 2})
    with pytest.raises(ValueError):
        key_of({"a": float("nan")})


def test_a_result_is_there_after_commit_and_not_before(tmp_path):
    store = Store(tmp_path)
    with store.lease(KEY) as held:
        assert held
        store.clear(KEY)
        assert store.load(KEY) is None
        store.commit(KEY, OUTCOME, {"seed": 1})
    assert Store(tmp_path).load(KEY) == OUTCOME


@pytest.mark.parametrize("content", ["", "{", "[]", '{"schema": "other"}', '{"schema": "mgr.job.v2"}', "\udcff"])
def test_what_is_not_a_result_counts_as_missing(tmp_path, content):
    store = Store(tmp_path)
    path = store.clear(KEY) / RESULT
    path.write_bytes(content.encode(errors="surrogateescape"))
    assert store.load(KEY) is None


def test_a_result_from_before_a_number_was_asked_for_is_read_without_it(tmp_path):
    store = Store(tmp_path)
    path = store.clear(KEY) / RESULT
    store.commit(KEY, OUTCOME, {"seed": 1})
    content = json.loads(path.read_text())
    del content["replayed"]
    path.write_text(json.dumps(content))
    assert store.load(KEY) == OUTCOME and OUTCOME.replayed is None
    del content["leak"]
    path.write_text(json.dumps(content))
    assert store.load(KEY) is None


def test_an_interrupted_attempt_is_cleared_away(tmp_path):
    store = Store(tmp_path)
    (store.clear(KEY) / "metrics.jsonl").write_text("half a line")
    assert list(store.clear(KEY).iterdir()) == []


def test_one_lease_at_a_time_and_none_after_its_holder_is_killed(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from nanochat.bench.store import Store\n"
        f"with Store(Path({str(tmp_path)!r})).lease({KEY!r}) as held:\n"
        "    print(held is not None, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline().strip() == "True"
        with Store(tmp_path).lease(KEY) as held:
            assert not held
        os.kill(holder.pid, signal.SIGKILL)
    with Store(tmp_path).lease(KEY) as held:
        assert held


def test_a_folder_that_cannot_be_written_is_refused_at_once(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="need a folder that can be written to"):
        Store(tmp_path / "file")


def test_results_are_strict_json(tmp_path):
    store = Store(tmp_path)
    store.clear(KEY)
    store.commit(KEY, OUTCOME, {"seed": 1})
    text = (store.directory(KEY) / RESULT).read_text()
    json.loads(text, parse_constant=lambda token: pytest.fail(token))


def names(*entries):
    return {path.relative_to(code.ROOT).as_posix() for path in code.source_files(tuple(entries))}


def test_the_code_of_a_run_is_what_it_imports():
    found = names("nanochat.gpt", "nanochat.attention.tropical")
    assert {"gpt.py", "trunk.py", "config.py", "attention/heads.py", "attention/tropical.py"} <= found
    assert any(name.startswith("kernels/maxplus/") for name in found)
    assert "attention/standard.py" not in found
    assert not any(name.startswith("bench/") for name in found)


def test_an_edit_elsewhere_keeps_the_hash_and_an_edit_inside_changes_it(tmp_path, monkeypatch):
    package = tmp_path / "nanochat"
    (package / "attention").mkdir(parents=True)
    for name, text in {
        "__init__.py": "",
        "train.py": "def f():\n    from nanochat.gpt import GPT\n",
        "gpt.py": "GPT = 1\n",
        "other.py": "",
        "attention/__init__.py": "",
        "attention/one.py": "",
        "attention/two.py": "",
    }.items():
        (package / name).write_text(text)
    monkeypatch.setattr(code, "ROOT", package)

    def current():
        code.source_files.cache_clear()
        return code.code_hash(["nanochat.train", "nanochat.attention.one"])

    before = current()
    for untouched in ("other.py", "attention/two.py"):
        Path(package / untouched).write_text("x = 1\n")
        assert current() == before
    for touched in ("gpt.py", "attention/one.py", "attention/__init__.py"):
        Path(package / touched).write_text("x = 1\n")
        assert current() != before
        before = current()
    code.source_files.cache_clear()


COMMENTED = '''"""Module."""
# A remark.

def f(x):
    """Docstring
    over lines."""
    # why
    y = (
        "an argument"  # of a kind
        "# and no remark"
    )
    return x + 1  # one more


class C:
    """Of the class."""

    name = 1
    """Of the attribute."""
'''


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("# A remark.\n", "# Another.\n# And one.\n", True),
        ("  # one more", "", True),
        ("Docstring\n    over lines.", "One line.", True),
        ('"""Of the attribute."""', "# Of the attribute.", True),
        ("# of a kind", "# of another", True),
        ("x + 1", "x + 2", False),
        ("an argument", "a word", False),
        ("# and no remark", "# and a word", False),
        ("name = 1", "name = 2", False),
    ],
)
def test_remarks_do_not_change_the_hash_and_statements_do(tmp_path, monkeypatch, old, new, same):
    monkeypatch.setattr(code, "ROOT", tmp_path)
    assert old in COMMENTED
    hashes = []
    for text in (COMMENTED, COMMENTED.replace(old, new)):
        (tmp_path / "train.py").write_text(text)
        code.source_files.cache_clear()
        hashes.append(code.code_hash(["nanochat.train"]))
    code.source_files.cache_clear()
    assert (hashes[0] == hashes[1]) is same
