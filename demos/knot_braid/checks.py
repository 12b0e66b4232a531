"""The knot-braid demo's certificates: plain functions of a witness, without jax. Each returns an error or a count.

Invariants come here by another road than in the demo: Alexander from the arcs of the diagram, Jones as a trace.
Witnesses hold letters as integers: a word as +-i, an input of the layer as a place in ``LETTERS``.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np

from demos.knot_braid import garside, invariants, words
from demos.knot_braid.tasks import TRAINED, state

Spelled = np.ndarray


def word(letters: Spelled) -> words.Word:
    """A word as the exact modules take it; a 0 is a letter that stays."""
    return tuple(int(letter) for letter in letters if letter)


# --- words --------------------------------------------------------------------------------------------------------


def same(one: Spelled, other: Spelled) -> float:
    """Letters that handle reduction leaves of one word times the inverse of the other: 0 for one braid."""
    return float(len(words.handle_reduce((*word(one), *words.inverse(word(other))))))


def normal(letters: Spelled, power: int, factors: np.ndarray, count: int) -> float:
    """Faults of a normal form: factors that are 1 or Delta, neighbours that are not left-weighted, another braid."""
    rows = [tuple(int(end) for end in row) for row in factors]
    unit, turn = tuple(range(count)), garside.half_turn(count)
    wrong = sum(row in (unit, turn) or sorted(row) != list(unit) for row in rows)
    for row, after in zip(rows, rows[1:], strict=False):
        ended = set(garside.descents(garside.inverted(row)))
        wrong += not set(garside.descents(after)) <= ended
    form = garside.NormalForm(count, int(power), tuple(rows))
    return float(wrong + len(words.handle_reduce((*form.word, *words.inverse(word(letters))))))


def decided(left: Spelled, right: Spelled, equal: np.ndarray) -> float:
    """Pairs of words, a row each, on whose being one braid handle reduction disagrees with what is claimed."""
    found = [words.equal(word(one), word(other)) for one, other in zip(left, right, strict=True)]
    return float(np.sum(np.array(found) != equal.astype(bool)))


# --- invariants ---------------------------------------------------------------------------------------------------


def value(exponents: np.ndarray, coefficients: np.ndarray, at: Any) -> Any:
    """A Laurent polynomial at a fraction or a complex number."""
    return sum(int(c) * at ** int(e) for e, c in zip(exponents, coefficients, strict=True))


def alexander(letters: Spelled, count: int, exponents: np.ndarray, coefficients: np.ndarray) -> float:
    """Numbers t at which the polynomial is not, up to sign and a power of t, a minor of the arcs' equations.

    An arc goes from one crossing below to the next; where it ends below arc o the next one is t u + (1 - t) o.
    """
    wrong = 0
    for t in (Fraction(2), Fraction(-3), Fraction(5)):
        found = abs(minor(equations(word(letters), count, t)))
        claimed = abs(Fraction(value(exponents, coefficients, t)))
        ratio = found / claimed if claimed else Fraction(0)
        while ratio and ratio.numerator % abs(t) == 0:
            ratio /= abs(t)
        while ratio and ratio.denominator % abs(t) == 0:
            ratio *= abs(t)
        wrong += ratio != 1 and (found or claimed) != 0
    return float(wrong)


def equations(letters: words.Word, count: int, t: Fraction) -> list[list[Fraction]]:
    """One row for each crossing of the closed braid, one column for each arc."""
    arcs, ends, below = list(range(count)), count, list[tuple[int, int, int, bool]]()
    for letter in letters:
        place = abs(letter) - 1
        a, b = arcs[place : place + 2]
        under, over = (a, b) if letter > 0 else (b, a)
        arcs[place : place + 2] = (over, ends) if letter > 0 else (ends, over)
        below.append((under, over, ends, letter > 0))
        ends += 1
    name = list(range(ends))
    for place, last in enumerate(arcs):
        name = [name[place] if each == name[last] else each for each in name]
    column = {each: index for index, each in enumerate(sorted(set(name)))}
    rows = []
    for under, over, after, positive in below:
        before, then = (under, after) if positive else (after, under)
        row = [Fraction(0)] * len(column)
        row[column[name[before]]] += t
        row[column[name[over]]] += 1 - t
        row[column[name[then]]] -= 1
        rows.append(row)
    return rows


def minor(rows: list[list[Fraction]]) -> Fraction:
    """Determinant without the last row and the last column."""
    left = [row[:-1] for row in rows[:-1]]
    found = Fraction(1)
    for place in range(len(left)):
        pivot = next((i for i in range(place, len(left)) if left[i][place]), None)
        if pivot is None:
            return Fraction(0)
        left[place], left[pivot] = left[pivot], left[place]
        found *= left[place][place]
        for i in range(place + 1, len(left)):
            factor = left[i][place] / left[place][place]
            left[i] = [x - factor * y for x, y in zip(left[i], left[place], strict=True)]
    return found


def jones(letters: Spelled, count: int, exponents: np.ndarray, coefficients: np.ndarray) -> float:
    """Largest difference of the polynomial in t^(1/2) from a trace over n-fold tensors, at points of the circle.

    A crossing is A 1 + A^-1 e on two factors of dimension 2, e the projection that bends strands, and the trace is
    weighted by diag(-A^2, -A^-2) on each factor.
    """
    worst = 0.0
    for turn in (0.3, 1.1, 2.0):
        a = np.exp(1j * turn)
        total = np.eye(2**count, dtype=complex)
        for letter in word(letters):
            total = total @ crossing(a if letter > 0 else 1 / a, a, abs(letter) - 1, count)
        weight = np.ones(1)
        for _ in range(count):
            weight = np.kron(weight, [-(a**2), -(a**-2)])
        writhe = int(np.sign(letters).sum())
        found = (-(a**3)) ** -writhe * (total.diagonal() * weight).sum() / -(a**2 + a**-2)
        worst = max(worst, float(abs(found - value(exponents, coefficients, a**-2))))
    return worst


def crossing(first: complex, a: complex, place: int, count: int) -> np.ndarray:
    """``first`` 1 + e / ``first`` on the factors ``place`` and ``place + 1`` of n."""
    bend = np.zeros((4, 4), complex)
    bend[1:3, 1:3] = [[-(a**2), 1], [1, -(a**-2)]]
    local = first * np.eye(4) + bend / first
    return np.kron(np.kron(np.eye(2**place), local), np.eye(2 ** (count - place - 2)))


def unseen(letters: Spelled, count: int) -> float:
    """Entries in which the Burau matrix differs from 1, and 1 more if the braid is trivial."""
    matrix, unit = invariants.burau(word(letters), count), invariants.identity(count - 1)
    apart = sum(x != y for row, other in zip(matrix, unit, strict=True) for x, y in zip(row, other, strict=True))
    return float(apart + (not words.handle_reduce(word(letters))))


# --- crossing laws ------------------------------------------------------------------------------------------------


def passed(strands: np.ndarray, letters: Spelled, keep: float) -> np.ndarray:
    """Values after a word under (a, b) -> (b, t a + (1 - t) b), or (b, a + b) for t = 0."""
    kept, added = (keep, 1 - keep) if keep else (1.0, 1.0)
    now = strands.copy()
    for letter in word(letters):
        place = abs(letter) - 1
        a, b = now[place].copy(), now[place + 1].copy()
        now[place : place + 2] = (b, kept * a + added * b) if letter > 0 else ((b - added * a) / kept, a)
    return now


def relation(strands: np.ndarray, left: Spelled, right: Spelled, keep: float, ends: np.ndarray) -> float:
    """Largest difference between what two words do to values on strands, and from what is claimed that they do."""
    one, other = (passed(strands, letters, keep) for letters in (left, right))
    return float(max(np.abs(one - other).max(), np.abs(one - ends).max()))


def unitaries(angle: np.ndarray, law: str) -> np.ndarray:
    """Matrices of the letters 1, 2, -1, -2 at each angle, (4, n, 2, 2)."""
    real = 3**0.5 / 2 * np.cos(angle)
    phase = np.exp(1j * np.arccos(real))
    if law == "ybe":
        pairs = [(real + 0.5j, sign * 3**0.5 / 2 * np.sin(angle)) for sign in (1, -1)]
    else:
        own = np.sqrt(1 - real**2)
        pairs = [(real + 1j * own, 0 * real), (real + 0j, own)]
    forth = [phase[:, None, None] * _special(alpha, beta) for alpha, beta in pairs]
    return np.stack([*forth, *(np.conj(each).swapaxes(-1, -2) for each in forth)])


def _special(alpha: np.ndarray, beta: np.ndarray) -> np.ndarray:
    return np.stack([np.stack([alpha, -np.conj(beta)], -1), np.stack([beta, np.conj(alpha)], -1)], -2)


def artin(table: np.ndarray) -> float:
    """Largest error of s1 s2 s1 = s2 s1 s2, and of s1 and s2 being unitary.

    The table holds real part, phase, and i and j parts of s1 and of s2, a column for each braid.
    """
    real, phase, *parts = table
    turn = np.exp(1j * phase)[:, None, None]
    one, two = (turn * _special(real + 1j * a, b + 0j) for a, b in (parts[:2], parts[2:]))
    braided = np.abs(one @ two @ one - two @ one @ two).max()
    lengths = [np.abs(each @ np.conj(each).swapaxes(-1, -2) - np.eye(2)).max() for each in (one, two)]
    return float(max(braided, *lengths))


def carried(letters: Spelled, angle: np.ndarray, law: str) -> np.ndarray:
    """Products of the matrices of a word, one after the other: letters (..., T, n), 0 for none; (..., T, n, 2, 2)."""
    matrices = np.concatenate([np.broadcast_to(np.eye(2), (1, len(angle), 2, 2)), unitaries(angle, law)])
    place = np.array([0, 1, 2, 4, 3])[letters]  # -1 and -2 count from behind
    each = matrices[place, np.arange(len(angle))]
    total, found = np.broadcast_to(np.eye(2, dtype=complex), each[..., 0, :, :, :].shape), []
    for step in range(letters.shape[-2]):
        total = total @ each[..., step, :, :, :]
        found.append(total)
    return np.stack(found, -4)


def executed(letters: Spelled, angle: np.ndarray, quaternion: np.ndarray, phase: np.ndarray) -> float:
    """Largest difference of carried frames from the reduced Burau matrices of the words they carry: trace, determinant.

    t = -e^(2 i psi), with psi the phase of a crossing; letters (W, T, n), quaternions (W, 4, n), phases (W, 2, n).
    """
    turn = np.exp(2j * np.arccos(3**0.5 / 2 * np.cos(angle)))
    one = np.stack([np.stack([turn, np.ones_like(turn)], -1), np.stack([0 * turn, np.ones_like(turn)], -1)], -2)
    two = np.stack([np.stack([np.ones_like(turn), 0 * turn], -1), np.stack([-turn, turn], -1)], -2)
    step = {1: one, 2: two, -1: np.linalg.inv(one), -2: np.linalg.inv(two), 0: np.broadcast_to(np.eye(2), one.shape)}
    worst = 0.0
    for row, (real, *_), (cos, sine) in zip(letters, quaternion, phase, strict=True):
        unit = cos - 1j * sine
        for braid in range(len(angle)):
            total = np.eye(2, dtype=complex)
            for letter in row[:, braid]:
                total = total @ step[int(letter)][braid]
            trace = abs(np.trace(total) - 2 * real[braid] * unit[braid])
            worst = max(worst, trace, abs(np.linalg.det(total) - unit[braid] ** 2))
    return float(worst)


def moved(left: Spelled, right: Spelled, angle: np.ndarray) -> float:
    """Largest difference between what the layer's braids carry at the ends of two spellings, (W, T, n) each."""
    return float(np.abs(carried(left, angle, "ybe")[:, -1] - carried(right, angle, "ybe")[:, -1]).max())


# --- the trained layer --------------------------------------------------------------------------------------------


def spelled(letters: np.ndarray, crossing: np.ndarray) -> Spelled:
    """The braid words that a layer makes of inputs (B, T), its first token included: (B, T + 1, n)."""
    scores = crossing.reshape(len(crossing), 4, -1)
    choice = np.concatenate([np.zeros_like(scores[:, :1]), scores], 1).argmax(1)
    return np.array([0, 1, 2, -1, -2])[choice][tokens(letters)]


def tokens(letters: np.ndarray) -> np.ndarray:
    """Rows of the tables: 0 for the beginning, then the letters."""
    return np.concatenate([np.zeros((*letters.shape[:-1], 1), int), letters + 1], -1)


def turned(x: np.ndarray, frame: np.ndarray) -> np.ndarray:
    """Frames (B, T, n, 2, 2) applied to the pairs of complex numbers that the first 4 n channels of x (B, T, D) are."""
    n = frame.shape[-3]
    real, i, j, k = np.moveaxis(x[..., : 4 * n].reshape(*x.shape[:-1], 4, n), -2, 0)
    pair = np.einsum("...nab,...nb->...na", frame, np.stack([real + 1j * i, j - 1j * k], -1))
    parts = (pair[..., 0].real, pair[..., 0].imag, pair[..., 1].real, -pair[..., 1].imag)
    return np.concatenate([*parts, x[..., 4 * n :]], -1)


def scores(letters: np.ndarray, law: str, layer: dict[str, np.ndarray]) -> np.ndarray:
    """What the trained layer says after each letter, (B, T, N)."""
    frame = carried(spelled(letters, layer["crossing"]), layer["angle"], law)
    q, k, v = (layer[name][tokens(letters)] for name in "qkv")
    q = q * (np.log(np.arange(q.shape[1]) + 2) / np.log(TRAINED + 1))[:, None]
    q, k, v = (turned(x, frame) for x in (q, k, v))
    pairs = q @ k.swapaxes(-1, -2) / q.shape[-1] ** 0.5
    pairs = np.where(np.tril(np.ones(pairs.shape[-2:], bool)), pairs, -np.inf)
    weights = np.exp(pairs - pairs.max(-1, keepdims=True))
    mixed = turned(weights @ v / weights.sum(-1, keepdims=True), np.conj(frame).swapaxes(-1, -2))
    return (mixed / np.sqrt((mixed**2).mean(-1, keepdims=True) + 1e-12) @ layer["out"])[:, 1:]


def reader(letters: np.ndarray, said: np.ndarray, law: str, **layer: np.ndarray) -> float:
    """Largest difference of the trained layer's scores after the last letter from those recomputed."""
    return float(np.abs(scores(letters, law, layer)[:, -1] - said).max())


def missed(letters: np.ndarray, modulus: int, law: str, **layer: np.ndarray) -> float:
    """Words after which the trained layer names another state than the product of their matrices."""
    named = scores(letters, law, layer)[:, -1].argmax(-1)
    return float((named != state(letters, modulus)[:, -1]).sum())


CHECKS: dict[str, Callable[..., float]] = {
    "same": same,
    "normal": normal,
    "decided": decided,
    "alexander": alexander,
    "jones": jones,
    "unseen": unseen,
    "relation": relation,
    "artin": artin,
    "executed": executed,
    "moved": moved,
    "reader": reader,
    "missed": missed,
}
