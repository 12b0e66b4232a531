"""What the fractal demo shows first: an attractor and its pieces, a picture made of itself, words as points."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from demos.certificate import Certificate, certify
from demos.ifs_fractal import checks, drawing, maths, memory, picture
from demos.ifs_fractal.attractors import Attractor
from demos.result import Part, Plot, Table, Text
from demos.words import number

DRAWN = 2500  # points in the terminal


def attractor_parts(random: np.random.Generator, attractor: Attractor, count: int) -> list[Part]:
    """What the maps are, the attractor and its pieces, its dimension."""
    points, symbols = attractor.points(random, count)
    s, pieces = checks.factor(attractor.matrices), len(attractor.matrices)
    return [
        Text(
            f"A contraction moves any two points nearer to each other. The {pieces} maps of this system shrink to "
            f"{s:.3g} or less. Apply all of them to a set, unite the images, repeat: whatever the start, one set "
            "remains, the attractor. It is the union of its own images, so every point has an address: the word of "
            f"maps that lead to it. {dimension(attractor, points)}"
        ),
        attractor_plot(attractor, points, symbols),
    ]


def dimension(attractor: Attractor, points: np.ndarray) -> str:
    """By counting boxes, and by Moran's equation where it applies."""
    counted = f"Its dimension is {box_dimension(points):.2f} by counting boxes"
    ratios = attractor.ratios
    if ratios is None:
        return f"{counted}."
    root = float(maths.similarity_dimension(jnp.asarray(ratios)))
    return f"{counted}, {root:.3f} by Moran's equation (the sum of r^D is 1)."


def box_dimension(points: np.ndarray) -> float:
    """Slope of log boxes over log 1/size, for sizes of 1/8 to 1/64 of the set's extent."""
    scaled = (points - points.min(0)) / np.ptp(points, axis=0).max()
    levels = np.arange(3, 7)
    counts = [len(np.unique((scaled * 2.0**level).astype(int), axis=0)) for level in levels]
    return float(np.polyfit(levels * np.log(2), np.log(counts), 1)[0])


def attractor_plot(attractor: Attractor, points: np.ndarray, symbols: np.ndarray) -> Plot:
    """The chosen attractor, what a few steps make of a square, and the pieces."""
    low, high = points.min(0), points.max(0)
    grid = np.stack(np.meshgrid(*np.linspace(low, high, 12).T), -1).reshape(-1, 2)
    steps = 3 if len(attractor.matrices) < 8 else 2
    start = checks.union(attractor.matrices, attractor.offsets, grid, steps)
    outline = np.stack([low, [high[0], low[1]], high, [low[0], high[1]], low])
    frames = checks.union(attractor.matrices, attractor.offsets, outline).reshape(-1, 5, 2)
    return Plot(
        f"The {attractor.name} and its collage: which map made which piece",
        drawing.attractor(points[:DRAWN], symbols[:DRAWN], start, steps),
        "collage",
        {"points": points, "symbols": symbols, "outline": outline, "frames": frames},
    )


def picture_parts(
    random: np.random.Generator, pixels: int, ratio: float
) -> tuple[list[Part], list[Certificate], dict[str, float]]:
    """A picture encoded as contractions of its own blocks, and what two starts become under them."""
    image = picture.landscape(random, pixels)
    code = picture.encode(image, ratio)
    start = np.kron(np.indices((8, 8)).sum(0) % 2, np.ones((pixels // 8, pixels // 8)))
    steps = picture.settled(ratio)
    path = picture.decoded(code, start, steps)
    made = path[-1]
    witness = {
        "domain": np.asarray(code.domain),
        "scale": np.asarray(code.factor),
        "shift": np.asarray(code.shift),
    }
    s = float(np.abs(witness["scale"]).max())
    once = float(np.abs(checks.picture_step(image, **witness) - image).max())
    numbers = {
        "collage_error": once,
        "promised": once / (1 - s),
        "decoded_error": float(np.abs(made - image).max()),
        "picture_error": rms(made - image),
        "means_error": rms(means(image) - image),
    }
    blocks = len(witness["scale"])
    parts: list[Part] = [
        Text(
            f"A picture can be an attractor too: each of {blocks} small blocks is a larger block of the same picture, "
            f"shrunk, its contrast times at most {ratio:g}. {picture.NUMBERS * blocks} numbers stand for "
            f"{image.size} pixels. One step changes the picture by at most {number(once)} (white - black = 1), so the "
            f"attractor is within {number(once)} / (1 - {s:.2g}) = {number(numbers['promised'])} of it, Barnsley's "
            f"collage theorem; it is within {number(numbers['decoded_error'])}."
        ),
        Plot(
            "A picture as the fixed point of contractions, from a chessboard",
            drawing.greys({"the picture": image, "after 1 step": path[0], f"after {steps}": made}),
            "picture",
            {"the picture": image, "the start": start, "after 1 step": path[0], f"after {steps} steps": made},
        ),
    ]
    certificates = [
        certify(
            "ifs-fractal.picture",
            "the decoded picture is a fixed point and as near to the original as its collage promises",
            1e-12,
            image=image,
            decoded=made,
            **witness,
        ),
        certify(
            "ifs-fractal.any_start",
            "under the picture's maps any two pictures approach by the factor of the contrasts at every step",
            1e-12,
            one=start,
            other=image,
            steps=6,
            **witness,
        ),
    ]
    return parts, certificates, numbers


def rms(difference: np.ndarray) -> float:
    """Root mean square."""
    return float(np.sqrt((difference**2).mean()))


def means(image: np.ndarray) -> np.ndarray:
    """Control with as many numbers: the mean of every 2 x 2 pixels."""
    return np.kron(np.asarray(picture.halved(jnp.asarray(image))), np.ones((2, 2)))


def word_parts(random: np.random.Generator, ratio: float, depth: int) -> list[Part]:
    """Words written into points and read by the router."""
    words = random.integers(0, memory.ARITY, (3, depth + 4))
    points = memory.write(ratio, words)
    found = memory.route(ratio, points, words.shape[1])
    rows = [
        (
            spelled(word),
            f"{x:.6f}, {y:.6f}",
            spelled(back),
            spelled(back[:depth]),
            str(memory.cell(back[None, :depth])[0]),
        )
        for word, (x, y), back in zip(words, points, found, strict=True)
    ]
    return [
        Text(
            f"A memory uses addresses: four maps shrink the square by {ratio:g} towards its corners a, b, c, d. A word "
            "is written by applying its maps, the last letter first, and read by asking again and again which piece "
            f"the point is in. The first {depth} letters name one of {memory.ARITY**depth} cells."
        ),
        Table(("word", "written as the point", "read back", "routed to", "cell"), tuple(rows)),
    ]


def spelled(word: np.ndarray) -> str:
    """A word in letters."""
    return "".join(drawing.LETTERS[symbol] for symbol in word)
