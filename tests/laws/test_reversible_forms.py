"""Momentum and leapfrog: inverses, gradients, memory, volume, the limits that tie them to known networks."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from nanochat.block.reversible import ReversibleKnobs, ReversibleStack, Wide
from nanochat.config import ConfigError
from nanochat.gpt import GPT, IGNORE, GPTConfig
from nanochat.trunk import norm

FORMS = ("additive", "momentum", "leapfrog")
V = 61


def model_of(layers: int, width: int = 16, sizes: dict | None = None, **knobs) -> GPT:
    """A model whose every weight is random, so that no branch is silent."""
    config = GPTConfig(
        n_layer=layers, n_head=2, n_embd=width, vocab_size=V, attention_type="reversible",
        knobs={"reversible": ReversibleKnobs(**knobs)}, **(sizes or {}),
    )  # fmt: skip
    model = GPT(config)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * parameter.shape[-1] ** -0.5)
    return model


def batch_of(length: int = 17) -> tuple[Tensor, Tensor]:
    tokens = torch.randint(V, (2, length + 1), generator=torch.Generator().manual_seed(6))
    return tokens[:, :-1], tokens[:, 1:]


def hidden_of(model: GPT, idx: Tensor) -> Tensor:
    return norm(model.embed(idx)).detach()


def gradients(model: GPT, stored: bool) -> dict[str, Tensor]:
    idx, targets = batch_of()
    model.zero_grad()
    if stored:
        _, hidden = model.stack.run(norm(model.embed(idx)), model.rope(0, idx.shape[1]))
        scores = model.logits(norm(hidden))
        nn.functional.cross_entropy(scores.flatten(0, 1), targets.flatten(), ignore_index=IGNORE).backward()
    else:
        model(idx, targets).backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def gap(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    return max(((one[name] - other[name]).abs().max() / other[name].abs().max()).item() for name in one)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_gradients_equal_the_stored_form(form, dtype, tolerance):
    model = model_of(8, form=form, sizes={"mlp": "swiglu", "n_kv_head": 1}).to(dtype)
    assert gap(gradients(model, False), gradients(model, True)) <= tolerance


@pytest.mark.parametrize("inner", ["tropical"])
@pytest.mark.parametrize("form", FORMS[1:])
def test_any_mixer_goes_inside(form, inner):
    model = model_of(3, form=form, inner=inner).double()
    assert gap(gradients(model, False), gradients(model, True)) <= 1e-10


@pytest.mark.parametrize("form", FORMS)
def test_the_inverse_returns_to_the_start(form):
    model = model_of(8, form=form).double()
    x = hidden_of(model, batch_of()[0])
    with torch.no_grad():
        pair, _ = model.stack.run(x, None)
    first, second = model.stack.retreat(pair, None)
    assert (pair[0] - x).abs().max() > 0.1
    assert (first - x).abs().max() < 1e-11
    assert (second - (x if form == "additive" else 0)).abs().max() < 1e-11


@pytest.mark.parametrize("form", FORMS)
def test_saved_bytes_do_not_grow_with_depth(form):
    def held(layers: int) -> int:
        model = model_of(layers, form=form)
        own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
        seen: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            if tensor.untyped_storage().data_ptr() not in own:
                seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = model(*batch_of())
        assert loss.requires_grad
        return sum(seen.values())

    assert len({held(layers) for layers in (2, 16, 64)}) == 1


def log_det(form: str, layers: int = 2, width: int = 4, tokens: int = 3) -> tuple[float, int]:
    """Of the map of a pair to a pair, and the numbers of one stream."""
    stack = model_of(layers, width, form=form, momentum=0.8).double().stack

    def through(flat: Tensor) -> Tensor:
        pair = list(flat.view(2, 1, tokens, width))
        for layer in range(layers):
            for move in stack.moves:
                change = stack.change(layer, move, pair[1 - move.target], None)
                pair[move.target] = stack.arithmetic.apply(move, pair[move.target], change)
        return torch.stack(pair).flatten()

    point = torch.randn(2 * tokens * width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(through, point)
    assert (jacobian - torch.eye(len(jacobian))).abs().max() > 0.1
    return jacobian.slogdet().logabsdet.item(), tokens * width


def test_volume_is_preserved_or_shrinks_by_the_momentum_alone():
    """0 for coupling and leapfrog; 2 L N log gamma for momentum, whatever the weights: not 0, and not L N log gamma."""
    for form in ("additive", "leapfrog"):
        assert abs(log_det(form)[0]) < 1e-10
    found, numbers = log_det("momentum")
    assert abs(found - 2 * 2 * numbers * math.log(0.8)) < 1e-10
    assert abs(found - 2 * numbers * math.log(0.8)) > 1


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_exact_leapfrog_returns_to_the_same_bits_after_64_layers(dtype):
    model = model_of(64, form="leapfrog", exact=True).to(dtype)
    x = hidden_of(model, batch_of()[0])
    with torch.no_grad():
        pair, output = model.stack.run(x, None)
    assert output.isfinite().all() and pair[0].dtype == torch.int64
    first, second = model.stack.retreat(pair, None)
    assert torch.equal(first, model.stack.arithmetic.enter(x)) and not second.any()
    model(*batch_of()).backward()
    assert model.stack.inversion_error == 0


def test_leapfrog_that_is_not_exact_does_not_return_in_bfloat16():
    model = model_of(64, form="leapfrog").to(torch.bfloat16)
    model(*batch_of()).backward()
    assert model.stack.inversion_error > 1e-2


def test_exact_momentum_is_refused_for_it_forgets_bits():
    with pytest.raises(ConfigError, match="forgets bits"):
        ReversibleKnobs(form="momentum", exact=True)
    grid = torch.arange(-100, 100)
    assert len((0.9 * grid).round().unique()) < len(grid), "a faded integer has two pasts"


@pytest.mark.parametrize("momentum", [0.0, 1.0, -0.5, float("nan")])
def test_a_momentum_that_cannot_be_undone_is_refused(momentum):
    with pytest.raises(ConfigError, match="--reversible-momentum: got"):
        ReversibleKnobs(form="momentum", momentum=momentum)


def test_momentum_loses_precision_by_its_power_hence_wide_streams(monkeypatch):
    """Undoing 2 L halves multiplies rounding by up to gamma^(-2 L): 1e-16 of fp64 stays small where fp32 is lost."""

    class Narrow(Wide):
        def enter(self, x: Tensor) -> Tensor:
            return x

    model = model_of(64, form="momentum")
    wide = gap(gradients(model, False), gradients(model, True))
    assert 0 < model.stack.inversion_error < 1e-6
    monkeypatch.setattr(ReversibleStack, "arithmetic", Narrow(torch.float32))
    narrow = gap(gradients(model, False), gradients(model, True))
    assert model.stack.inversion_error > 1e-3
    assert wide < 1e-4 < narrow


def test_without_momentum_it_is_the_residual_network():
    model = model_of(3, form="momentum", momentum=1e-13).double()
    x = hidden_of(model, batch_of()[0])
    with torch.no_grad():
        expected = x
        for block in model.stack.blocks:
            expected = expected + block.mixer(norm(expected), None)
            expected = expected + block.mlp(norm(expected))
        _, output = model.stack.run(x, None)
        assert (output - expected).abs().max() < 1e-11
        _, damped = model_of(3, form="momentum", momentum=0.5).double().stack.run(x, None)
    assert (damped - expected).abs().max() > 0.1


def test_leapfrog_is_the_two_step_method():
    """x_{n+1} = 2 x_n - x_{n-1} + f_n(x_n) / L, from rest; not symplectic Euler's coupling of two streams."""
    model = model_of(3, form="leapfrog").double()
    x = hidden_of(model, batch_of()[0])
    with torch.no_grad():
        before, now = x, x
        for block in model.stack.blocks:
            for half in (lambda x, block=block: block.mixer(norm(x), None), lambda x, block=block: block.mlp(norm(x))):
                before, now = now, 2 * now - before + half(now) / 3
        _, output = model.stack.run(x, None)
        assert (output - now).abs().max() < 1e-12
        coupled = model_of(3).double().stack.run(x, None)[1]
    assert (coupled - now).abs().max() > 0.1


class Gradient(nn.Module):
    """f(x) = tanh(x W^T) U, the gradient of a potential where U = W."""

    def __init__(self, tied: bool, width: int = 4):
        super().__init__()
        draw = torch.Generator().manual_seed(1)
        self.w, self.u = (torch.randn(6, width, generator=draw, dtype=torch.float64) for _ in range(2))
        self.u = self.w if tied else self.u
        self.down = nn.Linear(1, 1, dtype=torch.float64)  # the stack asks it for its type

    def forward(self, x: Tensor, *_: object) -> Tensor:
        return (x @ self.w.mT).tanh() @ self.u


def symplectic_error(form: str, tied: bool, monkeypatch) -> float:
    """Largest entry of M^T J M - J of a layer's Jacobian M, J the canonical form."""
    monkeypatch.setattr("nanochat.block.reversible.norm", lambda x: x)  # a norm is no gradient
    stack = model_of(2, 4, form=form).double().stack
    for block in stack.layers:
        block.mixer, block.mlp = Gradient(tied), Gradient(tied)

    def through(flat: Tensor) -> Tensor:
        pair = list(flat.view(2, 4))
        for move in stack.moves:
            change = stack.change(0, move, pair[1 - move.target], None)
            pair[move.target] = stack.arithmetic.apply(move, pair[move.target], change)
        return torch.cat(pair)

    point = torch.randn(8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(through, point)
    form_matrix = torch.zeros(8, 8, dtype=torch.float64)
    form_matrix[:4, 4:], form_matrix[4:, :4] = torch.eye(4), -torch.eye(4)
    return (jacobian.mT @ form_matrix @ jacobian - form_matrix).abs().max().item()


def test_leapfrog_is_symplectic_where_its_halves_are_gradients_and_only_there(monkeypatch):
    assert symplectic_error("leapfrog", True, monkeypatch) < 1e-12
    assert symplectic_error("additive", True, monkeypatch) < 1e-12
    assert symplectic_error("leapfrog", False, monkeypatch) > 0.1
    assert symplectic_error("momentum", True, monkeypatch) > 0.1
