"""Reports as a person meets them: in a window, on a phone at night, by keyboard, on paper.

Pictures of them stay in pytest's folder (``--basetemp DIR``), to be looked at.
"""

import re

import pytest
from browser import CHROMIUM, browser
from made_suites import suites

from nanochat.bench.page import page

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium"),
]

A4 = 688
"""Pixels between the margins of a page."""
COLUMN = "Array.from(document.querySelector('#verdicts table').tBodies[0].rows, row => row.cells[{}].textContent)"
CUT = """Array.from(document.querySelectorAll('main *')).filter(each => {
  const box = each.getBoundingClientRect();
  return box.width && box.right > innerWidth + 1 && !each.closest('.scroll') && !each.closest('.quiet');
}).map(each => each.outerHTML.slice(0, 80))"""
SMALL = """Array.from(document.querySelectorAll('figure svg text')).filter(each => {
  const svg = each.closest('svg'), wide = svg.getBoundingClientRect().width;
  return wide && parseFloat(getComputedStyle(each).fontSize) * wide / svg.viewBox.baseVal.width < 8.5;
}).length"""


@pytest.fixture(scope="module")
def opened():
    with browser() as tab:
        yield tab


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reports")
    for kind, verdicts in suites().items():
        (folder / f"{kind}.html").write_text(page(verdicts), encoding="utf-8")
    return {path.stem: path for path in folder.glob("*.html")}


@pytest.mark.parametrize("kind", ["two", "eleven", "matrix", "troubled", "barred", "undecided", "smoke"])
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (400, "dark")])
def test_nothing_is_cut_complains_or_asks_the_network(opened, reports, kind, width, scheme):
    opened.open(reports[kind], width, scheme=scheme)
    opened.picture(reports[kind].with_name(f"{kind}-{width}.png"))
    opened.script("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert opened.errors == [] and {address[:5] for address in opened.requests} <= {"file:", "data:"}
    assert opened.script("document.documentElement.scrollWidth") <= width
    assert opened.script(CUT) == [] and opened.script(SMALL) == 0


def test_tables_are_sorted_by_keyboard_and_say_so(opened, reports):
    opened.open(reports["eleven"], 1280)
    opened.press("Tab", 9)
    assert opened.script("document.activeElement.textContent") == "Skip to the verdicts"
    at = opened.script("document.querySelector('#verdicts th:nth-child(3) button').focus(), 2")
    for key, code, said in (("Enter", 13, "ascending"), (" ", 32, "descending")):
        opened.press(key, code)
        shown = [text for text in opened.script(COLUMN.format(at)) if text]
        values = [float(text.replace("\u2212", "-")) for text in shown]
        assert values == sorted(values, reverse=said == "descending") and len(values) == 10
        assert opened.script(COLUMN.format(0))[-1] == "standard"
        assert opened.script("document.querySelector('#verdicts th:nth-child(3)').getAttribute('aria-sort')") == said
        assert opened.script("document.getElementById('said').textContent") == f"Sorted by Δ bits per byte, {said}"
        assert opened.script("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_words_stay_legible_by_day_and_night(opened, reports):
    """WCAG AA: contrast of text with what lies behind it is at least 4.5."""
    light = """(each => { const part = name => getComputedStyle(each)[name].match(/[\\d.]+/g).slice(0, 3).map(value => {
      const share = value / 255; return share <= .04045 ? share / 12.92 : ((share + .055) / 1.055) ** 2.4; });
      const bright = ([r, g, b]) => .2126 * r + .7152 * g + .0722 * b;
      const behind = getComputedStyle(each).backgroundColor === 'rgba(0, 0, 0, 0)'
        ? getComputedStyle(document.body).backgroundColor : null;
      const back = behind ? bright(behind.match(/[\\d.]+/g).slice(0, 3).map(value => { const share = value / 255;
        return share <= .04045 ? share / 12.92 : ((share + .055) / 1.055) ** 2.4; })) : bright(part('backgroundColor'));
      const front = bright(part('color')); return (Math.max(front, back) + .05) / (Math.min(front, back) + .05); })"""
    for scheme in ("light", "dark"):
        opened.open(reports["troubled"], 1280, scheme=scheme)
        chosen = "'.word, .soft, dt, h1, a, figcaption'"
        least = opened.script(f"Math.min(...Array.from(document.querySelectorAll({chosen}), {light}))")
        assert least >= 4.5


@pytest.mark.parametrize("kind", ["eleven", "matrix"])
def test_tables_fit_on_paper_and_repeat_their_headings(opened, reports, kind):
    opened.open(reports[kind], A4)
    opened.call("Emulation.setEmulatedMedia", media="print")
    opened.script("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert opened.script("document.documentElement.scrollWidth") <= A4
    rows = "document.querySelector('.forest li').getBoundingClientRect().height"
    assert opened.script(rows) < 30  # one line an arm, as at a desk
    wide = "Array.from(document.querySelectorAll('table'), each => each.getBoundingClientRect().width)"
    assert max(opened.script(wide)) <= A4
    # Chromium repeats the text of a heading on every page only where no button holds it.
    assert opened.script("getComputedStyle(document.querySelector('th button')).display") == "contents"


def test_paper_shows_what_was_folded(opened, reports, tmp_path):
    opened.open(reports["matrix"], 1280)
    opened.script(
        "window.seen = -1; addEventListener('beforeprint', () => "
        "seen = document.querySelectorAll('details:not([open], .aside)').length); 0"
    )
    opened.print(tmp_path / "report.pdf")
    pages = len(re.findall(rb"/Type\s*/Page\b", (tmp_path / "report.pdf").read_bytes()))
    assert opened.script("seen") == 0 and 15 <= pages <= 70
    assert opened.script("document.querySelectorAll('details:not([open])').length") > 0
