"""How long the tree takes as an array, by number of keys, beside a search through all of them and dictionaries."""

from __future__ import annotations

import numpy as np

from demos import terminal
from demos.certificate import Certificate, certify
from demos.result import Part, Plot, Text
from demos.runtime import seconds
from demos.ultrametric import trie


def scaling(
    random: np.random.Generator, sizes: tuple[int, ...], base: int, compare: bool
) -> tuple[list[Part], Certificate, dict[str, float]]:
    """Nanoseconds per insertion and per lookup by number of keys, and what the lookups found."""
    depth = next(d for d in range(1, 20) if base**d >= sizes[-1])
    keys = random.choice(base**depth, sizes[-1], replace=False)
    queries = random.integers(0, base**depth, 4096)
    nothing = np.zeros(trie.size(base, depth), bool)
    spent: dict[str, list[float]] = {"lookup": [], "insertion": []} | (
        {"search": [], "pointers": []} if compare else {}
    )
    found = np.zeros(0)
    for count in sizes:
        stored = keys[:count]
        occupied = trie.insert(nothing, stored, base=base, depth=depth)
        found = np.asarray(trie.longest(occupied, queries, base=base, depth=depth))
        spent["insertion"].append(seconds(lambda x=stored: trie.insert(nothing, x, base=base, depth=depth)) / count)
        look = seconds(lambda o=occupied: trie.longest(o, queries, base=base, depth=depth), repeats=20)
        spent["lookup"].append(look / len(queries))
        if compare:
            few = queries[:64]
            scan = seconds(lambda x=stored, q=few: trie.search(x, q, base=base, depth=depth), repeats=2)
            spent["search"].append(scan / len(few))
            spent["pointers"].append(by_pointers(stored, queries[:1024], base, depth))
    times = {name: 1e9 * np.array(values) for name, values in spent.items()}
    counts = np.array(sizes)
    text = terminal.chart(
        {name: (counts, y) for name, y in times.items()},
        xlabel="keys",
        ylabel="ns each",
        logx=True,
        logy=True,
        height=9,
    )
    growth = np.log(times["lookup"][-1] / times["lookup"][0]) / np.log(counts[-1] / counts[0])
    numbers = {"lookup_ns": float(times["lookup"][-1]), "lookup_exponent": float(growth), "keys": float(counts[-1])}
    numbers |= {f"{name}_ns": float(times[name][-1]) for name in ("search", "pointers") if compare}
    parts: list[Part] = [
        Text(
            f"As an array the tree needs no pointers: the ball x mod {base}^l has a place of its own, and the longest "
            f"prefix that {counts[-1]} keys hold of a query is found in {depth + 1} reads, exponent of time in the "
            f"number of keys {growth:.2f}."
            + ("" if compare else " --scale-compare adds a search through all keys and a tree of dictionaries.")
        ),
        Plot("Time of one insertion and of one lookup", text, "scaling", {"keys": counts, **times}),
    ]
    statement = f"the array's {depth + 1} reads find the longest prefix that a search through all keys finds"
    some = slice(0, 48)
    stored = keys[: sizes[0]]
    occupied = trie.insert(nothing, stored, base=base, depth=depth)
    found = np.asarray(trie.longest(occupied, queries[some], base=base, depth=depth))
    witness = {"keys": stored, "queries": queries[some], "found": found, "base": base, "depth": depth}
    return parts, certify("ultrametric.lookup", statement, 0.0, **witness), numbers


def by_pointers(keys: np.ndarray, queries: np.ndarray, base: int, depth: int) -> float:
    """Seconds per lookup in a tree of dictionaries."""
    root: trie.Branch = {}
    for key in keys.tolist():
        trie.grow(root, key, base, depth)
    asked = queries.tolist()
    return seconds(lambda: [trie.descend(root, query, base, depth) for query in asked], repeats=2) / len(asked)
