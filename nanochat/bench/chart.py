"""Small charts as inline SVG: a few kilobytes each, real text, colours from the page's style sheet.

Marks carry classes, never colours: the page decides what ``arm``, ``base`` and ``grid`` look like, by day, by night and
on paper. Every chart has a title and a description for those who do not see it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape

LEFT, RIGHT, TOP, BOTTOM = 40.0, 8.0, 20.0, 34.0
"""Room around the plot for labels, in pixels of a chart's own size."""

LETTER, LINE = 5.8, 12.0
"""Width of a letter and height of a line of labels, about."""

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Scale:
    """Values to pixels.

    Args:
        low, high: ends of the axis, low < high (positive where ``log``).
        start, stop: their pixels.
        log: equal ratios take equal room.
    """

    low: float
    high: float
    start: float
    stop: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, value = (math.log(each) if self.log else each for each in (self.low, self.high, value))
        return self.start + (value - low) / (high - low) * (self.stop - self.start)

    def ticks(self, most: int) -> list[float]:
        """Round values within the ends, at most ``most`` of them."""
        return doublings(self.low, self.high, most) if self.log else round_numbers(self.low, self.high, most)


def around(values: Iterable[float], margin: float = 0.06, *, log: bool = False) -> tuple[float, float]:
    """The ends of an axis that holds all values with some room; never empty."""
    found = [value for value in values if math.isfinite(value)]
    low, high = (min(found), max(found)) if found else (1.0, 2.0)
    if log:
        room = max((high / low) ** margin, 1.05)
        return low / room, high * room
    room = (high - low) * margin or abs(high) * 0.05 or 1.0
    return low - room, high + room


def round_numbers(low: float, high: float, most: int) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten from low to high.

    Example:
        >>> round_numbers(0.13, 1.07, 4)
        [0.5, 1.0]
    """
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10, 20) if power * factor >= rough)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def doublings(low: float, high: float, most: int) -> list[float]:
    """Powers of two times the low end's next round number, thinned to ``most``."""
    first = 2.0 ** math.ceil(math.log2(low) - 1e-9)
    count = math.floor(math.log2(high / first) + 1e-9) + 1
    return [first * 2.0**number for number in range(0, count, max(1, -(-count // most)))]


def tick_texts(ticks: Sequence[float]) -> list[str]:
    """As many decimals as tell neighbours apart."""
    if len(ticks) < 2:
        return [f"{tick:.3g}" for tick in ticks]
    step = min(abs(b - a) for a, b in zip(ticks, ticks[1:], strict=False))
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return [f"{tick:.{decimals}f}".replace("-", "\u2212") for tick in ticks]


def pixels(value: float) -> str:
    """A coordinate with one decimal at most."""
    return f"{value:.1f}".removesuffix(".0")


@dataclass(slots=True)
class Chart:
    """One pair of axes and what is drawn in it.

    Args:
        title: what it shows.
        description: what is to be seen in it, in words.
        x, y: ends of the axes.
        x_label, y_label: with units.
        width, height: of the whole.
        log: a logarithmic x axis.
        x_ticks, y_ticks: labelled values; round ones if not given.
    """

    title: str
    description: str
    x: tuple[float, float]
    y: tuple[float, float]
    x_label: str
    y_label: str
    width: float = 232.0
    height: float = 178.0
    log: bool = False
    x_ticks: Sequence[tuple[float, str]] | None = None
    marks: list[str] = field(default_factory=list)

    @property
    def across(self) -> Scale:
        return Scale(*self.x, LEFT, self.width - RIGHT, self.log)

    @property
    def up(self) -> Scale:
        return Scale(*self.y, self.height - BOTTOM, TOP)

    def place(self, point: Point) -> Point:
        """Pixels of a point."""
        return self.across(point[0]), self.up(point[1])

    def line(self, points: Sequence[Point], kind: str, *, steps: bool = False) -> None:
        """Join points; with ``steps`` by horizontal and then vertical pieces."""
        placed = [self.place(point) for point in points]
        if steps:
            corners = [(right[0], left[1]) for left, right in zip(placed, placed[1:], strict=False)]
            placed = [point for pair in zip(placed, [*corners, placed[-1]], strict=True) for point in pair]
        text = " ".join(f"{pixels(x)},{pixels(y)}" for x, y in placed)
        self.marks.append(f'<polyline class="{kind}" points="{text}"/>')

    def band(self, low: Sequence[Point], high: Sequence[Point], kind: str) -> None:
        """Fill between two curves."""
        text = " ".join(f"{pixels(x)},{pixels(y)}" for x, y in map(self.place, (*low, *reversed(high))))
        self.marks.append(f'<polygon class="{kind}" points="{text}"/>')

    def dot(self, point: Point, kind: str, title: str = "", radius: float = 3.0) -> None:
        """A round mark; ``title`` appears under a resting pointer."""
        x, y = self.place(point)
        circle = f'<circle class="{kind}" cx="{pixels(x)}" cy="{pixels(y)}" r="{radius:g}"'
        self.marks.append(f"{circle}><title>{escape(title)}</title></circle>" if title else f"{circle}/>")

    def cross(self, x: float, kind: str) -> None:
        """A value that lies above the plot: a cross at its upper edge."""
        at, y = self.across(x), TOP + 4
        self.marks.append(
            f'<path class="{kind}" d="M{pixels(at - 3)} {pixels(y - 3)}l6 6m0-6l-6 6"><title>diverged</title></path>'
        )

    def bar(self, left: float, right: float, height: float, kind: str) -> None:
        """A column from the lower end of the axis."""
        (x0, y0), (x1, y1) = self.place((left, self.y[0])), self.place((right, height))
        size = f'width="{pixels(x1 - x0)}" height="{pixels(y0 - y1)}"'
        self.marks.append(f'<rect class="{kind}" x="{pixels(x0)}" y="{pixels(y1)}" {size}/>')

    def upright(self, x: float, kind: str) -> None:
        """A vertical line through the whole plot."""
        at = pixels(self.across(x))
        self.marks.append(f'<line class="{kind}" x1="{at}" x2="{at}" y1="{TOP:g}" y2="{self.height - BOTTOM:g}"/>')

    def names(self, named: Sequence[tuple[Point, str]], avoid: Sequence[Point]) -> None:
        """Names beside their points, the first ones first; one that has no free place is left out.

        Args:
            named: points with what they are called.
            avoid: points that no name may cover.
        """
        taken = [(x - 3.5, y - 3.5, x + 3.5, y + 3.5) for x, y in map(self.place, avoid)]
        for point, name in named:
            x, y = self.place(point)
            wide = LETTER * len(name)
            spots = ((x + 5, y - 9), (x + 6, y), (x + 5, y + 9), (x - 5 - wide, y - 9), (x - 6 - wide, y))
            spots += ((x - 5 - wide, y + 9), (x - wide / 2, y - 11), (x - wide / 2, y + 11))
            boxes = [(left, middle - LINE / 2, left + wide, middle + LINE / 2) for left, middle in spots]
            free = next((box for box in boxes if self._inside(box) and not any(_overlap(box, b) for b in taken)), None)
            if free is not None:
                taken.append(free)
                middle = (free[1] + free[3]) / 2
                self.marks.append(
                    f'<text class="name" x="{pixels(free[0])}" y="{pixels(middle + 3.5)}">{escape(name)}</text>'
                )

    def _inside(self, box: tuple[float, float, float, float]) -> bool:
        return box[0] >= LEFT and box[2] <= self.width and box[1] >= TOP - 4 and box[3] <= self.height - BOTTOM

    def svg(self) -> str:
        """The element."""
        return (
            f'<svg role="img" viewBox="0 0 {self.width:g} {self.height:g}">'
            f"<title>{escape(self.title)}</title><desc>{escape(self.description)}</desc>"
            f"{self._axes()}{''.join(self.marks)}</svg>"
        )

    def _axes(self) -> str:
        floor = self.height - BOTTOM
        end = pixels(self.width - RIGHT)
        parts = [f'<text class="axis" x="0" y="10">{escape(self.y_label)}</text>']
        levels = self.up.ticks(4)
        for value, text in zip(levels, tick_texts(levels), strict=True):
            y = self.up(value)
            parts.append(f'<line class="grid" x1="{LEFT:g}" x2="{end}" y1="{pixels(y)}" y2="{pixels(y)}"/>')
            parts.append(f'<text class="tick end" x="{LEFT - 5:g}" y="{pixels(y + 3.5)}">{text}</text>')
        stops = self.across.ticks(4)
        texts = [f"{stop:.3g}" for stop in stops] if self.log else tick_texts(stops)
        shown = zip(stops, texts, strict=True) if self.x_ticks is None else self.x_ticks
        for value, text in shown:
            x = self.across(value)
            parts.append(f'<text class="tick middle" x="{pixels(x)}" y="{floor + 13:g}">{escape(text)}</text>')
        parts.append(f'<line class="floor" x1="{LEFT:g}" x2="{end}" y1="{floor:g}" y2="{floor:g}"/>')
        parts.append(f'<text class="axis end" x="{end}" y="{floor + 28:g}">{escape(self.x_label)}</text>')
        return "".join(parts)


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
