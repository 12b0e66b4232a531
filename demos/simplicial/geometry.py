"""What the simplicial demo builds: a surface, a flow on it, its diffusion, and the holes seen from distances alone."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from demos import terminal
from demos.certificate import Certificate, certify
from demos.result import Plot, Table
from demos.simplicial import checks, complexes, drawing, maths, readout
from demos.simplicial.surfaces import SURFACES, Surface, sample, side_flows

SAMPLES = 40  # points of the filtration
NEAR = 0.4  # of the farthest distance: neighbours in the graph whose tetrahedra are counted too
TITLES = {
    "annulus": "A disk with a hole",
    "disk": "A disk without a hole",
    "pants": "A plate with two holes",
    "torus": "A torus: right side glued to left, top to bottom",
    "klein": "Klein's bottle: right glued to left, top to bottom reversed",
}
ARROWS = {"pants": 19}  # columns of the picture, others have 15


@dataclass(frozen=True, slots=True)
class Spread:
    """A diffusion: its start, the times it is looked at, and what the ``parts`` of the start are by then."""

    start: np.ndarray
    times: np.ndarray
    parts: np.ndarray

    @property
    def result(self) -> np.ndarray:
        """(times, n)."""
        return self.parts.sum(0)

    @classmethod
    def run(cls, operator: np.ndarray, *parts: np.ndarray) -> Spread:
        levels = np.linalg.eigvalsh(operator)
        times = np.geomspace(0.05, 9 / levels[levels > 1e-9][0], 24)
        longest = float(maths.rate(jnp.asarray(operator)) * times[-1])
        walk = jax.jit(jax.vmap(maths.diffuse, (None, 0, None, None)), static_argnums=3)
        terms = int(longest + 8 * longest**0.5 + 40)
        return cls(
            sum(parts, np.zeros(len(operator))), times, np.asarray(walk(operator, np.stack(parts), times, terms))
        )


@dataclass(frozen=True, slots=True)
class Built:
    """A surface and what was made on it.

    Args:
        betti: pieces, holes, cavities; ``mod_two`` the same counted mod 2.
        flow, parts: a random flow and its split.
        mass: a drop on the vertices, diffused.
        edges: the flow (or its masses, if ``mode`` is unsigned), diffused.
        distances, bars: between ``SAMPLES`` points, and the pieces and loops of their filtration.
    """

    name: str
    mode: str
    surface: Surface
    betti: tuple[int, ...]
    mod_two: tuple[int, ...]
    flow: np.ndarray
    parts: complexes.Hodge
    mass: Spread
    edges: Spread
    distances: np.ndarray
    bars: list[complexes.Bar]

    @classmethod
    def create(cls, random: np.random.Generator, name: str, mode: str) -> Built:
        surface = SURFACES[name]()
        complex = surface.complex
        flow = mixed_flow(random, complex)
        parts = complexes.hodge(complex, 1, flow)
        drop = np.eye(len(complex[0]))[len(complex[0]) // 2]
        started = parts if mode == readout.SIGNED else (np.abs(flow),)
        apart = surface.distances()
        chosen = sample(random, apart, SAMPLES)
        distances = apart[np.ix_(chosen, chosen)]
        return cls(
            name=name,
            mode=mode,
            surface=surface,
            betti=complexes.betti(complex),
            mod_two=complexes.betti(complex, 2),
            flow=flow,
            parts=parts,
            mass=Spread.run(checks.operator(complex, "vertices"), drop),
            edges=Spread.run(checks.operator(complex, mode), *started),
            distances=distances,
            bars=[bar for bar in complexes.persistence(complexes.rips(distances)) if bar.dimension < 2],
        )

    @property
    def simplices(self) -> dict[str, np.ndarray]:
        """The surface as the checks take it."""
        return {"edges": np.array(self.surface.complex[1]), "triangles": np.array(self.surface.complex[2])}

    def share(self, part: str) -> float:
        """Of a part in the square sum of the flow."""
        values = getattr(self.parts, part)
        return float(values @ values / (self.flow @ self.flow))


def mixed_flow(random: np.random.Generator, complex: complexes.Complex) -> np.ndarray:
    """A smooth gradient, smooth eddies and a harmonic flow, each random and of length 1, or 0 where there is none."""
    height, spin = (complexes.heat(complex, k, random.normal(size=len(complex[k])), 3.0) for k in (0, 2))
    around = complexes.hodge(complex, 1, random.normal(size=len(complex[1]))).harmonic
    parts = height @ complexes.boundary(complex, 1), complexes.boundary(complex, 2) @ spin, around
    return sum((readout.unit(part) for part in parts), np.zeros(len(complex[1])))


def written(numbers: tuple[int, ...]) -> str:
    """Betti numbers of a surface, the last ones 0 if left out."""
    return ", ".join(map(str, (*numbers, 0, 0)[:3]))


def certificates(built: Built) -> dict[str, Certificate]:
    """Of the surface, the flow and what became of it, by the name of the law."""
    rows, columns = np.nonzero(np.triu(built.distances <= NEAR * built.distances.max(), 1))
    bars = np.array([(k, birth, death if np.isfinite(death) else -1.0) for k, birth, death in built.bars])
    found = {
        "triangles are all triples of neighbours": certify(
            "simplicial.flag",
            "the triangles are all triples of neighbours: the surface is the flag complex of its edges",
            0.0,
            **built.simplices,
        ),
        "boundary of a boundary is 0": certify(
            "simplicial.boundary",
            f"boundaries of boundaries of triangles and tetrahedra among {SAMPLES} points are 0",
            0.0,
            edges=np.stack([rows, columns], -1),
            dimension=3,
        ),
        "holes = kernels of Laplacians": certify(
            "simplicial.holes",
            f"pieces, holes and cavities count {written(built.betti)}: kernels of Laplacians, Euler's number",
            0.0,
            numbers=np.array(built.betti),
            **built.simplices,
        ),
        "three orthogonal parts": certify(
            "simplicial.hodge",
            "the flow is the sum of its gradient, curl and harmonic parts, orthogonal to each other",
            1e-12,
            flow=built.flow,
            **built.parts._asdict(),
            **built.simplices,
        ),
        "bars alive = holes, at any distance": certify(
            "simplicial.persistence",
            "as many bars live at each distance as its flag complex has pieces and holes",
            0.0,
            distances=built.distances,
            bars=bars,
            radii=np.linspace(0.15, 0.45, 4) * built.distances.max(),
        ),
    }
    statements = {
        "vertices": ("mass on points is kept", "mass on the points spreads as the heat equation says, and all stays"),
        "unsigned": ("mass on edges is kept", "masses on the edges spread as the heat equation says, and all stays"),
        "signed": (
            "flows end in the harmonic part",
            "the flow diffuses as the heat equation says, towards its harmonic part, as fast as the gap promises",
        ),
    }
    for kind, spread in (("vertices", built.mass), (built.mode, built.edges)):
        law, statement = statements[kind]
        found[law] = certify(
            f"simplicial.diffusion:{kind}",
            statement,
            1e-11,
            kind=kind,
            start=spread.start,
            times=spread.times[::8],
            result=spread.result[::8],
            **built.simplices,
        )
    return found


# --- pictures -----------------------------------------------------------------------------------------------------


def flow_plot(built: Built) -> Plot:
    """The flow and its harmonic part as arrows; the figure has all parts."""
    surface = built.surface
    flows = {"flow": built.flow, **built.parts._asdict()}
    text = drawing.arrows(
        surface, {"a flow": built.flow, "its harmonic part": built.parts.harmonic}, ARROWS.get(built.name, 15)
    )
    sides = {name: side_flows(surface.complex, values) for name, values in flows.items()}
    return Plot(TITLES[built.name], text, "flow", {"corners": surface.corners, **sides})


def split_table(built: Built) -> Table:
    """Share of each part, what it lets end at a point and turn around a triangle."""
    ends, turns = complexes.boundary(built.surface.complex, 1), complexes.boundary(built.surface.complex, 2).T
    rows = tuple(
        (name, f"{built.share(name):.2f}", f"{np.abs(ends @ part).max():.1e}", f"{np.abs(turns @ part).max():.1e}")
        for name, part in built.parts._asdict().items()
    )
    return Table(("part", "share", "ends at a point", "turns around a triangle"), rows)


def decay_plot(built: Built) -> Plot:
    """What diffusion leaves of the parts of a flow; of masses, their total and their distance from an even spread."""
    spread, floor = built.edges, 1e-4
    if built.mode == readout.SIGNED:
        title = "Diffusion of the flow: share that is left"
        series = {
            name: (part**2).sum(-1) / (built.flow @ built.flow)
            for name, part in zip(reversed(complexes.Hodge._fields), reversed(spread.parts), strict=True)
        }
    else:
        title = "Diffusion of masses on the edges, directions forgotten"
        total = spread.result.sum(-1)
        uneven = np.abs(spread.result - total[:, None] / len(spread.start)).sum(-1)
        series = {"total": total / spread.start.sum(), "unevenness": uneven / spread.start.sum()}
    shown = {name: np.where(values > floor, values, np.nan) for name, values in series.items() if values.max() > floor}
    text = terminal.chart(
        {name: (spread.times, values) for name, values in shown.items()},
        xlabel="time",
        ylabel="share",
        logx=True,
        logy=True,
        height=9,
    )
    return Plot(title, text, "diffusion", {"time": spread.times, **shown})


def bars_plot(built: Built) -> Plot:
    """Barcode of the filtration."""
    farthest = float(built.distances.max())
    shown = np.array([(k, birth, min(death, farthest)) for k, birth, death in built.bars])
    return Plot(
        f"Pieces and loops of {SAMPLES} points, joined within a growing distance",
        drawing.barcode(built.bars, farthest),
        "barcode",
        {"bars": shown, "farthest": np.array(farthest)},
    )
