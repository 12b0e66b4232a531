"""The table of ledger against counter: it runs, says what is off, and its page shows every mechanism."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from nanochat import flops
from nanochat.bench.books import label, variants
from nanochat.optim import OPTIMIZERS

SECTION = re.compile(r"<!-- ledger:begin -->\n(.*?)<!-- ledger:end -->", re.DOTALL)
OFF = re.compile(r"(\d+\.\d+) % / (\d+\.\d+) %")


@pytest.fixture
def script(root, monkeypatch):
    monkeypatch.syspath_prepend(str(root / "benchmarks"))
    import ledger

    return ledger


def rows_of(page):
    (section,) = SECTION.findall(page.read_text(encoding="utf-8"))
    lines = [re.split(r" *\| *", line.strip("| ")) for line in section.splitlines() if line.startswith("| ")]
    return section, {cells[0]: cells[1:] for cells in lines[2:]}


def test_the_page_shows_every_mechanism_and_option_with_every_optimizer(root):
    section, rows = rows_of(root / "markdown_documentation" / "guides" / "costs.md")
    known = [label(*variant) for variant in variants()]
    assert list(rows) == known, "run benchmarks/ledger.py --pages"
    for name, cells in rows.items():
        offs = cells[2 : 2 + len(OPTIMIZERS.names())]
        for optimizer, cell in zip(OPTIMIZERS.names(), offs, strict=True):
            if cell == "refused":
                assert re.search(rf"^- {optimizer} with .*\b{re.escape(name)}[,:]", section, re.MULTILINE)
            else:
                matmul, others = map(float, OFF.fullmatch(cell).groups())
                assert matmul <= 1 and others <= 5
    assert "Nothing is off by more." in section


def test_one_case_is_counted_recorded_and_written_to_its_page(script, tmp_path, capsys):
    page = tmp_path / "costs.md"
    page.write_text("# Costs\n\nText.\n")
    words = ["--only", "gauge-group=u1", "--pages", "--page", str(page), "--json", str(tmp_path / "all.json")]
    for turn in ("first", "second"):  # the second time the section is there and is renewed
        assert script.main([*words, "--artifacts-dir", str(tmp_path / turn)]) == 0
    assert page.read_text().startswith("# Costs\n\nText.\n\n## ")
    section, rows = rows_of(page)
    assert list(rows) == ["gauge-group=u1"]
    assert "- hoss with gauge-group=u1: gauge: its transport kernels have first derivatives only" in section
    found = json.loads((tmp_path / "all.json").read_text())["mechanisms"]["gauge-group=u1"]
    total = found["optimizers"]["adamw"]["cases"]["grouped, 256 tokens"]["total"]
    assert rows["gauge-group=u1"][:2] == [f"{total[side]:,.0f}" for side in ("stated", "executed")]
    assert found["growth"]["n_embd"][0] == pytest.approx(found["growth"]["n_embd"][1], abs=0.01)
    (folder,) = (tmp_path / "second" / "perf" / "ledger").iterdir()
    assert folder.name in section


def test_a_wrong_formula_fails_the_script_and_is_named(script, tmp_path, monkeypatch, capsys):
    def wrong(config):
        book = flops.ledger(config)
        return replace(book, optimizer=1.1 * book.optimizer)

    monkeypatch.setattr("nanochat.bench.books.ledger", wrong)
    assert script.main(["--only", "standard", "--artifacts-dir", str(tmp_path)]) == 1
    assert "off: standard with adamw, grouped, 64 tokens: elementwise off by 9.9" in capsys.readouterr().err


def test_a_label_that_is_none_is_refused_in_one_line(script, capsys):
    with pytest.raises(SystemExit) as left:
        script.main(["--only", "gaug"])
    assert left.value.code == 2 and "--only: got 'gaug', need some of braid" in capsys.readouterr().err
