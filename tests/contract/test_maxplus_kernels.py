"""The fast max-plus kernels equal the definition: outputs, winners and every gradient by name."""

from __future__ import annotations

import itertools

import pytest
import torch

from nanochat.kernels.maxplus import cpu, naive, operators


@pytest.fixture(params=["torch", "cpp"])
def backend(request) -> str:
    """Both kernels; the C++ one is built by the first test that asks for it."""
    if request.param == "cpp" and not cpu.available():
        pytest.skip(cpu.reason())
    return request.param


SHAPES = [
    # batch, heads, key/value heads, queries, keys, channels
    (1, 1, 1, 1, 1, 2),
    (2, 2, 2, 7, 7, 3),
    (1, 4, 2, 65, 65, 16),
    (2, 6, 2, 5, 131, 33),
    (1, 3, 1, 1, 200, 8),
    (1, 2, 2, 130, 130, 70),
]


def inputs(shape, dtype=torch.float64, ties: bool = False):
    batch, heads, kv_heads, queries, keys, dim = shape
    generator = torch.Generator().manual_seed(sum(shape))
    sizes = ((batch, heads, queries, dim), (batch, kv_heads, keys, dim), (batch, kv_heads, keys, dim))
    tensors = [torch.randn(size, generator=generator, dtype=dtype) for size in sizes]
    if ties:
        tensors = [x.round() for x in tensors]
    return [x.requires_grad_() for x in tensors]


@pytest.mark.parametrize("score", ["hilbert", "maxplus"])
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_attention_equals_the_definition(shape, ties, score, backend):
    q, k, v = inputs(shape, ties=ties)
    y, winners = operators.attention_with_winners(q, k, v, score, backend)
    expected = naive.attention(q, k, v, score)
    assert torch.equal(y, expected)
    assert torch.equal(winners.long(), naive.attention_winners(q, k, v, score))
    gradient = torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(1))
    got = torch.autograd.grad(y, (q, k, v), gradient)
    want = torch.autograd.grad(expected, (q, k, v), gradient)
    for name, one, other in zip("qkv", got, want, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12, msg=lambda text, name=name: f"d{name}: {text}")


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 3, 5, 7), (3, 17, 33, 65), (1, 70, 9, 16)], ids=str)
def test_matmul_equals_the_definition(shape, ties, backend):
    batch, rows, inner, columns = shape
    generator = torch.Generator().manual_seed(sum(shape))
    a = torch.randn(batch, rows, inner, generator=generator, dtype=torch.float64)
    b = torch.randn(batch, inner, columns, generator=generator, dtype=torch.float64)
    if ties:
        a, b = a.round(), b.round()
    a.requires_grad_(), b.requires_grad_()
    c, expected = operators.matmul(a, b, backend), naive.matmul(a, b)
    assert torch.equal(c, expected)
    gradient = torch.randn(c.shape, dtype=c.dtype, generator=generator)
    got, want = torch.autograd.grad(c, (a, b), gradient), torch.autograd.grad(expected, (a, b), gradient)
    for name, one, other in zip("ab", got, want, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12, msg=lambda text, name=name: f"d{name}: {text}")


def test_minus_infinity_is_the_zero_of_the_semiring(backend):
    a = torch.full((2, 3), -torch.inf)
    b = torch.randn(3, 20)
    c, winners = operators.matmul_with_winners(a, b, backend)
    assert (c == -torch.inf).all() and (winners == 0).all()


@pytest.mark.parametrize("score", ["hilbert", "maxplus"])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_nan_is_not_lost(which, score, backend):
    tensors = [x.detach() for x in inputs((1, 2, 2, 70, 70, 8), torch.float32)]
    tensors[which][0, 0, 40, 3] = torch.nan
    y = operators.attention(*tensors, score, backend)
    bad = y.isnan()
    assert bad[0, 0, 40, 3] and not bad[0, 0, :40].any() and not bad[0, 1].any()
    if which:
        assert bad[0, 0, 40:, 3].all()


@pytest.mark.parametrize("score", ["hilbert", "maxplus"])
def test_bf16_is_computed_in_fp32(score, backend):
    q, k, v = (x.detach().bfloat16() for x in inputs((1, 4, 2, 33, 33, 16)))
    y = operators.attention(q, k, v, score, backend)
    assert y.dtype == torch.bfloat16
    expected = naive.attention(q.float(), k.float(), v.float(), score)
    assert torch.equal(y, expected.bfloat16())


def test_saved_bytes_grow_linearly_with_the_sequence(backend):
    def saved(length: int) -> int:
        q, k, v = inputs((1, 2, 2, length, length, 8), torch.float32)
        seen: dict[int, int] = {}

        def pack(x: torch.Tensor) -> torch.Tensor:
            seen[x.data_ptr()] = x.untyped_storage().nbytes()
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            operators.attention(q, k, v, "hilbert", backend)
        return sum(seen.values())

    sizes = [saved(length) for length in (32, 64, 128, 256)]
    assert sizes == [sizes[0] * 2**step for step in range(4)]


def test_operator_passes_torch_library_checks(backend):
    q, k, v = inputs((1, 2, 1, 5, 9, 4))
    torch.library.opcheck(torch.ops.mgr.tropical_attention.default, (q, k, v, "hilbert", backend))
    a, b = (torch.randn(shape, requires_grad=True) for shape in ((2, 3, 4), (2, 4, 9)))
    torch.library.opcheck(torch.ops.mgr.maxplus_matmul.default, (a, b, backend))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (dict(score="euclid"), "euclid"),
        (dict(backend="gpu"), "gpu"),
        (dict(heads=3), "K dividing H"),
    ],
)
def test_what_a_user_gets_wrong_is_said(arguments, words):
    heads = arguments.pop("heads", 2)
    q, k = torch.zeros(1, heads, 3, 4), torch.zeros(1, 2, 3, 4)
    with pytest.raises(ValueError, match=words):
        operators.attention(q, k, k, **arguments)


def test_matmul_refuses_sizes_that_do_not_meet():
    with pytest.raises(ValueError, match="need"):
        operators.matmul(torch.zeros(2, 3), torch.zeros(2, 3))


def test_matmul_broadcasts_batches():
    a, b = torch.randn(2, 1, 3, 4), torch.randn(5, 4, 6)
    c = operators.matmul(a, b)
    for i, j in itertools.product(range(2), range(5)):
        assert torch.equal(c[i, j], naive.matmul(a[i, 0][None], b[j][None])[0])


def test_margins_of_held_out_tokens_are_recorded_on_request():
    """The numbers that a run writes beside each evaluation are those of the margins themselves."""
    from nanochat.attention import build
    from nanochat.attention.tropical import TropicalKnobs, margins

    mixer = build(
        "tropical", n_embd=16, n_head=2, position="none", knobs={"tropical": TropicalKnobs(record_margins=True)}
    )
    x = torch.randn(2, 9, 16, generator=torch.Generator().manual_seed(0))
    mixer(x, None)
    assert mixer.diagnose() == {}, "training passes are not recorded"
    mixer.eval()
    with torch.no_grad():
        mixer(x, None)
        expected = margins(*mixer.project(x, None), "hilbert").token[..., 1:].flatten().double().sort().values
    recorded = mixer.diagnose()
    assert recorded["margin_p50"] == expected[int(0.5 * (len(expected) - 1))].item()
    assert recorded["radius_p50"] == recorded["margin_p50"] / 10
    assert mixer.diagnose() == {}, "asking empties the record"


@pytest.mark.parametrize("score", ["hilbert", "maxplus"])
@pytest.mark.parametrize("shape", [(2, 2, 2, 7, 7, 3), (1, 4, 2, 33, 33, 16), (2, 6, 2, 5, 31, 9)], ids=str)
def test_second_derivatives_are_those_of_the_definition(shape, score, backend):
    """The Hessian of a curved function of the outputs, times a vector, through the kernels and the definition."""
    tensors = inputs(shape)
    generator = torch.Generator().manual_seed(9)
    along = [torch.randn(x.shape, generator=generator, dtype=x.dtype) for x in tensors]

    def product(attention, directions):
        gradients = torch.autograd.grad(attention().sin().sum(), tensors, create_graph=True)
        return torch.autograd.grad(gradients, tensors, directions)

    fast = product(lambda: operators.attention(*tensors, score, backend), along)
    exact = product(lambda: naive.attention(*tensors, score), along)
    for name, one, other in zip("qkv", fast, exact, strict=True):
        assert (one - other).abs().max() < 1e-10, name
    values_only = [torch.zeros_like(along[0]), torch.zeros_like(along[1]), along[2]]
    blind = product(lambda: operators.attention(*tensors, score, backend), values_only)
    assert (blind[2] - exact[2]).abs().max() > 0.1, "the scores take part"
