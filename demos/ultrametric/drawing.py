"""The tree of Z_p in characters."""

from __future__ import annotations

WIDTH = 76
LEAVES = 49  # at most: their numbers are written downwards, in one column each


def tree(base: int) -> str:
    """Levels of residues: below a ball of x mod p^l its p parts, each number under the digits that it begins with."""
    depth = max(level for level in range(1, 9) if base**level <= LEAVES)
    cell = WIDTH // base**depth
    lines = [centred([(f"Z_{base}", 0, base**depth * cell)])]
    for level in range(1, depth + 1):
        span = base ** (depth - level) * cell
        parents = [start * base * span for start in range(base ** (level - 1))]
        lines.append(centred([(fork(base, span), start, start + base * span) for start in parents]))
        labels = [str(x) for x in residues(base, level)]
        longest = max(map(len, labels))
        rows = [labels] if longest < span else [[label.rjust(longest)[i] for label in labels] for i in range(longest)]
        lines += [centred([(text, i * span, (i + 1) * span) for i, text in enumerate(row)]) for row in rows]
    return "\n".join(line.rstrip() for line in lines)


def residues(base: int, level: int) -> list[int]:
    """Residues mod p^level in the order of the tree: by the first digit, then by the second, and so on."""
    order = [0]
    for place in range(level):
        order = [x + digit * base**place for x in order for digit in range(base)]
    return order


def fork(base: int, span: int) -> str:
    """The branches from a parent to children ``span`` columns apart."""
    ends = [i * span for i in range(base)]
    middle = (ends[-1]) // 2
    line = ["─"] * (ends[-1] + 1)
    for end in ends:
        line[end] = "┬"
    line[0], line[-1] = "┌", "┐"
    line[middle] = "┼" if line[middle] == "┬" else "┴"
    return "".join(line)


def centred(pieces: list[tuple[str, int, int]]) -> str:
    """One line with each text in the middle of its columns from start to end."""
    line = ""
    for text, start, end in pieces:
        line = line.ljust(start + (end - start - len(text)) // 2) + text
    return line
