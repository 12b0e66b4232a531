"""Optimizers: groups, step formulas, differences, exact checkpoints."""

import io
from collections.abc import Callable
from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from nanochat.config import ConfigError, GPTConfig, OptimConfig
from nanochat.curvature import Curvature
from nanochat.gpt import GPT
from nanochat.optim import OPTIMIZERS, build, faults
from nanochat.optim.hoss import MacroStep
from nanochat.optim.muon import Muon, MuonKnobs, orthogonalise

NAMES = OPTIMIZERS.names()
CURVED = [name for name in NAMES if OPTIMIZERS.get(name).curvature]
"""Those whose step asks for the curvature of the loss."""


def tiny(name: str, **options) -> GPT:
    sizes = {"n_layer": 2, "n_head": 2, "n_embd": 16, "sequence_len": 16, "vocab_size": 32}
    return GPT(GPTConfig(**sizes, optimizer_type=name, **options))


def with_odd_parameters(name: str) -> GPT:
    """A model that also has a scalar, a gain, a row, a stack of matrices and a table inside its stack."""
    model = tiny(name)
    block = model.stack.blocks[0]
    block.scale = nn.Parameter(torch.tensor(1.0))
    block.gain = nn.Parameter(torch.ones(16))
    block.row = nn.Parameter(torch.ones(1, 16))
    block.deep = nn.Parameter(torch.ones(2, 3, 4))
    block.table = nn.Embedding(5, 4)
    return model


def batch(seed: int) -> torch.Tensor:
    return torch.randint(32, (4, 16), generator=torch.Generator().manual_seed(seed))


def take(optimizer: torch.optim.Optimizer, loss: Callable[[], torch.Tensor]) -> None:
    """A step with what this optimizer asks for."""
    if isinstance(optimizer, MacroStep):
        optimizer.step(lambda: Curvature(loss, optimizer.parameters))
    else:
        optimizer.step()


def train(model: GPT, optimizer: torch.optim.Optimizer, first: int, last: int) -> list[float]:
    losses = []
    for step in range(first, last):
        loss = model(batch(step), batch(step + 1000))
        loss.backward()
        take(optimizer, lambda step=step: model(batch(step), batch(step + 1000)))
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
    return losses


def test_the_names_the_user_was_promised():
    assert {"adamw", "muon", "hoss"} <= set(NAMES)
    assert faults("adamw", OptimConfig()) == []


def test_unknown_name_and_foreign_knobs():
    assert "did you mean 'muon'" in faults("muom", OptimConfig())[0]
    assert "need MuonKnobs" in faults("muon", OptimConfig(knobs={"muon": 3}))[0]
    with pytest.raises(ConfigError, match="unknown --optimizer-type"):
        build(tiny("sgd"), OptimConfig())
    with pytest.raises(ConfigError, match="--muon-momentum: got 1"):
        MuonKnobs(momentum=1.0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("tied", [False, True])
def test_every_parameter_is_in_one_group_and_has_its_peak(name, tied):
    model = tiny(name, tie_embeddings=tied)
    optimizer = build(model, OptimConfig(weight_decay=0.1))
    grouped = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    assert sorted(grouped) == sorted(id(parameter) for parameter in model.parameters())
    for group in optimizer.param_groups:
        assert group["initial_lr"] == group["lr"] > 0
        assert group["weight_decay"] == (0.1 if group["name"] == "matrices" else 0.0)


@pytest.mark.parametrize("name", NAMES)
def test_rates_scale_with_the_options(name):
    options = OptimConfig(learning_rate=0.01, embedding_lr_scale=3.0, head_lr_scale=0.5)
    rates = {group["name"]: group["initial_lr"] for group in build(tiny(name), options).param_groups}
    assert rates["matrices"] == pytest.approx(0.01)
    assert rates["embedding"] == pytest.approx(6 * rates["head"])


@pytest.mark.parametrize("name", NAMES)
def test_prior_rate_is_the_records(name):
    groups = build(tiny(name), OptimConfig()).param_groups
    assert groups[0]["name"] == "matrices"
    assert groups[0]["initial_lr"] == OPTIMIZERS.get(name).learning_rate


@pytest.mark.parametrize("name", NAMES)
def test_any_parameter_shape_is_moved(name):
    model = with_odd_parameters(name)
    optimizer = build(model, OptimConfig())
    before = {key: value.detach().clone() for key, value in model.named_parameters()}
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    take(optimizer, lambda: sum((p * p.grad + p * p).sum() for p in model.parameters()))
    still = [key for key, value in model.named_parameters() if torch.equal(value, before[key])]
    assert still == []
    others = next(group for group in optimizer.param_groups if group["name"] == "others")
    assert len(others["params"]) == 5


@pytest.mark.parametrize("name", NAMES)
def test_missing_gradients_leave_the_weight_alone(name):
    model = tiny(name)
    optimizer = build(model, OptimConfig(weight_decay=0.5))
    before = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize(("first", "second"), list(combinations(NAMES, 2)))
def test_trajectories_differ(first, second):
    losses = []
    for name in (first, second):
        model = tiny(name)
        losses.append(train(model, build(model, OptimConfig(learning_rate=0.01)), 0, 6))
    assert losses[0][0] == losses[1][0]
    assert abs(losses[0][-1] - losses[1][-1]) > 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_falls_on_a_fixed_batch(name):
    model = tiny(name)
    optimizer = build(model, OptimConfig())
    idx = batch(0)
    for _ in range(40):
        loss = model(idx, idx)
        loss.backward()
        take(optimizer, lambda: model(idx, idx))
        optimizer.zero_grad()
    assert model(idx, idx).item() < 0.6 * torch.tensor(32.0).log().item()


@pytest.mark.parametrize("name", NAMES)
def test_checkpoint_continues_to_the_same_bits(name):
    whole = tiny(name)
    train(whole, build(whole, OptimConfig()), 0, 8)

    model = tiny(name)
    optimizer = build(model, OptimConfig())
    train(model, optimizer, 0, 4)
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    again = tiny(name)
    again.load_state_dict(saved["model"])
    restored = build(again, OptimConfig())
    restored.load_state_dict(saved["optimizer"])
    train(again, restored, 4, 8)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_weights(name):
    model = tiny(name).to(torch.bfloat16)
    losses = train(model, build(model, OptimConfig()), 0, 3)
    assert all(torch.isfinite(torch.tensor(losses)))
    assert all(parameter.dtype == torch.bfloat16 for parameter in model.parameters())


@pytest.mark.parametrize("name", [name for name in NAMES if name not in CURVED])
def test_closure_is_called_with_gradients_on(name):
    model = tiny(name)
    optimizer = build(model, OptimConfig())

    def closure() -> float:
        loss = model(batch(0), batch(1))
        loss.backward()
        return loss.item()

    assert optimizer.step(closure) == pytest.approx(torch.tensor(32.0).log().item())


def test_adamw_is_the_textbook_formula():
    model = tiny("adamw")
    optim = OptimConfig(learning_rate=0.02, weight_decay=0.3, beta1=0.8, beta2=0.9)
    optimizer = build(model, optim)
    weight = model.stack.blocks[0].mlp.up.weight
    w = weight.detach().double()
    m, v = torch.zeros_like(w), torch.zeros_like(w)
    for step in range(1, 5):
        gradient = torch.randn(weight.shape, generator=torch.Generator().manual_seed(step))
        weight.grad = gradient.clone()
        optimizer.step()
        g = gradient.double()
        m, v = 0.8 * m + 0.2 * g, 0.9 * v + 0.1 * g * g
        w = (1 - 0.02 * 0.3) * w - 0.02 * (m / (1 - 0.8**step)) / ((v / (1 - 0.9**step)).sqrt() + 1e-8)
    assert torch.allclose(weight.double(), w, atol=1e-6)


@settings(deadline=None, max_examples=40, derandomize=True)
@given(
    rows=st.integers(2, 24),
    columns=st.integers(2, 24),
    count=st.integers(1, 3),
    spread=st.floats(0.0, 2.0),
    scale=st.sampled_from([1e-4, 1.0, 1e4]),
    seed=st.integers(0, 1000),
)
def test_orthogonalise_gives_the_polar_factor(rows, columns, count, spread, scale, seed):
    """Singular values over two decades all end near 1, in the same singular directions."""
    generator = torch.Generator().manual_seed(seed)
    rank = min(rows, columns)
    drawn = (torch.randn(count, side, rank, generator=generator) for side in (rows, columns))
    left, right = (torch.linalg.qr(part)[0] for part in drawn)
    values = scale * torch.logspace(0, -spread, rank)
    result = orthogonalise((left * values) @ right.mT)
    singular = torch.linalg.svdvals(result)
    assert singular.min() > 0.85
    assert singular.max() < 1.15
    aligned = (left.mT @ result @ right).diagonal(dim1=-2, dim2=-1)
    assert torch.allclose(aligned, singular.mean(-1, keepdim=True).expand_as(aligned), atol=0.3)


def test_orthogonalise_survives_bfloat16_and_zero():
    generator = torch.Generator().manual_seed(0)
    singular = torch.linalg.svdvals(orthogonalise(torch.randn(4, 32, 96, generator=generator), torch.bfloat16))
    assert singular.min() > 0.8
    assert singular.max() < 1.2
    assert torch.equal(orthogonalise(torch.zeros(1, 4, 4)), torch.zeros(1, 4, 4))


def test_muon_step_has_the_stated_size():
    """The first step moves an R x C matrix by lr sqrt(max(1, R/C)) times an orthogonal matrix, decay aside."""
    model = tiny("muon")
    optimizer = build(model, OptimConfig(learning_rate=0.1, weight_decay=0.5))
    assert isinstance(optimizer, Muon)
    weight = model.stack.blocks[0].mlp.up.weight
    before = weight.detach().clone()
    weight.grad = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    optimizer.step()
    moved = torch.linalg.svdvals(weight.detach() - before * (1 - 0.1 * 0.5))
    assert torch.allclose(moved, torch.full_like(moved, 0.1 * 2.0), rtol=0.15)


def test_muon_batches_equal_one_by_one():
    stack = torch.randn(3, 8, 20, generator=torch.Generator().manual_seed(2))
    single = torch.cat([orthogonalise(matrix[None]) for matrix in stack])
    assert torch.allclose(orthogonalise(stack), single, atol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", NAMES)
def test_on_cuda(name):
    model = tiny(name).cuda()
    optimizer = build(model, OptimConfig())
    for step in range(3):
        idx, targets = batch(step).cuda(), batch(step + 1).cuda()
        model(idx, targets).backward()
        take(optimizer, lambda idx=idx, targets=targets: model(idx, targets))
        optimizer.zero_grad()
    assert all(parameter.isfinite().all() for parameter in model.parameters())
