"""The fractal demo's certificates: plain functions of a witness, without jax. Each returns an error or a count."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

CORNERS = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
BLOCK = 4  # pixels on a side of a block of the picture
NEAR = 2.0**-10  # distance below which two histories count as one


def factor(matrices: np.ndarray) -> float:
    """The largest factor by which a map can stretch a distance."""
    return float(np.linalg.svd(matrices, compute_uv=False).max())


def union(matrices: np.ndarray, offsets: np.ndarray, points: np.ndarray, steps: int = 1) -> np.ndarray:
    """The images of a set under all maps, ``steps`` times."""
    for _ in range(steps):
        points = (np.einsum("mij,pj->mpi", matrices, points) + offsets[:, None]).reshape(-1, points.shape[1])
    return points


def hausdorff(one: np.ndarray, other: np.ndarray) -> float:
    """The largest distance from a point of either set to the nearest of the other."""
    distances = np.linalg.norm(one[:, None] - other[None], axis=-1)
    return float(max(distances.min(1).max(), distances.min(0).max()))


def contraction(matrices: np.ndarray, offsets: np.ndarray, x: np.ndarray, y: np.ndarray, s: float) -> float:
    """Largest |f(x) - f(y)| - s |x - y| over all maps, and 1 if s is no contraction."""
    images = [union(matrices, offsets, points).reshape(-1, *points.shape) for points in (x, y)]
    beyond = np.linalg.norm(images[0] - images[1], axis=-1) - s * np.linalg.norm(x - y, axis=-1)
    return max(float(beyond.max()), 0.0 if s < 1 else 1.0)


def fixed_point(matrices: np.ndarray, offsets: np.ndarray, one: np.ndarray, other: np.ndarray, steps: int) -> float:
    """By how much h(W^n A, W^n B) exceeds s^n h(A, B), for n up to ``steps``; and 1 unless s < 1."""
    s, start, worst = factor(matrices), hausdorff(one, other), 0.0
    for n in range(1, steps + 1):
        apart = hausdorff(union(matrices, offsets, one, n), union(matrices, offsets, other, n))
        worst = max(worst, apart - s**n * start)
    return worst if s < 1 else 1.0


def collage(matrices: np.ndarray, offsets: np.ndarray, target: np.ndarray, steps: int) -> float:
    """By how much h(A, W^n A) exceeds (1 - s^n) / (1 - s) h(A, W A), for n up to ``steps``; and 1 unless s < 1."""
    s = factor(matrices)
    if not s < 1:
        return 1.0
    once = hausdorff(target, union(matrices, offsets, target))
    far = [hausdorff(target, union(matrices, offsets, target, n)) for n in range(1, steps + 1)]
    return max(0.0, *(h - (1 - s**n) / (1 - s) * once for n, h in enumerate(far, 1)))


def picture_step(image: np.ndarray, domain: np.ndarray, scale: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """One application of a picture's contractions, block by block."""
    size = len(image)
    small = image.reshape(size // 2, 2, size // 2, 2).mean((1, 3))
    starts = range(0, size // 2 - BLOCK + 1, 2)
    places = [(row, column) for row in starts for column in starts]
    made = np.empty_like(image)
    for index, (number, a, b) in enumerate(zip(domain.tolist(), scale, shift, strict=True)):
        (row, column), way = places[number // 8], number % 8
        block = small[row : row + BLOCK, column : column + BLOCK]
        block = np.rot90(block if way < 4 else block[:, ::-1], way % 4)
        top, left = (BLOCK * part for part in divmod(index, size // BLOCK))
        made[top : top + BLOCK, left : left + BLOCK] = a * block + b
    return made


def picture(image: np.ndarray, domain: np.ndarray, scale: np.ndarray, shift: np.ndarray, decoded: np.ndarray) -> float:
    """Error of the decoded picture as a fixed point, and by how much it is farther away than the collage promises."""
    s = float(np.abs(scale).max())
    fixed = np.abs(picture_step(decoded, domain, scale, shift) - decoded).max()
    promised = np.abs(picture_step(image, domain, scale, shift) - image).max() / (1 - s) if s < 1 else 0.0
    return float(max(fixed, np.abs(decoded - image).max() - promised))


def any_start(
    domain: np.ndarray, scale: np.ndarray, shift: np.ndarray, one: np.ndarray, other: np.ndarray, steps: int
) -> float:
    """By how much two pictures are farther apart than s^n of their first distance, after n up to ``steps`` steps."""
    s, start, worst = float(np.abs(scale).max()), float(np.abs(one - other).max()), 0.0
    for n in range(1, steps + 1):
        one, other = (picture_step(each, domain, scale, shift) for each in (one, other))
        worst = max(worst, float(np.abs(one - other).max()) - s**n * start)
    return worst if s < 1 else 1.0


def point(words: np.ndarray, ratio: float) -> np.ndarray:
    """The point of each word, from the middle of the square: the last letter is applied first."""
    x = np.full((len(words), 2), 0.5)
    for symbol in words.T[::-1]:
        x = ratio * x + (1 - ratio) * CORNERS[symbol]
    return x


def route(points: np.ndarray, ratio: float, depth: int, corners: np.ndarray = CORNERS) -> np.ndarray:
    """The word of each point: the nearest piece, then the point's place in that piece, again and again."""
    words, x = [], points
    middles = ratio * 0.5 + (1 - ratio) * corners
    for _ in range(depth):
        words.append(np.linalg.norm(x[:, None] - middles, axis=-1).argmin(1))
        x = (x - (1 - ratio) * corners[words[-1]]) / ratio
    return np.stack(words, 1)


def cell(words: np.ndarray, arity: int) -> np.ndarray:
    """Number of the cell that a word names."""
    return words @ arity ** np.arange(words.shape[1])[::-1]


def separation(words: np.ndarray, points: np.ndarray, ratio: float) -> float:
    """Error of the points, and by how much a pair that parts after l letters is nearer than (1 - 2 s) s^l."""
    wrong = np.abs(point(words, ratio) - points).max()
    shared = np.cumprod(words[:, None] == words[None], -1).sum(-1)
    apart = np.abs(points[:, None] - points[None]).max(-1)
    short = np.where(shared < words.shape[1], (1 - 2 * ratio) * ratio**shared - apart, 0.0)
    return float(max(wrong, short.max()))


def read(words: np.ndarray, points: np.ndarray, ratio: float) -> float:
    """Words that the router does not read from their points, every letter counted."""
    return float((route(points, ratio, words.shape[1]) != words).sum())


def kept(points: np.ndarray, values: np.ndarray, cells: np.ndarray, ratio: float) -> float:
    """Largest difference of the memory from writing every fact, one after the other, to the cell of its point."""
    depth = round(np.log(len(cells)) / np.log(len(CORNERS)))
    made = np.zeros_like(cells)
    for place, value in zip(cell(route(points, ratio, depth), len(CORNERS)), values, strict=True):
        made[place] = value
    return float(np.abs(made - cells).max())


def levels(cells: np.ndarray, corners: np.ndarray) -> int:
    """Letters of a word that names a cell."""
    return round(np.log(len(cells)) / np.log(len(corners)))


def reindexed(
    before_points: np.ndarray,
    before_cells: np.ndarray,
    before_ratio: float,
    after_points: np.ndarray,
    after_cells: np.ndarray,
    after_ratio: float,
    after_corners: np.ndarray,
) -> float:
    """Largest difference of the values that two memories give for the same words, each by its own points and maps."""
    found = []
    for points, cells, ratio, corners in (
        (before_points, before_cells, before_ratio, CORNERS),
        (after_points, after_cells, after_ratio, after_corners),
    ):
        found.append(cells[cell(route(points, ratio, levels(cells, corners), corners), len(corners))])
    return float(np.abs(found[0] - found[1]).max())


def steps(embed: np.ndarray, key: np.ndarray) -> np.ndarray:
    """The trained layer's step of each token, of length 1."""
    t = embed @ key
    return t / np.sqrt((t * t).sum(-1, keepdims=True) + 2.0**-60)


def histories(tokens: np.ndarray, t: np.ndarray, ratio: float) -> np.ndarray:
    """The sum over k of s^k times the step of the token k places back, of every place; a first row of no token."""
    lag = np.arange(len(tokens))[:, None] - np.arange(len(tokens))[None]
    return np.concatenate([np.zeros((1, t.shape[1])), np.where(lag >= 0, ratio ** np.abs(lag), 0.0) @ t[tokens]])


def suffix_answer(
    tokens: np.ndarray, embed: np.ndarray, key: np.ndarray, value: np.ndarray, power: float, ratio: float
) -> np.ndarray:
    """Means of the values so far, by inverse powers of the distance of the histories before them from our own."""
    h, v = histories(tokens, steps(embed, key), ratio), (embed @ value)[tokens]
    made = []
    for i in range(len(tokens)):
        distance = np.maximum(np.linalg.norm(h[i + 1] - h[: i + 1], axis=1), NEAR)
        weights = (distance / distance.min()) ** -power
        made.append(weights @ v[: i + 1] / weights.sum())
    return np.array(made)


def suffix(
    tokens: np.ndarray,
    embed: np.ndarray,
    key: np.ndarray,
    value: np.ndarray,
    out: np.ndarray,
    power: float,
    ratio: float,
    said: np.ndarray,
) -> float:
    """Largest difference of what the trained layer says from sums over all its pairs of histories."""
    return float(np.abs(suffix_answer(tokens, embed, key, value, power, ratio) @ out[:, 0] - said).max())


def bracket(tokens: np.ndarray, embed: np.ndarray, key: np.ndarray, ratio: float) -> float:
    """By how much two trained histories leave s^L (least - s far / (1 - s)) <= |h - h'| <= s^L far / (1 - s).

    L is the number of last tokens that they share, ``least`` and ``far`` the least and the largest distance of the
    steps of two tokens. Histories start at the first token; what is missing counts as 1, the length of a step.
    """
    t = steps(embed, key)
    between = np.linalg.norm(t[:, None] - t[None], axis=-1)
    least, far = between[~np.eye(len(t), dtype=bool)].min(), max(between.max(), 1.0)
    h, worst = histories(tokens, t, ratio)[1:], 0.0
    for i in range(len(tokens)):
        for j in range(i):
            same = tokens[: j + 1][::-1] == tokens[i - j : i + 1][::-1]
            shared = int(np.cumprod(same).sum())
            distance = float(np.linalg.norm(h[i] - h[j]))
            high = ratio**shared * far / (1 - ratio)
            low = ratio**shared * (least - ratio * far / (1 - ratio)) if shared <= j else 0.0
            worst = max(worst, distance - high, low - distance)
    return worst


def truncation(tokens: np.ndarray, embed: np.ndarray, key: np.ndarray, ratio: float) -> float:
    """By how much cutting a trained history to its last L tokens moves it farther than s^L / (1 - s), for every L."""
    t = steps(embed, key)
    whole = histories(tokens, t, ratio)[-1]
    moved = [np.linalg.norm(whole - histories(tokens[-length:], t, ratio)[-1]) for length in range(1, len(tokens))]
    return max(0.0, *(float(m) - ratio**length / (1 - ratio) for length, m in enumerate(moved, 1)))


CHECKS: dict[str, Callable[..., float]] = {
    "contraction": contraction,
    "fixed_point": fixed_point,
    "collage": collage,
    "picture": picture,
    "any_start": any_start,
    "separation": separation,
    "read": read,
    "kept": kept,
    "reindexed": reindexed,
    "suffix": suffix,
    "bracket": bracket,
    "truncation": truncation,
}
