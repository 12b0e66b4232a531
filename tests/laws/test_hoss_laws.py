"""What a macro step is: the gradient flow of a quadratic, exactly; its noise; the absolute value of an indefinite H."""

from __future__ import annotations

import gc
import math

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor, nn

from nanochat.curvature import Curvature
from nanochat.optim._krylov import Space, act, lanczos, phi
from nanochat.optim.hoss import MacroStep

WIDE = torch.float64


def symmetric(eigenvalues: Tensor, seed: int = 0) -> Tensor:
    """A matrix with these eigenvalues and random eigenvectors."""
    generator = torch.Generator().manual_seed(seed)
    turned, _ = torch.linalg.qr(torch.randn(len(eigenvalues), len(eigenvalues), generator=generator, dtype=WIDE))
    return turned * eigenvalues.to(WIDE) @ turned.mT


def normal(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=WIDE)


class Quadratic(nn.Module):
    """w H w / 2 - b w over parameters of any shapes; a scalar and a vector among them."""

    def __init__(self, matrix: Tensor, linear: Tensor, shapes: tuple[tuple[int, ...], ...]):
        super().__init__()
        self.matrix, self.linear = matrix, linear
        drawn = normal(len(linear), seed=2).split([math.prod(shape) for shape in shapes])
        self.parts = nn.ParameterList(nn.Parameter(part.reshape(s)) for part, s in zip(drawn, shapes, strict=True))

    def flat(self) -> Tensor:
        return torch.cat([part.flatten() for part in self.parts])

    def forward(self) -> Tensor:
        w = self.flat()
        return w @ self.matrix @ w / 2 - self.linear @ w


SHAPES = ((), (5,), (2, 3))


def quadratic(eigenvalues: Tensor) -> Quadratic:
    assert len(eigenvalues) == sum(math.prod(shape) for shape in SHAPES)
    return Quadratic(symmetric(eigenvalues), normal(len(eigenvalues)), SHAPES)


def take(model: nn.Module, optimizer: MacroStep) -> None:
    optimizer.zero_grad()
    model().backward()
    optimizer.step(lambda: Curvature(model, optimizer.parameters))


def flowed(model: Quadratic, time: float) -> Tensor:
    """Where the gradient flow is after a time: w* + exp(-t H) (w - w*), by scipy's matrix exponential."""
    rest = torch.linalg.solve(model.matrix, model.linear)
    decay = torch.from_numpy(scipy.linalg.expm(-time * model.matrix.numpy()))
    return rest + decay @ (model.flat().detach() - rest)


# --- phi ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("time", [1e-6, 0.1, 1.0, 30.0])
def test_phi_is_the_corner_of_a_matrix_exponential(time):
    """exp(t [[-H, 1], [0, 0]]) has phi_t(H) in its upper right corner."""
    values = torch.tensor([0.0, 1e-14, 1e-6, 0.3, 2.0, 50.0], dtype=WIDE)
    matrix = symmetric(values).numpy()
    n = len(matrix)
    block = np.block([[-matrix, np.eye(n)], [np.zeros((n, 2 * n))]])
    corner = scipy.linalg.expm(time * block)[:n, n:]
    eigenvalues, vectors = torch.linalg.eigh(torch.from_numpy(matrix))
    ours = vectors * phi(eigenvalues, time) @ vectors.mT
    assert (ours - torch.from_numpy(corner)).abs().max() < 1e-10 * max(1.0, time)


def test_phi_is_between_the_step_and_the_newton_step():
    values = torch.logspace(-12, 12, 200, dtype=WIDE)
    for time in (1e-5, 1.0, 1e5):
        found = phi(values, time)
        assert (found > 0).all() and (found <= min(time, math.inf)).all() and (found * values <= 1).all()
        assert (found.diff() <= 0).all()
    assert phi(torch.zeros(1, dtype=WIDE), 0.7) == 0.7


# --- Krylov spaces -----------------------------------------------------------------------------------------------


def test_a_full_krylov_space_is_everything():
    matrix = symmetric(torch.linspace(-2.3, 9, 12))
    space = lanczos(lambda v: matrix @ v, normal(12), 12)
    assert (space.basis @ space.basis.mT - torch.eye(12, dtype=WIDE)).abs().max() < 1e-12
    assert (space.basis @ matrix @ space.basis.mT - space.projected).abs().max() < 1e-10
    for function, reference in ((torch.exp, scipy.linalg.expm), (torch.sqrt, scipy.linalg.sqrtm)):
        size = torch.from_numpy(np.real(scipy.linalg.sqrtm((matrix @ matrix).numpy())))  # |H|
        want = torch.from_numpy(np.real(reference(size.numpy()))) @ normal(12, seed=3)
        assert (act(space, function, normal(12, seed=3)) - want).abs().max() < 1e-7 * want.abs().max()


def test_directions_stay_orthogonal_where_the_three_term_recurrence_loses_them():
    matrix = symmetric(torch.cat([torch.linspace(0, 1, 60), torch.tensor([1e3, 1e6])]))
    space = lanczos(lambda v: matrix @ v, normal(62), 40)
    assert (space.basis @ space.basis.mT - torch.eye(40, dtype=WIDE)).abs().max() < 1e-12

    basis, before, coupling = [normal(62) / normal(62).norm()], torch.zeros(62, dtype=WIDE), 0.0
    for _ in range(39):  # the same without making orthogonal again
        image = matrix @ basis[-1] - coupling * before
        image -= (image @ basis[-1]) * basis[-1]
        before, coupling = basis[-1], float(image.norm())
        basis.append(image / coupling)
    plain = torch.stack(basis)
    assert (plain @ plain.mT - torch.eye(40, dtype=WIDE)).abs().max() > 0.5


def test_an_invariant_space_ends_early_and_is_exact():
    values = torch.tensor([1.0] * 5 + [4.0] * 4 + [-3.0] * 3)
    matrix = symmetric(values)
    products = []

    def product(vector: Tensor) -> Tensor:
        products.append(1)
        return matrix @ vector

    space = lanczos(product, normal(12), 12)
    assert len(space.basis) == len(products) == 3  # as many as there are different eigenvalues
    assert (torch.linalg.eigvalsh(space.projected) - torch.tensor([-3.0, 1.0, 4.0])).abs().max() < 1e-12


def test_what_lies_outside_is_taken_for_the_stiffest():
    space = Space(torch.eye(4, dtype=WIDE)[:2], torch.diag(torch.tensor([-5.0, 2.0], dtype=WIDE)))
    vector = torch.ones(4, dtype=WIDE)
    assert torch.allclose(act(space, lambda h: phi(h, 3.0), vector), phi(torch.tensor([5.0, 2, 5, 5]).double(), 3.0))


# --- the step ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("time", [1e-3, 0.3, 100.0])
def test_a_macro_step_is_the_exact_gradient_flow_of_a_quadratic(time):
    model = quadratic(torch.logspace(-3, 3, 12))
    for _ in range(3):
        want = flowed(model, time)
        take(model, MacroStep(model.parameters(), time, krylov=12))
        assert (model.flat() - want).abs().max() < 1e-8 * want.abs().max()


def test_an_euler_step_is_not():
    model = quadratic(torch.linspace(0.5, 3, 12))
    want = flowed(model, 0.3)
    euler = model.flat() - 0.3 * (model.matrix @ model.flat() - model.linear)
    take(model, MacroStep(model.parameters(), 0.3, krylov=12))
    assert (model.flat() - want).abs().max() < 1e-10
    assert (euler - want).abs().max() > 1e-2


def test_small_times_are_gradient_descent_and_large_ones_newton():
    model = quadratic(torch.linspace(0.5, 3, 12))
    before, gradient = model.flat().detach(), model.matrix @ model.flat().detach() - model.linear
    take(model, MacroStep(model.parameters(), 1e-7, krylov=12))
    assert torch.allclose((model.flat() - before) / 1e-7, -gradient, rtol=1e-4)
    take(model, MacroStep(model.parameters(), 1e7, krylov=12))
    assert (model.flat() - torch.linalg.solve(model.matrix, model.linear)).abs().max() < 1e-6


@pytest.mark.parametrize("krylov", [1, 3, 6])
def test_no_step_in_a_small_space_goes_uphill_on_a_convex_quadratic(krylov):
    """Whatever the time, for the space holds the gradient: the loss of the model on it only falls."""
    for time in (1e-4, 1.0, 1e4):
        model = quadratic(torch.logspace(-4, 4, 12))
        losses = [model().item()]
        optimizer = MacroStep(model.parameters(), time, krylov=krylov)
        for _ in range(20):
            take(model, optimizer)
            losses.append(model().item())
        assert all(after <= before + 1e-12 for before, after in zip(losses, losses[1:], strict=False))


def test_rates_of_groups_are_a_change_of_coordinates():
    """With ratios D the flow is w' = -D (H w - b), solved exactly too."""
    model = quadratic(torch.linspace(0.1, 4, 12))
    groups = [{"params": [part], "lr": rate} for part, rate in zip(model.parts, (0.2, 0.6, 0.05), strict=True)]
    ratios = torch.cat(
        [torch.full((part.numel(),), rate / 0.2) for part, rate in zip(model.parts, (0.2, 0.6, 0.05), strict=True)]
    )
    rest = torch.linalg.solve(model.matrix, model.linear)
    decay = torch.from_numpy(scipy.linalg.expm(-0.2 * (ratios[:, None] * model.matrix).numpy()))
    want = rest + decay @ (model.flat().detach() - rest)
    take(model, MacroStep(groups, krylov=12))
    assert (model.flat() - want).abs().max() < 1e-9


def test_a_space_per_group_sees_its_block_of_the_hessian_only():
    model = quadratic(torch.linspace(0.1, 4, 12))
    before, gradient = model.flat().detach(), model.matrix @ model.flat().detach() - model.linear
    take(model, MacroStep([{"params": [part]} for part in model.parts], 0.7, krylov=12, by_group=True))
    start = 0
    for part in model.parts:
        rows = slice(start, start + part.numel())
        values, vectors = torch.linalg.eigh(model.matrix[rows, rows])
        want = before[rows] - vectors @ (phi(values, 0.7) * (vectors.mT @ gradient[rows]))
        assert (part.flatten() - want).abs().max() < 1e-10
        start = rows.stop


def test_a_long_step_is_cut_after_phi_and_keeps_its_direction():
    """A stiff direction does not use up what the flat ones need, as it would if the gradient were clipped before."""
    model = quadratic(torch.cat([torch.linspace(0.01, 0.02, 11), torch.tensor([1e4])]))
    before, want = model.flat().detach(), flowed(model, 2.0)
    take(model, MacroStep(model.parameters(), 2.0, krylov=12, limit=0.05))
    moved, free = model.flat().detach() - before, want - before
    assert float(moved.norm()) == pytest.approx(0.1, rel=1e-9)
    assert float(torch.cosine_similarity(moved, free, dim=0)) == pytest.approx(1, abs=1e-9)
    gradient = model.matrix @ before - model.linear
    clipped = gradient * min(1.0, 0.05 / float(gradient.norm()))
    assert float((2.0 * clipped).norm()) == pytest.approx(0.1) and torch.cosine_similarity(-clipped, free, dim=0) < 0.9


# --- indefinite --------------------------------------------------------------------------------------------------


def test_a_saddle_is_left_at_the_rate_of_its_mirror_image():
    model = quadratic(torch.cat([torch.linspace(0.5, 3, 8), torch.tensor([-0.2, -1.0, -5.0, -40.0])]))
    saddle = torch.linalg.solve(model.matrix, model.linear)
    values, vectors = torch.linalg.eigh(model.matrix)
    before = vectors.mT @ (model.flat().detach() - saddle)
    take(model, MacroStep(model.parameters(), 0.8, krylov=12))
    after = vectors.mT @ (model.flat().detach() - saddle)
    share = 1 - torch.exp(-0.8 * values.abs())
    assert (after - before * (1 - values.sign() * share)).abs().max() < 1e-9
    exact = vectors.mT @ (flowed(model, 0.8) - saddle)  # the flow itself runs away: e^{32} along the steepest
    assert (after[values < 0].abs() <= 2 * before[values < 0].abs() + 1e-9).all()
    assert (exact - after).abs().max() > 1e6


def test_covariance_is_taken_of_the_absolute_value_too():
    values = torch.tensor([3.0, -2.0, 0.5, -0.01], dtype=WIDE)
    space = lanczos(lambda v: values * v, torch.ones(4, dtype=WIDE), 4)
    rows = [act(space, lambda h: (0.3 * phi(h, 2 * 0.7)).sqrt(), row) for row in torch.eye(4, dtype=WIDE)]
    factor = torch.stack(rows)
    want = 0.3 * phi(values.abs(), 1.4)
    assert (factor @ factor.mT - torch.diag(want)).abs().max() < 1e-12
    assert not torch.allclose(want, 0.3 * phi(values, 1.4), rtol=0.1)


# --- noise -------------------------------------------------------------------------------------------------------


def test_noise_has_the_covariance_of_the_flow_and_its_stationary_one():
    """Lyapunov: C = e^{-tH} C e^{-tH} + S is solved by tau H^-1, and S is the integral that scipy's solution gives."""
    matrix, time, tau = symmetric(torch.tensor([0.2, 0.5, 1.0, 3.0, 8.0])), 0.6, 0.05
    space = lanczos(lambda v: matrix @ v, normal(5), 5)
    factor = torch.stack(
        [act(space, lambda h: (tau * phi(h, 2 * time)).sqrt(), row) for row in torch.eye(5, dtype=WIDE)]
    )
    noise = factor @ factor.mT
    decay = scipy.linalg.expm(-time * matrix.numpy())
    stationary = scipy.linalg.solve_continuous_lyapunov(matrix.numpy(), 2 * tau * np.eye(5))
    assert np.abs(stationary - decay @ stationary @ decay.T - noise.numpy()).max() < 1e-12
    assert np.abs(scipy.linalg.solve_discrete_lyapunov(decay, noise.numpy()) - stationary).max() < 1e-10
    plain = 2 * tau * time * np.eye(5)  # the noise of an Euler step: another stationary covariance
    assert (
        np.abs(scipy.linalg.solve_discrete_lyapunov(np.eye(5) - time / 5 * matrix.numpy(), plain) - stationary).max()
        > 0.01
    )


def test_a_long_trajectory_has_the_stationary_covariance():
    """1000 steps of the optimizer itself, each of which forgets nearly everything, at a fixed seed."""
    model = Quadratic(symmetric(torch.tensor([1.0, 2.0, 5.0, 9.0])), torch.zeros(4, dtype=WIDE), ((4,),))
    tau = 0.1
    optimizer = MacroStep(model.parameters(), 1.0, krylov=4, refresh=1000, temperature=tau, noise_seed=3)
    seen = []
    for _ in range(1000):
        take(model, optimizer)
        seen.append(model.flat().detach().clone())
    found = torch.stack(seen[20:])
    covariance = found.mT @ found / len(found)
    want = torch.from_numpy(scipy.linalg.solve_continuous_lyapunov(model.matrix.numpy(), 2 * tau * np.eye(4)))
    assert (covariance - want).norm() < 0.15 * want.norm()
    assert (covariance - 2 * want).norm() > 0.5 * want.norm()


def test_noise_depends_on_seed_and_step_alone():
    def ends(seed: int, skip: bool) -> Tensor:
        model = quadratic(torch.linspace(0.5, 3, 12))
        optimizer = MacroStep(model.parameters(), 0.3, krylov=12, temperature=0.1, noise_seed=seed)
        for step in range(4):
            if skip and step == 2:
                torch.randn(100)
                state = optimizer.state_dict()
                optimizer = MacroStep(model.parameters(), 0.3, krylov=12, temperature=0.1, noise_seed=seed)
                optimizer.load_state_dict(state)
            take(model, optimizer)
        return model.flat().detach()

    assert torch.equal(ends(0, False), ends(0, True))
    assert not torch.allclose(ends(0, False), ends(1, False))


# --- when curvature is old ---------------------------------------------------------------------------------------


def test_curvature_is_looked_at_when_it_is_due():
    model = quadratic(torch.linspace(0.5, 3, 12))
    optimizer = MacroStep(model.parameters(), 0.1, krylov=3, refresh=4)
    looks = []

    def look() -> Curvature:
        looks.append(optimizer.param_groups[0]["taken"])
        return Curvature(model, optimizer.parameters)

    for _ in range(10):
        optimizer.zero_grad()
        model().backward()
        optimizer.step(look)
    assert looks == [0, 4, 8]
    optimizer.state.clear()  # what a schedule that restarts does
    optimizer.step(look)
    assert looks == [0, 4, 8, 10]


def test_old_curvature_of_a_quadratic_is_as_good_as_new():
    """Its Hessian does not change, and a full space keeps all of it."""
    fresh, kept = quadratic(torch.linspace(0.5, 3, 12)), quadratic(torch.linspace(0.5, 3, 12))
    steppers = [(fresh, MacroStep(fresh.parameters(), 0.4, krylov=12))]
    steppers += [(kept, MacroStep(kept.parameters(), 0.4, krylov=12, refresh=100))]
    for _ in range(5):
        for model, optimizer in steppers:
            take(model, optimizer)
    assert (fresh.flat() - kept.flat()).abs().max() < 1e-8


def test_a_due_look_without_a_closure_and_foreign_parameters_are_refused():
    model = quadratic(torch.linspace(0.5, 3, 12))
    optimizer = MacroStep(model.parameters())
    model().backward()
    with pytest.raises(ValueError, match="hoss: got no closure in a step in which curvature is due"):
        optimizer.step()
    with pytest.raises(ValueError, match="hoss: got the curvature of other parameters"):
        optimizer.step(lambda: Curvature(model, list(model.parameters())[:2]))


def test_curvature_that_is_not_finite_moves_nothing():
    w = nn.Parameter(torch.ones(3))
    optimizer = MacroStep([w])
    w.grad = torch.ones(3)
    optimizer.step(lambda: Curvature(lambda: (w * float("inf") * w).sum(), [w]))
    assert torch.equal(w.detach(), torch.ones(3))


def living() -> int:
    """Tensors that there are."""
    return sum(issubclass(type(each), Tensor) for each in gc.get_objects())


def test_no_graph_outlives_its_step():
    model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 1))
    x = torch.randn(32, 6, generator=torch.Generator().manual_seed(0))
    optimizer = MacroStep(model.parameters(), 0.1, krylov=4, refresh=2)
    gc.collect()
    gc.disable()
    try:
        counts = []
        for step in range(9):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step(lambda: Curvature(lambda: model(x).square().mean(), optimizer.parameters))
            counts += [living()] if step % 4 == 0 else []
    finally:
        gc.enable()
    assert counts[1] == counts[2]


def test_a_graph_that_is_kept_shows():
    model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 1))
    kept, counts = [], []
    for _ in range(3):
        kept.append(Curvature(lambda: model(torch.ones(4, 6)).square().mean(), list(model.parameters())))
        counts.append(living())
    assert counts[2] > counts[1] > counts[0]


# --- stiffness ---------------------------------------------------------------------------------------------------

RATES = [10.0**power for power in range(7)]


def reached(make, steps: int = 50) -> list[float]:
    """Loss above the minimum after so many steps, over that at the start, for each rate of six decades."""
    found = []
    for rate in RATES:
        model = quadratic(torch.logspace(-3, 3, 12))  # condition 1e6
        best = -0.5 * model.linear @ torch.linalg.solve(model.matrix, model.linear)
        start = model().item() - best
        optimizer = make(model, rate)
        for _ in range(steps):
            if isinstance(optimizer, MacroStep):
                take(model, optimizer)
            else:
                optimizer.zero_grad()
                model().backward()
                optimizer.step()
        found.append(float((model().item() - best) / start))
    return found


def test_six_decades_of_rates_are_stable_on_a_stiff_problem_where_descent_knows_none():
    ours = reached(lambda model, rate: MacroStep(model.parameters(), rate, krylov=12, refresh=100))
    assert all(math.isfinite(each) and each <= 1 for each in ours)
    assert all(later <= sooner + 1e-12 for sooner, later in zip(ours, ours[1:], strict=False))
    assert sum(each < 1e-6 for each in ours) >= 4
    descent = reached(lambda model, rate: torch.optim.SGD(model.parameters(), rate))
    assert all(not each <= 1 for each in descent)
