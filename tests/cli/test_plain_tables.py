"""Plain tables keep their width and bear a column that has nothing to say."""

from nanochat.tables import table


def test_a_column_without_heading_or_content_is_one_blank():
    assert table(["arm", ""], [["gauge", ""]]).splitlines() == ["arm", "─────  ─", "gauge"]


def test_the_widest_column_wraps_where_the_whole_would_be_too_wide():
    lines = table(["name", "what"], [["a", "word " * 40]]).splitlines()
    assert max(map(len, lines)) <= 80 and len(lines) > 4
