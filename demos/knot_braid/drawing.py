"""Braids in characters."""

from __future__ import annotations

from collections.abc import Sequence

from demos.knot_braid.words import permutation

CELL = 5
WIDTH = 70


def columns(word: Sequence[int], count: int) -> list[list[int]]:
    """Letters by column, each as far to the left as those before it on its strands let it be.

    Example:
        >>> columns((1, 3, 2), 4)
        [[1, 3], [2]]
    """
    free, found = [0] * count, list[list[int]]()
    for letter in word:
        place = abs(letter) - 1
        column = max(free[place : place + 2])
        free[place : place + 2] = [column + 1] * 2
        if column == len(found):
            found.append([])
        found[column].append(letter)
    return found


def braid(word: Sequence[int], count: int) -> str:
    """The strands from left to right, the first below; the strand that is drawn through lies over the other.

    The number at the right says where a strand came from. Long words go on in further rows.
    """
    placed = columns(word, count)
    most = WIDTH // CELL
    parts = [placed[start : start + most] for start in range(0, len(placed), most)] or [[]]
    done, drawings = list[int](), []
    for part in parts:
        start = _sources(done, count)
        done += [letter for column in part for letter in column]
        drawings.append(_rows(part, start, _sources(done, count)))
    return "\n\n".join(drawings)


def _sources(word: Sequence[int], count: int) -> list[int]:
    """Which strand, from 1, is at each place after a word."""
    ends = permutation(word, count)
    return [ends.index(place) + 1 for place in range(count)]


def _rows(part: list[list[int]], start: list[int], end: list[int]) -> str:
    count = len(start)
    rows = []
    for place in reversed(range(count)):
        line, below = f"{start[place]} ──", "    "
        for column in part:
            here = {abs(letter) - 1: letter for letter in column}
            line += "─╮ ╭─" if place - 1 in here else "─╯ ╰─" if place in here else "─────"
            below += ("  ╲  " if here[place - 1] > 0 else "  ╱  ") if place - 1 in here else "     "
        rows += [f"{line}── {end[place]}", below.rstrip()]
    return "\n".join(rows[:-1])
