"""Prefix products and turns: PyTorch and C++ agree with the definition, gradients by name, whatever the shape."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nanochat.counter import count
from nanochat.kernels import native
from nanochat.kernels.scan import cost, cpu, matrices, naive, operators

LANES = {"so3": 5, "u1": 3, "so4": 4, "so": 3}
SIZES = {**cost.SIZE, "so": 5}


@pytest.fixture(params=["torch", "cpp"])
def backend(request) -> str:
    if request.param == "cpp" and not cpu.available():
        pytest.skip(cpu.reason())
    return request.param


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def frame_and_heads(group: str, length: int = 19, dim: int = 17) -> tuple[Tensor, Tensor]:
    components = {"u1": 2, "so": 25}.get(group, 4)
    return normal(2, 2, length, components, LANES[group]), normal(2, 4, length, dim, seed=1)


def no_kernel(group: str, backend: str) -> None:
    if (group, backend) == ("so", "cpp"):
        pytest.skip("matrices have no C++ form")


def assert_same(fast, definition, inputs: dict[str, Tensor], tolerance: float = 1e-10) -> None:
    inputs = {name: x.clone().requires_grad_() for name, x in inputs.items()}
    got, want = fast(**inputs), definition(**inputs)
    assert (got - want).abs().max() <= tolerance
    cotangent = normal(*want.shape, seed=5)
    pulled = (torch.autograd.grad(y, list(inputs.values()), cotangent) for y in (got, want))
    for name, one, other in zip(inputs, *pulled, strict=True):
        assert (one - other).abs().max() <= tolerance, name


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 3, 2, 5), (1, 2, 7, 16), (2, 1, 33, 9), (1, 1, 100, 3)], ids=str)
def test_prefix_equals_the_definition(backend, shape):
    batch, heads, length, lanes = shape
    start = naive.normalise(normal(batch, heads, 4, lanes, seed=2))
    assert_same(
        lambda raw: operators.quaternion_prefix(raw, start, backend),
        lambda raw: naive.prefix(raw, start),
        {"raw": normal(batch, heads, length, 4, lanes)},
    )


@pytest.mark.parametrize(
    ("size", "length", "lanes"), [(2, 1, 1), (2, 5, 3), (3, 20, 2), (5, 19, 3), (8, 33, 2)], ids=str
)
def test_matrix_prefix_equals_the_definition(size, length, lanes):
    start = naive.cayley(normal(2, 3, cost.generators(size), lanes, seed=2), size).flatten(-3, -2)
    assert_same(
        lambda raw: operators.matrix_prefix(raw, size, start),
        lambda raw: naive.matrix_prefix(raw, start, size),
        {"raw": normal(2, 3, length, cost.generators(size), lanes)},
    )


def test_numbers_that_are_large_are_inverted_without_pivots():
    raw = 1e6 * normal(1, 1, 1, 28, 50)
    found = matrices.rotations(raw, 8)[0, 0, 0].permute(1, 2, 0)
    assert (found - naive.cayley(raw[0, 0, 0], 8)).abs().max() < 1e-8


@pytest.mark.parametrize("group", cost.GROUPS)
@pytest.mark.parametrize("inverse", [False, True])
def test_turn_equals_the_definition(backend, group, inverse):
    no_kernel(group, backend)
    frame, x = frame_and_heads(group)
    assert_same(
        lambda frame, x: operators.turn(frame, x, group, inverse, backend),
        lambda frame, x: naive.turn(frame, x, group, inverse),
        {"frame": frame, "x": x},
    )


def test_a_gradient_that_forgets_the_later_tokens_is_caught(backend):
    raw = normal(1, 1, 9, 4, 2)
    with pytest.raises(AssertionError, match="raw"):
        assert_same(
            lambda raw: operators.quaternion_prefix(raw, None, backend),
            lambda raw: torch.cat(
                [naive.prefix(raw[:, :, : t + 1].detach(), naive.identity(raw[:, :, 0]))[:, :, -1:] for t in range(8)]
                + [naive.prefix(raw, naive.identity(raw[:, :, 0]))[:, :, -1:]],
                2,
            ),
            {"raw": raw},
        )


@pytest.mark.parametrize("group", cost.GROUPS)
def test_a_turn_and_its_inverse_cancel_and_neutral_channels_stay(backend, group):
    no_kernel(group, backend)
    frame, x = frame_and_heads(group)
    unit = frame / frame.square().sum(-2, keepdim=True).sqrt()
    if group == "so":
        unit = naive.cayley(frame[..., :10, :], 5).flatten(-3, -2)
    turned = operators.turn(unit, x, group, backend=backend)
    moved = SIZES[group] * LANES[group] // (2 if group == "so4" else 1)
    assert (operators.turn(unit, turned, group, True, backend) - x).abs().max() < 1e-12
    assert torch.equal(turned[..., moved:], x[..., moved:])
    assert not torch.isclose(turned[..., :moved], x[..., :moved]).all()
    assert (turned.norm(dim=-1) - x.norm(dim=-1)).abs().max() < 1e-12


def test_chunks_continue_from_the_last_frame(backend):
    raw = normal(2, 2, 40, 4, 3)
    whole, last, parts = operators.quaternion_prefix(raw, None, backend), None, []
    for part in raw.split([1, 16, 3, 20], 2):
        parts.append(operators.quaternion_prefix(part, last, backend))
        last = parts[-1][:, :, -1]
    assert (torch.cat(parts, 2) - whole).abs().max() < 1e-13


def test_matrix_chunks_continue_from_the_last_frame():
    raw, last, parts = normal(2, 2, 40, 10, 3), None, []
    whole = operators.matrix_prefix(raw, 5)
    for part in raw.split([1, 16, 3, 20], 2):
        parts.append(operators.matrix_prefix(part, 5, last))
        last = parts[-1][:, :, -1]
    assert (torch.cat(parts, 2) - whole).abs().max() < 1e-13


def test_a_quaternion_without_direction_is_the_identity(backend):
    raw = normal(1, 1, 4, 4, 2)
    raw[:, :, 2] = 0
    raw.requires_grad_()
    frames = operators.quaternion_prefix(raw, None, backend)
    assert torch.equal(frames[:, :, 2], frames[:, :, 1])
    frames.square().sum().backward()
    assert raw.grad is not None and raw.grad.isfinite().all()


def test_single_precision_is_kept_and_half_is_widened(backend):
    raw, x = normal(1, 2, 65, 4, 5, dtype=torch.bfloat16), normal(1, 2, 65, 16, dtype=torch.bfloat16)
    frames = operators.quaternion_prefix(raw, None, backend)
    assert frames.dtype == torch.float32
    exact = operators.quaternion_prefix(raw.double(), None, backend)
    assert (frames - exact).abs().max() < 1e-5
    assert operators.turn(frames, x, "so3", backend=backend).dtype == torch.bfloat16


def test_matrices_stay_wide_under_autocast():
    raw = normal(1, 1, 7, 28, 2, dtype=torch.float32).requires_grad_()
    plain = operators.matrix_prefix(raw, 8)
    (wanted,) = torch.autograd.grad(plain.cos().sum(), raw)
    with torch.autocast("cpu", torch.bfloat16):
        wide = operators.matrix_prefix(raw, 8)
        (got,) = torch.autograd.grad(wide.cos().sum(), raw)
    assert torch.equal(plain, wide) and torch.equal(got, wanted)


def test_operators_pass_torchs_own_checks():
    frame, x = frame_and_heads("so3", length=5)
    raw = normal(1, 1, 5, 4, 2).requires_grad_()
    torch.library.opcheck(operators._prefix, (raw, naive.identity(raw[:, :, 0].detach()), "torch"))
    torch.library.opcheck(
        operators._matrix_prefix, (normal(1, 1, 5, 3, 2).requires_grad_(), naive.matrix_identity(normal(1, 1, 9, 2)))
    )
    torch.library.opcheck(operators._turn, (frame.requires_grad_(), x.requires_grad_(), "so3", False, "torch"))


def test_charges_are_those_of_the_definition():
    a, b = normal(7, 4, 3), normal(7, 4, 3, seed=1)
    assert count(naive.product, a, b).elementwise == cost.PRODUCT * 7 * 3
    frame, x = frame_and_heads("u1")
    assert count(naive.turn, frame, x, "u1").elementwise == cost.turn_forward(2 * 4 * 19 * 3, "u1")
    assert count(operators.turn, frame, x, "u1").elementwise == cost.turn_forward(2 * 4 * 19 * 3, "u1")
    frame, x = frame_and_heads("so4")
    signs = 3 * 4 * (2 * 2 * 19)  # the definition negates the right quaternion, the charge folds that into the sums
    extra = count(naive.turn, frame, x, "so4").elementwise - cost.turn_forward(2 * 4 * 19 * 2, "so4")
    assert 0 <= extra <= signs
    frame, x = frame_and_heads("so")
    assert count(naive.turn, frame, x, "so").elementwise == pytest.approx(
        cost.turn_forward(2 * 4 * 19 * 3, "so", 5),
        rel=0.12,  # a sum is counted with one addition too many
    )
    square = normal(5, 5)
    assert count(torch.mm, square, square).matmul == pytest.approx(cost.matrix_product(5), rel=0.12)
    raw = normal(2, 2, 19, 10, 3)
    counted = count(operators.matrix_prefix, raw, 5).elementwise
    assert counted == pytest.approx(cost.matrix_prefix_forward(2 * 2 * 19 * 3, 5))
    raw = normal(2, 2, 19, 4, 5)
    assert count(operators.quaternion_prefix, raw).elementwise == cost.prefix_forward(2 * 2 * 19 * 5)


def test_without_a_compiler_pytorch_takes_over(monkeypatch, tmp_path):
    monkeypatch.setattr(native.cpp_extension, "get_default_build_root", lambda: str(tmp_path))
    monkeypatch.setattr(native.cpp_extension, "get_cxx_compiler", lambda: "no-such-compiler")
    cpu.KERNEL.forget()
    try:
        raw = normal(1, 1, 6, 4, 2)
        assert torch.equal(operators.quaternion_prefix(raw), operators.quaternion_prefix(raw, None, "torch"))
        with pytest.raises(native.KernelUnavailable, match="no-such-compiler"):
            operators.quaternion_prefix(raw, None, "cpp")
    finally:
        cpu.KERNEL.forget()


@pytest.mark.parametrize(
    "call",
    [
        lambda: operators.quaternion_prefix(normal(1, 1, 3, 3, 2)),
        lambda: operators.quaternion_prefix(normal(1, 1, 0, 4, 2)),
        lambda: operators.quaternion_prefix(normal(1, 1, 3, 4, 2), normal(1, 1, 4, 3)),
        lambda: operators.quaternion_prefix(normal(1, 1, 3, 4, 2), normal(1, 1, 4, 2).requires_grad_()),
        lambda: operators.quaternion_prefix(normal(1, 1, 3, 4, 2), backend="numba"),
        lambda: operators.matrix_prefix(normal(1, 1, 3, 4, 2), 3),
        lambda: operators.matrix_prefix(normal(1, 1, 0, 3, 2), 3),
        lambda: operators.matrix_prefix(normal(1, 1, 3, 3, 2), 3, normal(1, 1, 4, 2)),
        lambda: operators.matrix_prefix(normal(1, 1, 3, 3, 2), 3, normal(1, 1, 9, 2).requires_grad_()),
        lambda: operators.turn(normal(1, 1, 3, 9, 2), normal(1, 1, 3, 8), "so", backend="cpp"),
        lambda: operators.turn(normal(1, 1, 3, 8, 2), normal(1, 1, 3, 8), "so"),
        lambda: operators.turn(normal(1, 1, 3, 4, 2), normal(1, 1, 3, 8), "su2"),
        lambda: operators.turn(normal(1, 1, 3, 4, 3), normal(1, 1, 3, 8), "so3"),
        lambda: operators.turn(normal(1, 2, 3, 4, 2), normal(1, 3, 3, 8), "so3"),
        lambda: operators.turn(normal(1, 1, 4, 4, 2), normal(1, 1, 3, 8), "so3"),
    ],
)
def test_what_does_not_fit_is_refused(call):
    with pytest.raises(ValueError, match="got .* need "):
        call()
