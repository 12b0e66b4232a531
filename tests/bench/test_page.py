"""Reports of suites of every kind: what they say first, that they are whole, and that a keyboard is enough."""

import html.parser
import re
from collections import Counter
from dataclasses import replace

import pytest
from made_suites import EFFECTS, Truth, made, suites

from nanochat.bench import figures
from nanochat.bench.chart import Chart, around, doublings, round_numbers, tick_texts
from nanochat.bench.engine import opening
from nanochat.bench.figures import COSTS, comparable, on_front
from nanochat.bench.page import page
from nanochat.bench.report import markdown
from nanochat.bench.stylesheet import SCRIPT, STYLE, policy
from nanochat.bench.verdicts import Comparison
from nanochat.bench.wording import headline, number_text, probability

VOID = ("meta", "link", "br")
KINDS = ("two", "eleven", "matrix", "troubled", "barred", "undecided", "smoke")


class Document(html.parser.HTMLParser):
    """A page as a browser would read it, with what should not be there."""

    def __init__(self, text):
        super().__init__()
        self.open, self.faults, self.ids, self.targets, self.tags = [], [], Counter(), set(), Counter()
        self.pictures = []
        self.feed(text)
        self.faults += self.open

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.tags[tag] += 1
        self.ids[given.get("id", "")] += 1
        if tag in ("iframe", "object", "embed", "audio", "video", "img") or "src" in given:
            self.faults.append(f"<{tag}> asks for something")
        if tag == "a":
            self.targets.add(given["href"])
        if tag == "svg":
            self.pictures.append({"hidden": given.get("aria-hidden") == "true", "title": "", "desc": ""})
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags[tag] += 1

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}> closes something else")

    def handle_data(self, text):
        if len(self.open) > 1 and self.open[-2] == "svg" and self.open[-1] in ("title", "desc"):
            self.pictures[-1][self.open[-1]] = text


@pytest.fixture(scope="module")
def all_suites():
    return suites()


@pytest.mark.parametrize("kind", KINDS)
def test_every_report_is_one_whole_file_that_a_keyboard_and_a_screen_reader_can_use(all_suites, kind):
    verdicts = all_suites[kind]
    text = page(verdicts)
    found = Document(text)
    assert found.faults == [] and len(text.encode()) < 1_500_000
    assert [name for name, count in found.ids.items() if name and count > 1] == []
    assert {target for target in found.targets if target[0] != "#" or target[1:] not in found.ids} == set()
    assert all(each["hidden"] or (each["title"] and each["desc"]) for each in found.pictures)
    assert found.tags["button"] == text.count('aria-sort="none"') > 20
    for arm in verdicts.arms:
        assert text.count(f'<span class="word {arm.verdict}">{arm.verdict}</span>') >= 1
        assert not arm.against or f'id="arm-{verdicts.plan.labels.index(arm.label)}"' in text
    visible = re.sub(r"<(style|script)>.*?</\1>|<[^>]*>", " ", text, flags=re.DOTALL).replace("None of", "")
    assert re.findall(r"\b(?:nan|inf|None|NaN)\b", visible + str(re.findall(r'points="[^"]*"', text))) == []


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("two", "tropical beats standard by 0.217 bits per byte."),
        ("eleven", "2 of 10 arms beat the baseline (tropical, reversible); 4 worse, 1 equal within what matters, 3"),
        ("matrix", "arms beat their baseline; "),
        ("troubled", "1 diverged, 2 failed a check."),
        ("barred", "No comparison is valid: baseline: seed 0: used 1.300 of the budget"),
        ("smoke", "No verdict: 2 seeds cannot carry one, it takes 6."),
    ],
)
def test_the_answer_comes_first(all_suites, kind, said):
    first = re.search(r"<h1>(.*?)</h1>", page(all_suites[kind]))
    assert first is not None and said in first[1]
    assert markdown(all_suites[kind]).startswith("# ") and said in markdown(all_suites[kind]).splitlines()[0]


def test_one_arm_has_a_sentence_for_every_word():
    def first(effect, sesoi=0.02, **options):
        found = made(Truth({"gauge": effect}, **options), arms=("standard", "gauge"), sesoi=sesoi)
        return found.contenders[0].verdict, markdown(found).splitlines()[0]

    assert first(0.2)[0] == "LOSS" and "gauge is worse than standard by 0." in first(0.2)[1]
    assert first(0.0)[0] == "TIE" and first(0.0)[1] == "# gauge and standard are equal within ±0.02 bits per byte."
    unclear = first(0.0, sesoi=0.001)
    assert unclear[0] == "INCONCLUSIVE" and unclear[1].startswith("# Undecided: gauge may be anything from ")
    assert "cannot be compared with standard: diverged in 1 of 8 seeds." in first(0.0, diverging=("gauge",))[1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("WIN", "WIN"), " At equal seconds too."),
        (("LOSS", "INCONCLUSIVE"), " At equal seconds none of them."),
        (("LOSS", "WIN"), " At equal seconds 1 of them (tropical)."),
        (("LOSS", "INVALID"), " At equal seconds none of the 1 that could be timed."),
        (("INVALID", "INVALID"), "."),
        (("LOSS",), " At equal seconds: LOSS +0.0300."),
        (("WIN",), " At equal seconds too."),
    ],
)
def test_the_headline_tells_what_a_win_is_worth_in_seconds(words, said):
    wins = dict(zip(("gauge", "tropical"), words, strict=False))
    found = made(Truth(dict.fromkeys(wins, -0.2)), arms=("standard", *wins))
    arms = [
        replace(arm, time=Comparison(verdict=wins[arm.label], seeds=8, difference=0.03) if arm.against else None)
        for arm in found.arms
    ]
    assert all(arm.verdict == "WIN" for arm in arms if arm.against)
    told = headline(replace(found, arms=tuple(arms)))
    assert told.endswith(said) and ("seconds" in told) == ("seconds" in said)


def test_troubled_arms_are_named_at_the_top_and_kept_off_the_fronts(all_suites):
    verdicts = all_suites["troubled"]
    top = page(verdicts).partition("<nav")[0]
    assert "gauge is INVALID: seed 0: used 1.300 of the budget" in top and "surreal is INVALID: seed 0: its wo" in top
    assert "fractal is UNSTABLE: diverged in 1 of 8 seeds." in top and "Step times marked (busy)" in top
    assert {"gauge", "fractal", "surreal"}.isdisjoint(arm.label for arm in comparable(verdicts))
    assert all({"gauge", "fractal"}.isdisjoint(arm.label for arm in on_front(verdicts, cost)) for cost in COSTS)
    assert "Not drawn: 3 arms without comparable runs." in page(verdicts)


def test_a_baseline_that_failed_is_named_once(all_suites):
    top, _, rest = page(all_suites["barred"]).partition("<nav")
    assert re.findall(r"<li>(.*?)</li>", top) == [
        "standard, a baseline, is INVALID: seed 0: used 1.300 of the budget, need 1 +- 0.005."
    ]
    assert "nothing to draw" in rest and "<b>Loss against" not in rest


def test_passages_that_changed_most_are_shown_as_text(all_suites):
    verdicts = all_suites["two"]
    found = figures.by_document(verdicts, "tropical")
    text = page(verdicts)
    begins = [f"passage {number} &lt;b&gt;" for number in range(len(found))]
    assert (found < 0).sum() > 5 and (found > 0).sum() == 1 and text.count('<td class="text">worse</td>') == 1
    assert begins[found.argmin()] in text and begins[found.argmax()] in text and "passage 1 <b>" not in text


def test_the_opening_of_a_passage_is_one_printable_line():
    shown = opening("a\n\tb\x00c\u202ed".encode() + "é".encode()[:1])
    assert shown == "a b·c·d" and len(opening(b"x" * 1000)) == 70


@pytest.mark.parametrize(
    ("match", "said"), [("params", ", and parameters"), ("time", "seconds, those that 10¹¹ operat")]
)
def test_what_arms_have_in_common_is_said(match, said):
    text = page(made(arms=("standard", "tropical"), match=match))
    assert said in text and Document(text).faults == []


def test_a_summary_for_pull_requests_is_a_table_and_folds_when_long(all_suites):
    short, long = markdown(all_suites["eleven"]), markdown(all_suites["matrix"])
    rows = [line for line in short.splitlines() if line.startswith("|")]
    assert len(rows) == 13 and {row.count("|") for row in rows} == {10}
    assert "<summary>All" not in short and "<details><summary>All 48 arms</summary>\n\n| arm" in long
    assert "mgr bench-fixed-flops --question" in short
    assert "gauge+adamw+wsd: seed 0: used 1.300 of the budget" in long and "**Failed checks**" in long


def test_everyone_at_the_baselines_rate_stands_in_its_own_column(all_suites):
    verdicts = all_suites["eleven"]
    base = verdicts.arms[0].tuned
    table = [[cell.strip() for cell in line.split("|")] for line in markdown(verdicts).splitlines() if line[:1] == "|"]
    column = table[0].index("Δ untuned")
    shown = {cells[1]: cells[column] for cells in table[2:]}
    assert shown.pop(verdicts.arms[0].label) == ""
    for arm in verdicts.contenders:
        difference = arm.tuned.scores[0][base.point] - base.scores[0][base.point]
        expected = f"{difference:+.4f}".replace("-", "\u2212") if abs(difference) < 1e9 else "diverges"
        assert shown[arm.label] == expected and f">{expected}<" in page(verdicts)
    assert len(set(shown.values())) > 5


def test_a_report_opens_no_door():
    assert "default-src 'none'" in policy() and "http" not in STYLE + SCRIPT and "url(" not in STYLE


def test_axes_have_round_numbers():
    assert round_numbers(0.13, 1.07, 4) == [0.5, 1.0]
    assert round_numbers(-0.31, 0.42, 5) == [-0.2, 0.0, 0.2, 0.4]
    assert doublings(0.2, 2.2, 4) == [0.25, 0.5, 1.0, 2.0]
    assert tick_texts([-0.5, 0.0, 0.5]) == ["\u22120.5", "0.0", "0.5"]
    assert around([3.0, 3.0]) == pytest.approx((2.85, 3.15)) and around([])[0] < around([])[1]
    assert [number_text(value) for value in (9.9996e11, 1e12, 2.5e9)] == ["10¹²", "10¹²", "2.5 × 10⁹"]
    assert [probability(p) for p in (2.2e-7, 0.0312, 1.0, 3e-12)] == ["2e-7", "0.031", "1", "3e-12"]


def test_names_of_points_do_not_cover_each_other():
    chart = Chart("t", "d", (0.0, 1.0), (0.0, 1.0), "x", "y", 400.0, 265.0)
    points = [(0.5 + 0.001 * number, 0.5) for number in range(12)]
    chart.names([(point, f"arm number {number}") for number, point in enumerate(points)], points)
    places = [tuple(map(float, found)) for found in re.findall(r'class="name" x="([\d.]+)" y="([\d.]+)"', chart.svg())]
    assert 2 <= len(places) < 12
    for number, (x, y) in enumerate(places):
        assert all(abs(y - other_y) >= 12 or abs(x - other_x) >= 60 for other_x, other_y in places[:number])


def test_seeds_of_a_lost_run_are_counted_and_left_out(all_suites):
    verdicts = made(Truth(EFFECTS, diverging=("tropical",)), arms=("standard", "tropical"))
    svg, caption = figures.Portrait(verdicts, verdicts.contenders[0]).seeds()
    assert svg.count("<polyline") == 7 and "in 7 of 8 seeds; 1 without a result" in caption
