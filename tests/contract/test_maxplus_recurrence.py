"""The linear-time max-plus kernel equals the quadratic one: outputs, winners, every gradient, from any state on."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nanochat.counter import Counter
from nanochat.kernels.maxplus import cost, cpu, maslov, naive, operators, recurrent


@pytest.fixture(params=["torch", "cpp"])
def backend(request) -> str:
    if request.param == "cpp" and not cpu.available():
        pytest.skip(cpu.reason())
    return request.param


SHAPES = [
    # batch, heads, key/value heads, tokens, channels
    (1, 1, 1, 1, 2),
    (2, 2, 2, 7, 3),
    (1, 4, 2, 65, 16),
    (2, 6, 2, 40, 33),
    (1, 3, 1, 200, 8),
    (1, 2, 2, 33, 70),
]


def heads(shape, dtype=torch.float64, ties: bool = False) -> list[Tensor]:
    batch, heads, kv_heads, length, dim = shape
    generator = torch.Generator().manual_seed(sum(shape))
    sizes = [(batch, count, length, dim) for count in (heads, kv_heads, kv_heads)]
    tensors = [torch.randn(size, generator=generator, dtype=torch.float64).to(dtype) for size in sizes]
    return [(x.round() if ties else x).requires_grad_() for x in tensors]


def cotangent(y: Tensor, seed: int = 1) -> Tensor:
    return torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(seed))


def assert_same_gradients(y: Tensor, expected: Tensor, inputs: list[Tensor], tolerance: float = 1e-10) -> None:
    pulled = (torch.autograd.grad(each, inputs, cotangent(y)) for each in (y, expected))
    for name, one, other in zip("qkv", *pulled, strict=True):
        assert (one - other).abs().max() <= tolerance, f"d{name}"


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_it_equals_the_quadratic_form(shape, ties, backend):
    q, k, v = heads(shape, ties=ties)
    y, winners, last = recurrent.recurrence_with_winners(q, k, v, None, backend)
    expected, tokens = operators.attention_with_winners(q, k, v, "maxplus", "torch")
    assert torch.equal(y, expected) if ties else (y - expected).abs().max() <= 1e-14
    assert torch.equal(winners // shape[-1], tokens)
    assert_same_gradients(y, expected, [q, k, v])
    assert torch.equal(last, (k.unsqueeze(-1) + v.unsqueeze(-2)).amax(2))
    with torch.no_grad():
        bare, empty, same = recurrent.recurrence_with_winners(q, k, v, None, backend, track=False)
    assert torch.equal(bare, y) and torch.equal(same, last) and empty.numel() == 0


def test_a_tie_rule_that_takes_the_last_of_equals_is_caught():
    """Two equal tokens: the gradient belongs to the first."""
    q, k, v = (torch.zeros(1, 1, 2, 2, dtype=torch.float64, requires_grad=True) for _ in range(3))
    y, again = (recurrent.recurrence(q, k, v)[0] for _ in range(2))
    assert_same_gradients(y, again, [q, k, v])
    y, again = (recurrent.recurrence(q, k, v)[0] for _ in range(2))
    seen = (k.unsqueeze(-1) + v.unsqueeze(-2)).flip(2)  # the definition, its tokens taken from the end
    wrong = torch.stack([again[:, :, 0], (q[:, :, 1, :, None] + seen.max(2).values).max(-2).values], 2)
    assert torch.equal(wrong, y)
    with pytest.raises(AssertionError, match="dk"):
        assert_same_gradients(y, wrong, [q, k, v])


def test_a_state_in_the_middle_changes_nothing_and_takes_no_gradient(backend):
    q, k, v = heads((2, 4, 2, 40, 8))
    whole, _, last = recurrent.recurrence_with_winners(q, k, v, None, backend)
    state, parts = None, []
    for low, high in ((0, 1), (1, 17), (17, 20), (20, 40)):
        part, winners, state = recurrent.recurrence_with_winners(
            *(x[:, :, low:high] for x in (q, k, v)), state, backend
        )
        parts.append(part)
        assert (winners < 0).any() == (low > 0)
    assert torch.equal(torch.cat(parts, 2), whole)
    assert state is not None and torch.equal(state, last)
    assert not torch.equal(recurrent.recurrence(q[:, :, 20:], k[:, :, 20:], v[:, :, 20:])[0], parts[-1]), "a lost state"
    _, of_k, _ = torch.autograd.grad(parts[-1].sum(), [q, k, v])
    assert not of_k[:, :, :20].any() and of_k[:, :, 20:].any()


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_nan_is_not_lost(which, backend):
    tensors = [x.detach() for x in heads((1, 2, 2, 70, 8), torch.float32)]
    tensors[which][0, 0, 40, 3] = torch.nan
    y, last = recurrent.recurrence(*tensors, None, backend)
    assert torch.equal(y.isnan(), operators.attention(*tensors, "maxplus", "torch").isnan())
    later, _ = recurrent.recurrence(*(torch.zeros(1, 2, 1, 8) for _ in range(3)), last, backend)
    assert later[0, 0].isnan().any() == (which > 0) and not later[0, 1].isnan().any()


def test_bf16_is_computed_in_fp32(backend):
    q, k, v = (x.detach() for x in heads((1, 4, 2, 33, 16), torch.bfloat16))
    y, last = recurrent.recurrence(q, k, v, None, backend)
    wide, _ = recurrent.recurrence(q.float(), k.float(), v.float(), None, backend)
    assert y.dtype == torch.bfloat16 and last.dtype == torch.float32 and torch.equal(y, wide.bfloat16())


def test_saved_bytes_are_the_winners_alone(backend):
    def saved(length: int) -> int:
        q, k, v = heads((1, 2, 2, length, 8), torch.float32)
        seen: dict[int, int] = {}

        def pack(x: Tensor) -> Tensor:
            seen[x.data_ptr()] = x.untyped_storage().nbytes()
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            recurrent.recurrence(q, k, v, None, backend)
        return sum(seen.values())

    assert [saved(length) for length in (16, 64, 256)] == [2 * length * 8 * 4 for length in (16, 64, 256)]


def test_second_derivatives_are_those_of_a_piecewise_linear_map(backend):
    q, k, v = heads((1, 2, 1, 9, 4))
    start = torch.randn(1, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def function(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return recurrent.recurrence(q, k, v, start, backend)[0] ** 3

    assert torch.autograd.gradcheck(function, (q, k, v))
    assert torch.autograd.gradgradcheck(function, (q, k, v))


def test_operators_pass_torchs_own_checks(backend):
    q, k, v = heads((1, 2, 1, 5, 4))
    start = torch.zeros(1, 1, 4, 4, dtype=torch.float64)
    torch.library.opcheck(recurrent._recurrence, (q, k, v, start, True, backend))
    torch.library.opcheck(maslov._attention, (q, k, v, "hilbert"))
    torch.library.opcheck(maslov._recurrence, (*(x.detach() for x in (q, k, v)), start))


def test_charges_are_those_of_the_definition():
    """Adding and maximising a D x D state and reading it, as the plain formulas count."""
    q, k, v = heads((2, 4, 2, 9, 4))
    with Counter() as plain:
        for t in range(9):
            path = k[:, :, t, :, None] + v[:, :, t, None]
            memory = path.maximum(path)
            (q[:, :, t].unflatten(1, (2, 2))[..., None] + memory[:, :, None]).amax(-2)
    with Counter() as counter:
        y, _ = recurrent.recurrence(q, k, v)
    assert counter.operations.semiring == plain.operations.elementwise == 2 * cost.recurrence_forward(4, 2, 9, 4)
    with Counter() as counter:
        torch.autograd.grad(y.sum(), q)
    assert counter.operations.semiring == 2 * cost.recurrence_backward(4, 9, 4)


@pytest.mark.parametrize(
    "call",
    [
        lambda x: recurrent.recurrence(x, x[:, :, :2], x),
        lambda x: recurrent.recurrence(x, x[:, :1].expand(1, 3, 3, 4), x[:, :1].expand(1, 3, 3, 4)),
        lambda x: recurrent.recurrence(x, x, x, torch.zeros(1, 2, 4, 3)),
        lambda x: recurrent.recurrence(x, x, x, torch.zeros(1, 2, 4, 4, requires_grad=True)),
        lambda x: recurrent.recurrence(x, x, x, backend="numba"),
        lambda x: recurrent.recurrence(x[:, :, :0], x[:, :, :0], x[:, :, :0]),
        lambda x: recurrent.recurrence(*[x[:1, :1, :1].expand(1, 1, 2**29, 4)] * 3),
    ],
)
def test_what_does_not_fit_is_refused(call):
    with pytest.raises(ValueError, match="got .* need "):
        call(torch.zeros(1, 2, 3, 4))


MASLOV = [(1, 1, 1, 1, 2), (2, 2, 2, 7, 3), (1, 4, 2, 65, 16), (1, 3, 1, 130, 5)]


@pytest.mark.parametrize("beta", [0.5, 40.0])
@pytest.mark.parametrize("score", ["hilbert", "maxplus"])
@pytest.mark.parametrize("shape", MASLOV, ids=str)
def test_finite_beta_equals_the_definition(shape, score, beta):
    q, k, v = heads(shape)
    queries = q[:, :, shape[3] // 3 :]  # the last of the positions, as when a cache continues a sequence
    y, expected = maslov.attention(queries, k, v, score, beta), naive.attention(queries, k, v, score, beta)
    assert (y - expected).abs().max() <= 1e-10
    assert_same_gradients(y, expected, [q, k, v])
    if score == "maxplus":
        linear, _ = maslov.recurrence(q, k, v, recurrent.empty_state(k), beta)
        assert (linear[:, :, shape[3] // 3 :] - expected).abs().max() <= 1e-10


@pytest.mark.parametrize("score", ["hilbert", "maxplus"])
def test_finite_beta_in_single_precision_is_as_near_where_exponentials_would_overflow(score):
    """Positions and beta make exponents of a thousand; only their differences are exponentiated."""
    q, k, v = (x.detach() for x in heads((1, 2, 2, 70, 8)))
    q, k = q + 30 * torch.arange(70.0)[:, None], k + 30 * torch.arange(70.0)[:, None]
    exact = maslov.attention(q, k, v, score, 50.0)
    single = maslov.attention(q.float(), k.float(), v.float(), score, 50.0)
    assert single.isfinite().all() and (single - exact).abs().max() < 2e-3 * max(1.0, exact.abs().max() / 1000)
    assert not (50 * k.float()).exp().isfinite().all()


@pytest.mark.parametrize("score", ["hilbert", "maxplus"])
def test_finite_beta_is_charged_by_its_formula(score):
    q, k, v = heads((2, 4, 2, 9, 4))
    with Counter() as forward:
        y = maslov.attention(q, k, v, score, 2.0)
    scaled = q.numel() + k.numel() + v.numel() + y.numel()
    assert forward.operations.elementwise == cost.maslov_forward(8, 9, 9, 4, score) + scaled
    rows, columns = q[:, :, -1:, None].detach(), k.repeat_interleave(2, 1)[:, :, None].detach()
    with Counter() as definition:
        if score == "hilbert":
            difference = rows - columns
            scores = -difference.logsumexp(-1) - (-difference).logsumexp(-1)
        else:
            scores = (rows + columns).logsumexp(-1)
        last = (scores[..., None] + v.repeat_interleave(2, 1)[:, :, None]).logsumexp(3)
    assert (last - naive.attention(q, k, v, score, 1.0)[:, :, -1:]).abs().max() < 1e-12
    assert definition.operations.elementwise == cost.maslov_forward(8, 1, 9, 4, score)
