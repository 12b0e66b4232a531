"""The numerics table: it runs, its errors see a planted fault, and every mechanism's page shows it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from nanochat.architecture import attention_types, mechanism
from nanochat.attention.heads import KeyValueCache
from nanochat.attention.standard import Standard

PAGED = [name for name in attention_types() if mechanism(name).page]
SECTION = re.compile(r"## Numerics\n\n<!-- numerics:begin -->\n(.*?)<!-- numerics:end -->", re.DOTALL)
ROW = re.compile(r"^\| (\S+) +\| +(\d+) " + r"\| ([\d.e+-]+) " * 2 + r"\| +([\d.e+-]+) " * 2 + r"\|$", re.MULTILINE)
BOUNDS = (2e-5, 0.1, 2e-5, 1e-4)
"""For outputs in fp32 and bf16, decoding, gradients: what rounding explains."""


@pytest.fixture
def numerics(root, monkeypatch):
    monkeypatch.syspath_prepend(str(root / "benchmarks"))
    import numerics

    return numerics


def section_of(page: Path) -> str:
    (section,) = SECTION.findall(page.read_text(encoding="utf-8"))
    return section


@pytest.mark.parametrize("name", PAGED)
def test_every_page_shows_its_mechanism_beside_softmax_attention(root, name):
    section = section_of(root / "markdown_documentation" / mechanism(name).page)
    assert "benchmarks/numerics.py" in section
    rows = ROW.findall(section)
    for label in ("standard", name):
        mine = [list(map(float, row[2:])) for row in rows if row[0] == label]
        assert len(mine) == 2, f"{label}: need two lengths; run benchmarks/numerics.py --pages"
        assert all(0 < value < bound for row in mine for value, bound in zip(row, BOUNDS, strict=True)), mine


def test_one_mechanism_is_measured_recorded_and_written_to_its_page(numerics, root, tmp_path, capsys):
    page = tmp_path / "gauge.md"
    page.write_text("# Gauge\n\nText.\n\n## Status\n\nMore.\n")
    words = ["--quick", "--only", "gauge-group=u1", "--json", str(tmp_path / "all.json")]
    for turn in ("first", "second"):  # the second time the section is there and is renewed
        where = ["--artifacts-dir", str(tmp_path / turn), "--pages", "--pages-dir", str(tmp_path)]
        numerics.main([*words, *where])
    assert all(len(line) <= 80 for line in capsys.readouterr().out.splitlines() if line.startswith("|"))
    text = page.read_text()
    assert text.startswith("# Gauge\n\nText.\n\n## Numerics\n") and text.endswith("\n## Status\n\nMore.\n")
    assert [row[:2] for row in ROW.findall(section_of(page))] == [("standard", "16"), ("gauge-group=u1", "16")]
    found = json.loads((tmp_path / "all.json").read_text())["errors"]["gauge-group=u1"]["16"]
    assert all(0 < found[column] < bound for column, bound in zip(numerics.COLUMNS, BOUNDS, strict=True))
    (folder,) = (tmp_path / "second" / "perf" / "numerics").iterdir()
    assert folder.name in text
    assert json.loads((folder / "summary.json").read_text())["errors"]["gauge-group=u1"]["16"] == found


def rounded(x: Tensor) -> Tensor:
    return x.bfloat16().to(x.dtype) if x.dtype == torch.float32 else x


def test_a_loss_of_precision_is_seen(numerics, monkeypatch):
    """The negative controls: a mixer that rounds its queries in fp32, and a cache that rounds its keys."""
    honest = numerics.errors("standard", 16, 0)
    attend, append = Standard.attend, KeyValueCache.append
    monkeypatch.setattr(Standard, "attend", lambda self, q, k, v: attend(self, rounded(q), k, v))
    rough = numerics.errors("standard", 16, 0)
    assert all(rough[column] > 1e-4 > 10 * honest[column] for column in ("fp32", "gradient"))
    assert rough["decode"] < 1e-6
    monkeypatch.setattr(Standard, "attend", attend)
    monkeypatch.setattr(KeyValueCache, "append", lambda self, k, v: append(self, rounded(k), v))
    rough = numerics.errors("standard", 16, 0)
    assert rough["decode"] > 1e-4 and rough["fp32"] == honest["fp32"]


def test_a_label_that_is_none_is_refused_in_one_line(numerics, capsys):
    with pytest.raises(SystemExit, match="2"):
        numerics.main(["--only", "gaug"])
    assert "--only: got 'gaug'" in capsys.readouterr().err.splitlines()[-1]
