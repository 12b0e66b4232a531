"""Braid words: free and handle reduction, moves that keep the braid, its permutation, its action on a free group.

A word is a tuple of letters: ``i`` is the crossing s_i of strands i and i + 1, ``-i`` its inverse. Pure Python, exact.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

Word = tuple[int, ...]


def parse(text: str) -> Word:
    """A word from text such as ``1 -2 1``.

    Raises:
        ValueError: a letter that is no non-zero integer.
    """
    word = tuple(int(letter) for letter in text.split())
    if 0 in word:
        raise ValueError(f"braid word: got {text!r}, need integers other than 0")
    return word


def strands(word: Sequence[int]) -> int:
    """The fewest strands on which the word can be read."""
    return max(map(abs, word), default=0) + 1


def inverse(word: Sequence[int]) -> Word:
    """The word read backwards, each letter inverted."""
    return tuple(-letter for letter in reversed(word))


def free_reduce(word: Sequence[int]) -> Word:
    """The word without letters next to their inverses."""
    kept: list[int] = []
    for letter in word:
        if kept and kept[-1] == -letter:
            kept.pop()
        else:
            kept.append(letter)
    return tuple(kept)


def first_handle(word: Sequence[int]) -> tuple[int, int] | None:
    """Places of the two ends of the handle that ends first: s_j^e v s_j^-e, no letter of v being s_j or s_(j-1)."""
    for end, letter in enumerate(word):
        for begin in range(end - 1, -1, -1):
            if abs(word[begin]) == abs(letter) - 1 or word[begin] == letter:
                break
            if word[begin] == -letter:
                return begin, end
    return None


def handle_reduce(word: Sequence[int]) -> Word:
    """An equivalent word without handles; it is empty exactly for the trivial braid.

    A handle loses its ends, and s_(j+1)^d between them becomes s_(j+1)^-e s_j^d s_(j+1)^e. Source: Dehornoy, *A fast
    method for comparing braids*, doi:10.1006/aima.1997.1605.

    Example:
        >>> handle_reduce((1, 2, 1, -2, -1, -2))
        ()
    """
    found = free_reduce(word)
    while (handle := first_handle(found)) is not None:
        begin, end = handle
        main, sign = abs(found[begin]), 1 if found[begin] > 0 else -1
        middle: list[int] = []
        for letter in found[begin + 1 : end]:
            if abs(letter) == main + 1:
                turned = main if letter > 0 else -main
                middle += [-sign * (main + 1), turned, sign * (main + 1)]
            else:
                middle.append(letter)
        found = free_reduce((*found[:begin], *middle, *found[end + 1 :]))
    return found


def equal(one: Sequence[int], other: Sequence[int]) -> bool:
    """Whether two words are the same braid."""
    return not handle_reduce((*one, *inverse(other)))


def permutation(word: Sequence[int], count: int | None = None) -> tuple[int, ...]:
    """Where each strand ends, from 0."""
    order = list(range(count or strands(word)))
    for letter in word:
        place = abs(letter) - 1
        order[place], order[place + 1] = order[place + 1], order[place]
    ends = [0] * len(order)
    for place, strand in enumerate(order):
        ends[strand] = place
    return tuple(ends)


def components(word: Sequence[int], count: int | None = None) -> int:
    """Circles of the link that the braid closes to: cycles of its permutation."""
    ends, seen, found = permutation(word, count), set(), 0
    for start in range(len(ends)):
        found += start not in seen
        while start not in seen:
            seen.add(start)
            start = ends[start]
    return found


def free_action(word: Sequence[int], count: int) -> tuple[Word, ...]:
    """What the braid does to the generators x_1 ... x_n of a free group: faithful, Artin's own solution.

    s_i sends x_i to x_i x_(i+1) x_i^-1 and x_(i+1) to x_i. Exponential in the worst case: an oracle for short words.
    """
    images: list[Word] = [(generator,) for generator in range(1, count + 1)]
    for letter in word:
        i = abs(letter)
        forth = {i: (i, i + 1, -i), i + 1: (i,)}
        back = {i: (i + 1,), i + 1: (-(i + 1), i, i + 1)}
        step = forth if letter > 0 else back

        def image(generator: int, step: dict[int, Word] = step) -> Word:
            found = step.get(abs(generator), (abs(generator),))
            return found if generator > 0 else inverse(found)

        images = [free_reduce([each for generator in old for each in image(generator)]) for old in images]
    return tuple(images)


def moves(word: Sequence[int], count: int) -> Iterator[tuple[str, Word]]:
    """All words one move away: ``R2`` inserts or removes a letter and its inverse, ``R3`` is Artin's relation with
    every choice of signs that it has, ``far`` exchanges crossings that share no strand.
    """
    word = tuple(word)
    for place in range(len(word) + 1):
        for letter in range(1, count):
            for pair in ((letter, -letter), (-letter, letter)):
                yield "R2", (*word[:place], *pair, *word[place:])
    for place in range(len(word) - 1):
        a, b = word[place : place + 2]
        if a == -b:
            yield "R2", (*word[:place], *word[place + 2 :])
        if abs(abs(a) - abs(b)) > 1:
            yield "far", (*word[:place], b, a, *word[place + 2 :])
    for place in range(len(word) - 2):
        if (other := third_move(word[place : place + 3])) is not None:
            yield "R3", (*word[:place], *other, *word[place + 3 :])


def third_move(triple: Sequence[int]) -> Word | None:
    """The other side of s_i s_j s_i = s_j s_i s_j (neighbours i, j), or of what conjugation makes of it; or None.

    The signs may be (e, e, f) and (f, e, e): s_i^e s_j^e s_i^f = s_j^f s_i^e s_j^e.
    """
    a, b, c = triple
    if abs(a) != abs(c) or abs(abs(a) - abs(b)) != 1:
        return None
    i, j = abs(a), abs(b)
    e, f, g = (1 if letter > 0 else -1 for letter in triple)
    if e == f:
        return g * j, e * i, f * j
    if f == g:
        return f * j, g * i, e * j
    return None


def shuffled(word: Sequence[int], count: int, steps: int, generator: random.Random) -> Word:
    """The word after random moves, of every kind as likely where there is one: the same braid."""
    word = tuple(word)
    for _ in range(steps):
        found: dict[str, list[Word]] = {}
        for kind, other in moves(word, count):
            found.setdefault("shorter" if len(other) < len(word) else kind, []).append(other)
        word = generator.choice(found[generator.choice(sorted(found))])
    return word
