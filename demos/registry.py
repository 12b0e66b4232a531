"""The catalogue of demos: what ``mgr list`` and ``mgr info`` read. No heavy import, not even numpy."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from demos.result import Result

READY = "ready"
PLANNED = "planned"


@dataclass(frozen=True, slots=True)
class DemoOption:
    """An option that one demo adds to the common ones.

    Args:
        name: key in ``DemoConfig.options``; the flag is the name with dashes.
        default: ``False`` for a switch, a string for a choice.
        help: one line.
        choices: what a string option accepts.
        variable: environment variable of the founding document that means the same; the command line reads it.
    """

    name: str
    default: bool | str
    help: str
    choices: tuple[str, ...] = ()
    variable: str = ""

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def about(self) -> str:
        """Its help with what it accepts."""
        choices = f" ({' or '.join(self.choices)}; default: {self.default})" if self.choices else ""
        return f"{self.help}{choices}" + (f"; {self.variable}=1 means the same" if self.variable else "")


@dataclass(frozen=True, kw_only=True, slots=True)
class Demo:
    """One entry of the catalogue.

    Args:
        name: what the user types.
        title: a few words for tables.
        idea: one line on what it is.
        theorem: one line on what the demo certifies, or will.
        twin: how the same mathematics is trained in PyTorch.
        page: file in ``markdown_documentation``.
        papers: arXiv numbers or DOIs.
        module: dotted name of the module with ``run(config: DemoConfig) -> Result``; empty while planned.
        options: what it takes beyond the common options.
    """

    name: str
    title: str
    idea: str
    theorem: str
    twin: str
    page: str
    papers: tuple[str, ...]
    module: str = ""
    options: tuple[DemoOption, ...] = ()

    @property
    def twins(self) -> list[str]:
        """Names of the mechanisms that train the same mathematics in PyTorch."""
        return self.twin.partition(" ")[2].split(" | ")

    @property
    def status(self) -> str:
        """``ready`` or ``planned``."""
        return READY if self.module else PLANNED

    def describe(self) -> dict[str, Any]:
        """The entry as plain values."""
        return {
            "name": self.name,
            "title": self.title,
            "idea": self.idea,
            "theorem": self.theorem,
            "run": f"mgr run {self.name}",
            "options": {option.flag: option.about for option in self.options},
            "twin": self.twin,
            "page": f"markdown_documentation/{self.page}",
            "papers": list(self.papers),
            "status": self.status,
        }

    def load(self) -> Callable[[Any], Result]:
        """The demo's ``run``; this is what imports jax. Raises :class:`Planned` for a demo that is not there yet."""
        if not self.module:
            raise Planned(f"demo {self.name!r} is planned, not built yet: ready are {', '.join(ready())}")
        return importlib.import_module(self.module).run


class UnknownDemo(ValueError):
    """A name that is not in the catalogue."""


class Planned(RuntimeError):
    """A demo of the catalogue that is not built yet (exit code 3)."""


_DEMOS = (
    Demo(
        name="matrix-gauge",
        title="Lie groups and parallel transport",
        idea="each token emits a rotation; attention compares vectors carried along the path between tokens",
        theorem="attention weights do not change under a random change of frame at every token (gauge invariance)",
        twin="--attention-type gauge",
        page="gauge.md",
        papers=(
            "arXiv:2505.16381",
            "arXiv:2406.10322",
            "arXiv:1602.03676",
            "doi:10.1016/j.physrep.2008.11.001",
            "doi:10.1080/03461238.1953.10419459",
        ),
        module="demos.matrix_gauge.demo",
        options=(
            DemoOption(
                "group", "so3", "what carries: turns of space, or turns of a plane, which commute", ("so3", "u1")
            ),
            DemoOption(
                "words",
                "s3",
                "letters: motions of a triangle, turns of a hexagon, quaternion units",
                ("s3", "z6", "q8"),
            ),
        ),
    ),
    Demo(
        name="ultrametric",
        title="p-adic trees",
        idea="keys are digit strings; two tokens are as near as their longest common prefix",
        theorem="the strong triangle inequality d(x, z) <= max(d(x, y), d(y, z)) holds for the learned kernel",
        twin="--attention-type ultrametric",
        page="ultrametric.md",
        papers=("doi:10.1103/RevModPhys.58.765", "arXiv:2508.01010", "doi:10.1145/509907.509965"),
        module="demos.ultrametric.demo",
        options=(
            DemoOption("base", "3", "the prime p of the numbers, the tree and the digits", ("2", "3", "5", "7")),
            DemoOption(
                "scale_compare",
                False,
                "time a search through all keys and a tree of dictionaries too",
                variable="ULTRA_SCALE_COMPARE",
            ),
        ),
    ),
    Demo(
        name="tropical",
        title="max-plus algebra",
        idea="addition becomes maximum, product becomes addition; attention becomes the argmax of a path",
        theorem="a winner keeps winning within a radius that its margin gives: a robustness certificate per output",
        twin="--attention-type tropical",
        page="tropical.md",
        papers=("arXiv:2505.17190", "arXiv:1805.07091"),
        module="demos.tropical.demo",
        options=(
            DemoOption(
                "score",
                "hilbert",
                "attention score: Hilbert projective distance, or the tropical inner product",
                ("hilbert", "maxplus"),
            ),
            DemoOption(
                "sparse_train",
                False,
                "train towards a mixture of one channel, which can be read and bounded for any number of tokens",
                variable="TROP_SPARSE_TRAIN",
            ),
        ),
    ),
    Demo(
        name="simplicial",
        title="higher-order attention and Hodge theory",
        idea="attention over triangles: a query looks at pairs of keys at once",
        theorem="the boundary of a boundary is zero; every flow splits into gradient, curl and harmonic parts",
        twin="--attention-type simplicial",
        page="simplicial.md",
        papers=("arXiv:1909.00668", "arXiv:2507.02754", "arXiv:2306.02896", "arXiv:1507.05379"),
        module="demos.simplicial.demo",
        options=(
            DemoOption(
                "surface",
                "annulus",
                "what the flow flows on: no hole, one, two, or a square with its sides glued",
                ("annulus", "disk", "pants", "torus", "klein"),
            ),
            DemoOption(
                "score",
                "trilinear",
                "what three words score together: sums of products, or of determinants",
                ("trilinear", "determinant"),
            ),
            DemoOption(
                "mode",
                "signed",
                "what an edge carries: a flow with a direction, or a mass without",
                ("signed", "unsigned"),
            ),
        ),
    ),
    Demo(
        name="nonstandard",
        title="infinitesimals and exponential steps",
        idea="derivatives by arithmetic with infinitesimals; an optimizer that follows the gradient flow exactly",
        theorem="on a quadratic the macro step equals the exact gradient flow for every step size",
        twin="--optimizer-type hoss",
        page="nonstandard.md",
        papers=("doi:10.1017/S0962492910000048", "arXiv:1406.2572", "arXiv:1502.05767"),
        module="demos.nonstandard.demo",
        options=(
            DemoOption(
                "order", "4", "powers of epsilon that are kept, and order of the stable steps", ("1", "2", "4", "8")
            ),
            DemoOption("condition", "1e6", "largest curvature over the smallest", ("1e2", "1e4", "1e6")),
            DemoOption("krylov", "8", "Hessian products of a macro step", ("2", "4", "8", "16")),
        ),
    ),
    Demo(
        name="octonion",
        title="quaternions and octonions",
        idea="attention whose values are rotated by unit quaternions, or by octonions, where brackets matter",
        theorem="|xy| = |x||y| in both algebras; octonions are alternative but not associative, with a witness",
        twin="--attention-type quaternion | octonion",
        page="octonion.md",
        papers=("arXiv:math/0105155", "arXiv:2102.08597", "arXiv:2305.18415", "doi:10.1145/325334.325242"),
        module="demos.octonion.demo",
        options=(DemoOption("algebra", "octonion", "what frames and values are made of", ("quaternion", "octonion")),),
    ),
    Demo(
        name="ordinal",
        title="transfinite learning-rate schedules",
        idea="restarts, annealing and patience counted down by one ordinal below omega^3",
        theorem="the rank strictly decreases on every event of any loss stream, so the schedule terminates",
        twin="--scheduler-type ordinal",
        page="ordinal.md",
        papers=("doi:10.1112/blms/14.4.285", "arXiv:1608.03983", "doi:10.2307/2268019"),
        module="demos.ordinal.demo",
        options=(
            DemoOption(
                "stream", "shifts", "what half of the streams do that are learned", ("shifts", "drift", "bursts")
            ),
            DemoOption("restarts", "2", "coefficient of ω^2 in the first rank: restarts", ("0", "2", "8")),
            DemoOption("number", "4", "where the Goodstein sequence starts", ("3", "4", "19", "266")),
        ),
    ),
    Demo(
        name="reversible",
        title="reversible and volume-preserving computation",
        idea="layers that can be run backwards, so that training need not remember what it can recompute",
        theorem="the trained stack inverts to the same bits, has log-determinant 0, and its memory is flat in depth",
        twin="--attention-type reversible",
        page="reversible.md",
        papers=("arXiv:1707.04585", "arXiv:1810.10999", "arXiv:2302.04869", "arXiv:1707.09520"),
        module="demos.reversible.demo",
        options=(
            DemoOption("rev_cayley", False, "mix the streams between layers by learned orthogonal Cayley matrices"),
        ),
    ),
    Demo(
        name="ifs-fractal",
        title="iterated function systems as memory",
        idea="contractions write a token history into one point; near points share their latest tokens",
        theorem="contraction by s < 1/2 separates histories by at least 1 - 2s; truncation costs at most s^d / (1 - s)",
        twin="--attention-type fractal",
        page="fractal.md",
        papers=(
            "doi:10.1512/iumj.1981.30.30055",
            "doi:10.1073/pnas.83.7.1975",
            "doi:10.1109/83.128028",
            "doi:10.1016/S0079-7421(08)60536-8",
        ),
        module="demos.ifs_fractal.demo",
        options=(
            DemoOption("attractor", "fern", "the system that is drawn", ("fern", "sierpinski", "dragon", "carpet")),
            DemoOption(
                "contraction",
                "0.4",
                "factor s of the memory's maps, of its histories and of the picture's contrasts",
                ("0.25", "0.4", "0.49", "0.6", "0.8"),
            ),
            DemoOption("depth", "4", "letters that name a cell of the memory", ("2", "3", "4", "5")),
        ),
    ),
    Demo(
        name="knot-braid",
        title="braids and knot invariants",
        idea="tokens cross strands; what they compute depends on the braid, not on how it is drawn",
        theorem="Artin's relations and the Yang-Baxter equation hold exactly for the Burau crossing law",
        twin="--attention-type braid",
        page="braid.md",
        papers=(
            "arXiv:math/0409205",
            "arXiv:2411.12537",
            "doi:10.1093/qmath/20.1.235",
            "doi:10.1006/aima.1997.1605",
            "doi:10.1016/0040-9383(87)90009-7",
            "arXiv:math/9904100",
        ),
        module="demos.knot_braid.demo",
        options=(
            DemoOption(
                "knot",
                "figure-eight",
                "whose braid is drawn, scrambled, brought back and told from others",
                ("trefoil", "figure-eight", "cinquefoil", "three-twist", "stevedore", "conway"),
            ),
            DemoOption("strands", "3", "of the words that are told apart", ("3", "4", "5")),
            DemoOption(
                "crossing_law",
                "ybe",
                "what a crossing of the layer does: Burau, or turns about two axes that miss Yang-Baxter",
                ("ybe", "restricted"),
            ),
            DemoOption("modulus", "2", "of the matrices to be multiplied: 6 states, or 24", ("2", "3")),
        ),
    ),
    Demo(
        name="surreal",
        title="surreal numbers and transseries",
        idea="numbers with infinitely many orders of magnitude; the larger order always wins",
        theorem="the order is total and compatible with + and x; dominance is the limit of softmax over exponents",
        twin="--attention-type surreal",
        page="surreal.md",
        papers=("arXiv:0801.4877", "arXiv:1602.07868"),
        module="demos.surreal.demo",
        options=(
            DemoOption("day", "3", "last birthday of the numbers that are shown and added", ("2", "3", "4")),
            DemoOption(
                "control",
                "softmax",
                "attention that is trained beside: on raw keys, or after a norm",
                ("softmax", "normed"),
            ),
        ),
    ),
)

DEMOS: Mapping[str, Demo] = {demo.name: demo for demo in _DEMOS}


def names() -> list[str]:
    """All eleven names, in the order of the pages."""
    return list(DEMOS)


def ready() -> list[str]:
    """Names of the demos that run."""
    return [demo.name for demo in _DEMOS if demo.module]


def get(name: str) -> Demo:
    """The entry of that name; :class:`UnknownDemo` suggests the nearest one."""
    if name not in DEMOS:
        close = difflib.get_close_matches(name, names(), n=1, cutoff=0.5)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise UnknownDemo(f"unknown demo {name!r}: need one of {', '.join(names())}{hint}")
    return DEMOS[name]
