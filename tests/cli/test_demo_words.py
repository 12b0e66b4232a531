"""How a demo compares two numbers in its sentences."""

import numpy as np
import pytest

from demos.words import against, number


@pytest.mark.parametrize(
    ("value", "other", "said"),
    [
        (0.5, 1.0, "2 times less than"),
        (24.0, 2.0, "12 times more than"),
        (1.0, 1.001, "as much as"),
        (1.01, 1.0, "1 % more than"),
        (1.0, 1.05, "5 % less than"),
        (1.1, 1.0, "1.1 times more than"),
        (9.97, 1.0, "10 times more than"),
        (1e-9, 1.0, "over 1000 times less than"),
        (0.0, 1.0, "less than"),
        (1.0, 0.0, "more than"),
        (0.0, 0.0, "as much as"),
    ],
)
def test_one_number_against_another(value: float, other: float, said: str) -> None:
    assert against(value, other) == said


def test_no_ratio_is_one_or_nought() -> None:
    for ratio in np.geomspace(1, 30, 30001):
        for said in (against(ratio, 1.0), against(1.0, ratio)):
            assert said == "as much as" or float(said.split()[0]) >= (1 if "%" in said else 1.1), (ratio, said)


def test_three_digits() -> None:
    assert (number(0.00012345), number(1234.5)) == ("0.000123", "1.23e+03")
