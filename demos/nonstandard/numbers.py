"""How numbers with infinitesimal parts are written and looked at."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from demos.hahn import EPSILON, Series, X, root, series, standard_part
from demos.nonstandard import levi_civita

RAISED = str.maketrans("-0123456789/", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹ᐟ")
WIDTH = 58  # columns of a microscope's field


def examples(order: int) -> dict[str, Series]:
    """Numbers of all sizes, each from arithmetic with epsilon, up to its power ``order``."""
    known = EPSILON.cut(-order - 1)
    return {
        "ε": EPSILON,
        "√ε": root(EPSILON, 2),
        "(1 + ε)/(1 - ε)": levi_civita.divide(known + 1, 1 - known),
        "√(1 + 2ε)": root(known * 2 + 1, 2, order + 1),
        "sin ε/ε": (levi_civita.sin(EPSILON.cut(-order - 2)) * X),
        "1/(ε - ε²)": levi_civita.divide(series({0: 1}), EPSILON * (1 - known)),
    }


def written(x: Series, terms: int = 4) -> str:
    """So many powers of epsilon, the largest first; three dots for what is left out, or not known."""
    text = ""
    for exponent, value in x.terms[:terms]:
        size, sign = abs(value), " - " if value < 0 else " + "
        power = "" if exponent == 0 else "ε" if exponent == -1 else "ε" + str(-exponent).translate(RAISED)
        digits = f"{float(size):.3g}"
        text += (sign if text else sign.strip(" +")) + (power if power and digits == "1" else digits + power)
    return (text or "0") + (" + …" if len(x.terms) > terms or x.error is not None else "")


def size(x: Series) -> str:
    """Infinite, finite or infinitesimal, by the leading power."""
    lead = x.lead
    return "zero" if lead is None else "infinite" if lead > 0 else "finite" if lead == 0 else "infinitesimal"


def real(x: Series) -> str:
    """The standard part, where there is one."""
    return "none" if x.lead is not None and x.lead > 0 else f"{float(standard_part(x)):.3g}"


POINTS: Mapping[str, Callable[[], Series]] = {
    "a = 2": lambda: series({0: 2}),
    "b = 2 + ε²": lambda: EPSILON * EPSILON + 2,
    "c = 2 + ε": lambda: EPSILON + 2,
    "d = √(4 + 4ε)": lambda: root(EPSILON * 4 + 4, 2, 4),
    "e = 3": lambda: series({0: 3}),
}
VIEWS = (("power 1, at a", 0, "a"), ("power 1/ε, at a", 1, "a"), ("power 1/ε², at c", 2, "c"))


def places() -> dict[str, dict[str, float]]:
    """Where each point appears in each view: the standard part of its distance from the centre, magnified."""
    points = {name[0]: make() for name, make in POINTS.items()}
    found: dict[str, dict[str, float]] = {}
    for title, power, centre in VIEWS:
        seen = {name: (x - points[centre]) * _power(power) for name, x in points.items()}
        found[title] = {name: float(standard_part(x)) for name, x in seen.items() if x.lead is None or x.lead <= 0}
    return found


def _power(exponent: int) -> Series:
    return series({exponent: 1})


def microscope() -> str:
    """The same five numbers through three lenses."""
    lines = ["   ".join(POINTS)]
    for title, seen in places().items():
        axis, names = ["─"] * WIDTH, [" "] * WIDTH
        for name, x in sorted(seen.items()):
            column = round((x + 1.5) / 3 * (WIDTH - 1))
            if not 0 <= column < WIDTH:
                continue
            axis[column] = "●"
            while names[column] != " ":
                column += 1
            names[column] = name
        lines += ["", f"{''.join(axis)} {title}", "".join(names).rstrip()]
    return "\n".join(lines)


def arrays() -> dict[str, np.ndarray]:
    """The same for a figure: position and letter index of every point in each view."""
    letters = [name[0] for name in POINTS]
    return {title: np.array([[letters.index(name), x] for name, x in seen.items()]) for title, seen in places().items()}
