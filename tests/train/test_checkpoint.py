from __future__ import annotations

import json

import pytest
import torch

from nanochat.checkpoint import KEEP, load, save
from nanochat.config import ConfigError


def quiet(line: str) -> None:
    raise AssertionError(line)


def test_what_is_saved_comes_back_to_the_bit(tmp_path):
    state = {
        "weights": torch.randn(3, 4),
        "half": torch.randn(5).bfloat16(),
        "nested": {"list": [1, 2.5, "text", None, True], 3: torch.arange(4)},
    }
    save(tmp_path, state, 7, "owner")
    found = load(tmp_path, "owner", quiet)
    assert found is not None and found[0] == 7
    assert torch.equal(found[1]["weights"], state["weights"]) and torch.equal(found[1]["half"], state["half"])
    assert found[1]["nested"]["list"] == state["nested"]["list"]
    assert torch.equal(found[1]["nested"][3], torch.arange(4))


def test_none_was_saved_yet(tmp_path):
    assert load(tmp_path, "owner", quiet) is None


def test_only_the_newest_stay(tmp_path):
    for step in range(1, 6):
        save(tmp_path, {"step": step}, step, "owner")
    assert sorted(path.name for path in tmp_path.glob("*.pt")) == ["step-00000004.pt", "step-00000005.pt"]
    entries = json.loads((tmp_path / "latest.json").read_text())["checkpoints"]
    assert [entry["step"] for entry in entries] == [5, 4] and len(entries) == KEEP


def test_a_step_that_is_saved_again_replaces_itself(tmp_path):
    for _ in range(2):
        save(tmp_path, {"x": 1}, 4, "owner")
    assert len(json.loads((tmp_path / "latest.json").read_text())["checkpoints"]) == 1


def test_a_torn_file_beside_the_index_is_never_read(tmp_path):
    save(tmp_path, {"x": 1}, 4, "owner")
    (tmp_path / "step-00000009.pt").write_bytes(b"torn")
    (tmp_path / ".step-00000010.pt.1.tmp").write_bytes(b"torn")
    assert load(tmp_path, "owner", quiet) == (4, {"x": 1})


def test_each_damaged_file_is_reported_once(tmp_path):
    save(tmp_path, {"x": 1}, 4, "owner")
    save(tmp_path, {"x": 2}, 8, "owner")
    (tmp_path / "step-00000008.pt").write_bytes(b"")
    heard: list[str] = []
    assert load(tmp_path, "owner", heard.append) == (4, {"x": 1})
    assert len(heard) == 1 and "step-00000008.pt" in heard[0]
    (tmp_path / "step-00000004.pt").unlink()
    with pytest.raises(ConfigError) as error:
        load(tmp_path, "owner", heard.append)
    assert len(error.value.faults) == 2
