"""The nonstandard demo: infinitesimals computed with, steps of a flow at once, a stiff network, and what that costs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from demos import terminal
from demos.certificate import Certificate, certify
from demos.hahn import EPSILON
from demos.nonstandard import checks, levi_civita, model, numbers, stiff
from demos.nonstandard.model import BATCH, DRAWN, FULL, PRODUCT, RATES, Learned
from demos.nonstandard.noise import TEMPERATURE, Walkers, cloud_plot
from demos.result import DemoConfig, Plot, Table, Text
from demos.stage import Scene, laws, staged
from demos.words import against, number

EULER = 1000  # steps of the certified comparison
FLOOR = 1e-16  # of a loss: less than that is rounding
HILL, LEAP = 5.0, 100.0  # where log cosh is started, time of a step on it


@dataclass(frozen=True, slots=True)
class Size:
    """How much is computed: macro steps, networks, walkers, certified rows of numbers."""

    steps: int
    networks: int
    walkers: int
    rows: int


QUICK = Size(steps=40, networks=3, walkers=400, rows=24)
WHOLE = Size(steps=300, networks=7, walkers=1000, rows=60)


@dataclass(frozen=True, slots=True)
class Choice:
    """The options: condition number, powers of epsilon that are kept, Hessian products of a step."""

    condition: float
    order: int
    krylov: int

    @property
    def named(self) -> str:
        """The condition as it was given."""
        return f"1e{np.log10(self.condition):.0f}"


def scenes(config: DemoConfig, random: np.random.Generator) -> Iterator[Scene]:
    """The four acts of the nonstandard demo."""
    size = QUICK if config.quick else WHOLE
    options = {name: str(value) for name, value in config.options.items()}
    choice = Choice(float(options["condition"]), int(options["order"]), int(options["krylov"]))
    yield show_object(choice)
    yield show_laws(random, size, choice)
    valley = stiff.quadratic(random, choice.condition)
    steps = config.iterations(size.steps)
    network = Learned.learn(random, size.networks, choice.condition, choice.krylov, steps)
    race = stiff.race(*valley, choice.krylov)
    yield show_learning(choice, race, network)
    yield show_limits(choice, valley, float(race["macro"][0].min()), network)


# --- object -------------------------------------------------------------------------------------------------------


def show_object(choice: Choice) -> Scene:
    """Numbers with infinitesimal parts, the step that infinitely many Euler steps make, and its way in a valley."""
    shown = numbers.examples(choice.order)
    rows = [(name, numbers.written(x), numbers.size(x), numbers.real(x)) for name, x in shown.items()]
    slow = np.ceil(np.log(100) * choice.condition / stiff.reach(choice.order))
    rates = np.array([0.5, 1.0, 2.0])
    parts = [
        Text(
            "ε is a number above 0 and below every 1/n, and one computes with it as with any other: a number is a sum "
            "of powers of ε, the largest power decides its sign and size. Its standard part st is the real number "
            "that is infinitely near."
        ),
        Table(("number", "in powers of ε", "size", "st"), tuple(rows)),
        Plot("Five numbers through three microscopes", numbers.microscope(), "microscope", numbers.arrays()),
        Text(
            "Gradient descent on w²/2 with steps of 1/N ends after a time 1 at (1 - 1/N)^N. With ε for 1/N that is one "
            "number of the field. Its standard part is where the flow ends; its next term is what finite steps miss."
        ),
        compounding(choice.order),
        valley_plot(choice),
        scales_plot(choice),
        Text(
            f"Along the valley 99 % of the way takes a time of {number(np.log(100))}: one macro step, or {slow:,.0f} "
            f"steps of order {choice.order}, the longest that are stable."
        ),
    ]
    reached = (1 - rates / EULER) ** EULER
    statement = (
        f"(1 - rε)^(1/ε) has standard part e^-r, and its powers of ε up to {choice.order} give where {EULER} steps end"
    )
    certificate = certify(
        "nonstandard.compounded",
        statement,
        10.0 * EULER ** -(choice.order + 1) + 1e-12,
        rates=rates,
        steps=EULER,
        order=choice.order,
        reached=reached,
    )
    found = {"slow_steps": float(slow), "reach": stiff.reach(choice.order)}
    return Scene("Numbers infinitely near to each other", parts, [certificate], found)


def compounding(order: int) -> Table:
    """Where N Euler steps end, and infinitely many; the distance, and what the powers of epsilon say it is."""
    value = levi_civita.compounded(1.0, order)
    end = float(value.coefficient(0))
    rows = []
    for steps in (4, 1000):
        said = sum(float(value.coefficient(-k)) * steps**-k for k in range(1, order + 1))
        ended = float(np.exp(steps * np.log1p(-1 / steps)))
        rows.append((f"{steps}", f"{ended:.9f}", f"{ended - end:+.6e}", f"{said:+.6e}"))
    rows.append(("1/ε", f"{end:.9f}", "0", numbers.written(value - end, 2)))
    return Table(("steps", "end at", "which misses e^-1 by", f"{order} powers of ε say"), tuple(rows))


def valley_plot(choice: Choice) -> Plot:
    """Three panels: the flow with macro steps on it, steps of a truncated series, Adam."""
    found = stiff.paths(choice.condition, choice.order)
    axes = {
        "across": terminal.Axis(-0.15, 1.05),
        "upward": terminal.Axis(min(-0.12, *(found[name][:, 1].min() for name in ("series", "Adam"))), 1.05),
    }
    panels = []
    named = {"flow": "flow, ● macro steps", "series": f"{stiff.OTHER_STEPS} steps of order {choice.order}"}
    for name, caption in (named | {"Adam": f"{stiff.OTHER_STEPS} steps of Adam"}).items():
        path = terminal_line(found[name])
        lines = [list(line) for line in terminal.dots(path[:, 0], path[:, 1], **axes, width=23, height=8)]
        if name == "flow":
            columns = axes["across"].place(found["macro"][:, 0], 23)
            rows = axes["upward"].place(found["macro"][:, 1], 8)
            for column, row in zip(columns, rows, strict=True):
                lines[7 - row][column] = "●"
        panels.append((caption, ["".join(line) for line in lines]))
    title = f"Ways in a valley of condition {choice.named} (along it to the left, across it down)"
    arrays = found | {"condition": np.array(choice.condition), "series_name": np.array(f"order {choice.order}")}
    return Plot(title, terminal.beside(*panels), "trajectories", arrays)


def scales_plot(choice: Choice) -> Plot:
    """Both numbers of the valley over the time that the steps have covered."""
    reach = stiff.reach(choice.order) * 0.95 / choice.condition
    times = np.geomspace(0.01 / choice.condition, 10, 120)
    flow = np.exp(-times[:, None] * np.array([1.0, choice.condition]))
    found = stiff.paths(choice.condition, choice.order)
    spent = {
        "macro steps": (np.arange(stiff.MACRO_STEPS + 1) * stiff.MACRO_TIME)[1:],
        f"{stiff.OTHER_STEPS} steps of order {choice.order}": (np.arange(stiff.OTHER_STEPS + 1) * reach)[1:],
    }
    taken = dict(zip(spent, (found["macro"][1:, 0], found["series"][1:, 0]), strict=True))
    series = {name: (time, taken[name]) for name, time in spent.items()}
    series |= {"along": (times, flow[:, 0]), "across": (times, flow[:, 1])}
    text = terminal.chart(series, xlabel="time of the flow", ylabel="distance", logx=True, height=9)
    arrays = {"times": times, "flow": flow} | {name: np.stack(pair) for name, pair in series.items() if name in spent}
    return Plot("Two time scales: how far the same steps come along the valley", text, "scales", arrays, detail=True)


def terminal_line(path: np.ndarray, between: int = 40) -> np.ndarray:
    """The points of a polyline, near enough to each other for a terminal."""
    where = np.arange(0, len(path) - 1 + 1e-9, 1 / between)
    return np.stack([np.interp(where, np.arange(len(path)), path[:, i]) for i in range(2)], -1)


# --- laws ---------------------------------------------------------------------------------------------------------


def show_laws(random: np.random.Generator, size: Size, choice: Choice) -> Scene:
    """The field, transfer, the flow of a quadratic, its noise; and what is no law of them."""
    walkers = Walkers.go(random, size.walkers)
    certified = field_laws(random, size, choice.order) | flow_laws(random, choice) | walkers.laws()
    widths = {"macro": walkers.width(walkers.macro), "Euler": walkers.width(walkers.euler)}
    x, y = (EPSILON.cut(-choice.order - 1) * float(slope) + float(at) for slope, at in random.normal(size=(2, 2)))
    circle = levi_civita.sin(x) * levi_civita.sin(x) + levi_civita.cos(x) * levi_civita.cos(x) - 1
    sums = levi_civita.exp(x + y) - levi_civita.exp(x) * levi_civita.exp(y)
    off = max((abs(float(value)) for each in (circle, sums) for _, value in each.terms), default=0.0)
    below = sum(EPSILON * n < 1 for n in (1, 10**6, 10**100))
    euler = abs(float(np.exp(-0.5)) - 0.5)
    table = laws(
        certified,
        {"sin² + cos² = 1, e^(x+y) = e^x e^y": (off, 1e-10)},
        {
            "some ε + ... + ε passes 1 (three tried)": (float(below), 0.0),
            "one Euler step is the flow": (euler, 1e-2),
            "Euler's walkers spread so too": (checks.cloud(walkers.matrix, TEMPERATURE, walkers.euler), 5.0),
        },
    )
    text = Text(
        f"With noise, dw = -Hw dt + √(2τ) dB, the flow is the Ornstein-Uhlenbeck process. A macro step draws its noise "
        f"with the process's own covariance: {size.walkers} walkers end {number(widths['macro'])} times as wide across "
        f"as they should. With Euler's steps, as long, they end {number(widths['Euler'])} times as wide."
    )
    parts = [table, text, cloud_plot(walkers)]
    found = {"euler_width": widths["Euler"], "macro_width": widths["macro"]}
    return Scene("What must hold, exactly or in float64", parts, list(certified.values()), found)


def field_laws(random: np.random.Generator, size: Size, order: int) -> dict[str, Certificate]:
    """Of numbers with small integer coefficients: field and order, division, standard parts, transfer."""
    exponents = random.integers(-5, 4, (size.rows, 3))
    coefficients = random.integers(1, 4, exponents.shape) * random.choice([-1, 1], exponents.shape)
    drawn = {"exponents": exponents, "coefficients": coefficients}
    return {
        "ordered field: x(y + z), (xy)z, order": certify(
            "nonstandard.field", "numbers with infinitesimal and infinite parts form an ordered ring", 0.0, **drawn
        ),
        f"x (1/x) = 1 up to ε^{order}": certify(
            "nonstandard.inverses",
            f"every number but 0 has an inverse, exact up to the power {order} of epsilon",
            0.0,
            depth=order + 1,
            **drawn,
        ),
        "standard parts: st(xy) = st x st y, ...": certify(
            "nonstandard.parts",
            "standard parts of sums, products and quotients are those of the standard parts, and keep the order",
            0.0,
            exponents=np.minimum(exponents, 0),
            coefficients=coefficients,
        ),
        "transfer: real identities, inequalities": certify(
            "nonstandard.transfer",
            "Lagrange's identity, a difference of cubes, Cauchy's and the mean inequality hold as for real numbers",
            0.0,
            **drawn,
        ),
    }


def flow_laws(random: np.random.Generator, choice: Choice) -> dict[str, Certificate]:
    """Of macro steps on quadratics: the flow for every time, downhill in small spaces, saddles, stationary noise."""
    matrix, start = stiff.quadratic(random, choice.condition)
    times = np.array([1e-3, 1.0, 1e3, 1e6])
    values = np.concatenate([np.geomspace(0.1, 10, 6), -np.geomspace(0.2, 20, 6)])
    few = min(4, choice.krylov)
    return {
        "one macro step = the flow, any time": certify(
            "nonstandard.flow",
            f"on a quadratic of condition {choice.named} one step ends where the flow does, after any time",
            1e-8,
            matrix=matrix,
            start=start,
            times=times,
            reached=stiff.macro_paths(matrix, start, times, stiff.NUMBERS, 1)[1],
        ),
        "never uphill, in a small space too": certify(
            "nonstandard.downhill",
            f"steps with {few} products never raise a convex quadratic, whatever their time",
            1e-13,
            matrix=matrix,
            path=stiff.macro_paths(matrix, start, times, few, 12).swapaxes(0, 1),
        ),
        "saddles are left at a bounded rate": certify(
            "nonstandard.saddle",
            "from a saddle a step goes 2 - e^(-time |v|) times as far, towards it e^(-time v)",
            1e-9,
            values=values,
            before=start,
            time=0.8,
            after=stiff.macro_paths(np.diag(values), start, np.array([0.8]), stiff.NUMBERS, 1)[1, 0],
        ),
    }


# --- learning -----------------------------------------------------------------------------------------------------


def show_learning(choice: Choice, race: Mapping[str, tuple[np.ndarray, np.ndarray]], network: Learned) -> Scene:
    """A stiff quadratic, then a network on badly scaled inputs: equal steps, and equal work."""
    rates = stiff.RATES
    rows = [
        (name, *(tiny(part.min()) for part in found), f"{int((found[0] < 1).sum())} of {len(rates)}")
        for name, found in race.items()
    ]
    count = model.parameters(network.arms["macro"])
    parts = [
        Text(
            f"First a quadratic of {stiff.NUMBERS} numbers, condition {choice.named}. A Hessian product is "
            f"charged as {PRODUCT} gradients, so {stiff.STEPS} macro steps with {choice.krylov} products have the work "
            f"of {stiff.STEPS * stiff.spent(choice.krylov)} steps of Adam. Each way has its best of {len(rates)} rates "
            f"from {rates[0]:g} to {rates[-1]:g}."
        ),
        Table(
            ("way", f"{stiff.STEPS} steps", "equal work", "rates that go down"),
            tuple(rows),
            title="Loss left of the quadratic, from 1",
        ),
        Text(
            f"Then a network: a function of {model.INPUTS} causes, seen mixed, at scales from 1 down to "
            f"{number(choice.condition**-0.5)}. {len(network.x)} networks for each way, from the same weights, each at "
            f"the best of {len(RATES)} rates; equal work is that of {network.work} gradients."
        ),
        network_table(network),
        work_plot(choice, network),
        rate_plot(network),
    ]
    numbers = {
        "network_macro": network.loss("macro"),
        "network_adam_steps": network.loss("Adam", equal_work=False),
        "network_adam": network.loss("Adam"),
        "network_sgd": network.loss("SGD"),
        "quadratic_macro": float(race["macro"][1].min()),
        "quadratic_adam": float(race["Adam"][1].min()),
        "parameters": float(count),
        "steps": float(network.steps),
    }
    return Scene("A stiff quadratic and a stiff network", parts, trained_certificates(choice, network), numbers)


def tiny(value: float) -> str:
    """One digit, down to what rounding alone leaves."""
    return f"{value:.0e}" if value > FLOOR else f"< {FLOOR:.0e}"


def network_table(network: Learned) -> Table:
    """Losses of each arm, and how many rates come near its best."""
    rows = []
    for name, arm in network.arms.items():
        cases = [network.case(name, FULL, equal) for equal in (False, True)]
        cells = (f"{np.median(e):.3f} ({e.min():.3f}-{e.max():.3f})" for e in map(arm.least, cases))
        near = int((arm.median(cases[1]) <= 2 * arm.median(cases[1]).min()).sum())
        rows.append((name, str(model.parameters(arm)), *cells, f"{near} of {len(RATES)}"))
    return Table(
        ("way", "parameters", f"{network.steps} steps", "equal work", "good rates"),
        tuple(rows),
        title="Loss of the network: median (least-most); good: within twice the best",
    )


def work_plot(choice: Choice, network: Learned) -> Plot:
    """Median loss at the best rate over the work done."""
    found = {}
    for name, arm in network.arms.items():
        case = network.case(name, FULL, True)
        losses = np.median(arm.found.losses[:, arm.best(case), case], 0)
        spent = (np.arange(len(losses)) + 1.0) * (1 + PRODUCT * choice.krylov * (name == "macro"))
        kept = np.unique(np.geomspace(1, len(losses), 60).astype(int)) - 1
        found[name] = np.stack([spent[kept], losses[kept]])
    series = {name: (pair[0], pair[1]) for name, pair in found.items()}
    text = terminal.chart(series, xlabel="work in gradients", ylabel="loss", logx=True, logy=True, height=11)
    return Plot("Loss of the network over the work done for it", text, "work", found)


def rate_plot(network: Learned) -> Plot:
    """Median loss at equal work by rate; 10 where it is more."""
    found = {name: np.minimum(arm.median(network.case(name, FULL, True)), 10.0) for name, arm in network.arms.items()}
    series = {name: (RATES, losses) for name, losses in found.items()}
    text = terminal.chart(series, xlabel="learning rate", ylabel="loss", logx=True, logy=True, height=10)
    title = "Loss of the network at equal work by learning rate (10: or more)"
    return Plot(title, text, "rates", {"rate": RATES, **found}, detail=True)


def trained_certificates(choice: Choice, network: Learned) -> list[Certificate]:
    """Of the network that macro steps trained: its last space, its last step, and its loss at w + epsilon d."""
    x, y, last = network.x[0], network.y[0], network.last
    space = {name: last[name] for name in ("w", "basis", "projected")}
    moved = last["after"] - last["w"]
    direction = moved / np.linalg.norm(moved)
    few = slice(12)
    return [
        certify(
            "nonstandard.krylov",
            f"in the network's last step {choice.krylov} Hessian products gave an orthonormal space and its matrix",
            1e-8,
            x=x,
            y=y,
            **space,
        ),
        certify(
            "nonstandard.step",
            "the network's last step is that of the flow of its quadratic model, curvature by size",
            1e-8,
            x=x,
            y=y,
            **last,
        ),
        certify(
            "nonstandard.derivatives",
            f"derivatives 0 to {choice.order} of the network's loss along that step are read off at w + εd",
            1e-8,
            w=last["w"],
            direction=direction,
            x=x[few],
            y=y[few],
            claimed=model.expansion(last["w"], direction, x[few], y[few], choice.order),
        ),
    ]


# --- limits -------------------------------------------------------------------------------------------------------


def show_limits(choice: Choice, valley: tuple[np.ndarray, np.ndarray], left: float, network: Learned) -> Scene:
    """Drawn batches, the clock, the simple method for quadratics, and a slope without curvature."""
    products = stiff.STEPS * min(choice.krylov, stiff.NUMBERS)
    simple = stiff.conjugate_gradients(*valley, products)
    time = network.rate("macro")
    jumping, plain = hill(LEAP)
    clock = tuple(network.arms[name].seconds for name in ("macro", "Adam"))
    batches = tuple(network.loss(name, DRAWN) for name in ("macro", "Adam"))
    rows = [
        (f"loss with batches of {BATCH}, equal work", *map(number, batches), "Adam"),
        ("one step of a network, µs of processor", *(number(1e6 * each) for each in clock), "Adam"),
        ("numbers kept beside each weight", str(choice.krylov), "2", "Adam"),
        (f"loss left of the quadratic, {products} products", tiny(left), tiny(simple), "conjugate gradients"),
        (f"log cosh w from {HILL:g}, |w| after 50 steps", number(jumping), number(plain), "descent, rate 1"),
    ]
    parts = [
        Text(
            f"A batch's curvature is that of its few samples: with {BATCH} of {model.SAMPLES} the best time of a step "
            f"is {number(network.rate('macro', DRAWN))} instead of {number(time)}, and the loss is "
            f"{against(batches[0], network.loss('macro'))} with all (Adam's is "
            f"{against(batches[1], network.loss('Adam'))} with all). On a quadratic conjugate gradients need neither "
            "rate nor restart. And where a loss is steep but straight, its quadratic model sees no end of the slope: "
            f"steps of time {number(LEAP)} jump across log cosh w and back."
        ),
        Table(("where it costs or loses", "macro", "simple", "which is"), tuple(rows)),
    ]
    numbers = {
        "batch_macro": batches[0],
        "batch_adam": batches[1],
        "slower": clock[0] / clock[1],
        "products": float(products),
        "left": left,
        "conjugate": simple,
        "jumping": jumping,
        "plain": plain,
    }
    return Scene("Where macro steps lose", parts, numbers=numbers)


def hill(time: float) -> tuple[float, float]:
    """Distance from the minimum of log cosh after 50 macro steps, and after 50 steps of gradient descent at rate 1."""
    w = v = HILL
    for _ in range(50):
        slope = np.tanh(w)
        w, v = w - float(checks.phi(1 - slope**2, time)) * slope, v - np.tanh(v)
    return abs(float(w)), abs(float(v))


def closing(config: DemoConfig, numbers: Mapping[str, float]) -> tuple[str, str]:
    """What was seen, from the numbers."""
    n, options = numbers, config.options
    return (
        f"In a valley of condition {options['condition']} one macro step goes where {n['slow_steps']:,.0f} steps of "
        f"order {options['order']} would, and {n['steps']:.0f} of them with {options['krylov']} Hessian products bring "
        f"a network of {n['parameters']:.0f} parameters to a loss of {number(n['network_macro'])}, "
        f"{against(n['network_macro'], n['network_adam_steps'])} as many steps of Adam and "
        f"{against(n['network_macro'], n['network_adam'])} Adam with equal work.",
        f"With batches of {BATCH} their loss is {number(n['batch_macro'])}, "
        f"{against(n['batch_macro'], n['batch_adam'])} Adam's at equal work; a step costs {number(n['slower'])} times "
        f"the processor time of Adam's, and conjugate gradients leave {tiny(n['conjugate'])} of a quadratic where as "
        f"many products leave them {tiny(n['left'])}.",
    )


def gist(_: DemoConfig, numbers: Mapping[str, float]) -> tuple[str, str]:
    """Learned and lost, for the table of all demos."""
    n = numbers
    return (
        f"stiff network: loss {number(n['network_macro'])}, Adam {number(n['network_adam'])}",
        f"small batches: loss {number(n['batch_macro'])}, Adam {number(n['batch_adam'])}",
    )


run = staged(scenes, closing, gist)
