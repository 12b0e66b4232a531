"""Laws of the reversible stack: what it keeps, what it rebuilds, and gradients equal to those of the stored form."""

from __future__ import annotations

import weakref

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nanochat.block import reversible
from nanochat.block.reversible import FixedPoint, Replay, ReversibleKnobs, ReversibleStack
from nanochat.gpt import GPT, IGNORE, GPTConfig
from nanochat.trunk import norm

V = 61


def model_of(layers: int = 3, *, kind: str = "reversible", exact: bool = False, width: int = 32, **options) -> GPT:
    """A model whose every weight is random, so that no branch is silent."""
    knobs = {"reversible": ReversibleKnobs(exact=exact)} if kind == "reversible" else {}
    config = GPTConfig(
        n_layer=layers, n_head=2, n_embd=width, vocab_size=V, attention_type=kind, knobs=knobs, **options
    )
    model = GPT(config)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * parameter.shape[-1] ** -0.5)
    return model


def batch_of(batch: int = 2, length: int = 17) -> tuple[Tensor, Tensor]:
    tokens = torch.randint(V, (batch, length + 1), generator=torch.Generator().manual_seed(6))
    return tokens[:, :-1], tokens[:, 1:]


def stored_loss(model: GPT, idx: Tensor, targets: Tensor) -> Tensor:
    """The same model through plain autograd, every activation kept."""
    _, hidden = model.stack.run(norm(model.embed(idx)), model.rope(0, idx.shape[1]))
    scores = model.logits(norm(hidden))
    return nn.functional.cross_entropy(scores.flatten(0, 1), targets.flatten(), ignore_index=IGNORE)


def gradients_of(model: GPT, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def assert_same_gradients(one: dict[str, Tensor], other: dict[str, Tensor], tolerance: float) -> None:
    assert one.keys() == other.keys()
    for name in one:
        gap = (one[name] - other[name]).abs().max() / other[name].abs().max()
        assert gap <= tolerance, f"{name}: relative difference {gap:.2e}"


def held_bytes(model: GPT) -> int:
    """Bytes that the graph of one forward pass keeps for the backward pass, parameters of the model aside."""
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    held: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            held[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model(*batch_of(4, 32))
    assert loss.requires_grad
    return sum(held.values())


class PeakBytes(TorchDispatchMode):
    """Bytes of all tensors alive that were made inside, now and at the highest; views of weights take none."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.alive = {parameter.untyped_storage()._cdata: 0 for parameter in model.parameters()}
        self.peak = 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **(options or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.watch(leaf.untyped_storage())
        return result

    def watch(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata not in self.alive:
            self.alive[storage._cdata] = storage.nbytes()
            weakref.finalize(storage, self.alive.pop, storage._cdata, 0)
            self.peak = max(self.peak, sum(self.alive.values()))


def peak_bytes(model: GPT) -> int:
    """Highest memory of a training step above the model: activations, gradients, temporaries."""
    with PeakBytes(model) as tracker:
        model(*batch_of(8, 32)).backward()
    return tracker.peak


@pytest.mark.parametrize("exact", [False, True])
def test_saved_bytes_do_not_grow_with_depth(exact):
    assert len({held_bytes(model_of(layers, exact=exact, width=16)) for layers in (2, 4, 16, 64)}) == 1


def test_saved_bytes_of_residual_blocks_do_grow():
    few, many = (held_bytes(model_of(layers, kind="standard", width=16)) for layers in (2, 64))
    assert many > 15 * few


def test_measured_peak_is_flat_in_depth_where_residual_blocks_grow():
    def slope(kind: str) -> float:
        few, many = (peak_bytes(model_of(layers, kind=kind, width=16)) for layers in (2, 16))
        return (many - few) / 14

    stream, weights = 8 * 32 * 16 * 4, 12 * 16 * 16 * 4
    assert slope("standard") > 10 * stream + weights
    assert 0 <= slope("reversible") <= weights, "only the gradients of the weights may grow"


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize("options", [{}, {"mlp": "swiglu", "n_kv_head": 1, "tie_embeddings": True}])
def test_gradients_equal_the_stored_form(dtype, tolerance, options):
    model = model_of(8, **options).to(dtype)
    batch = batch_of()
    assert_same_gradients(
        gradients_of(model, model(*batch)), gradients_of(model, stored_loss(model, *batch)), tolerance
    )


class StraightThrough(FixedPoint):
    """The fixed-point streams as floats that autograd can follow: rounded values, unrounded gradients."""

    def enter(self, x: Tensor) -> Tensor:
        return x + (super().read(super().enter(x)) - x).detach()

    def read(self, stream: Tensor) -> Tensor:
        return stream

    def shift(self, stream: Tensor, change: Tensor, sign: int) -> Tensor:
        return self.enter(stream + sign * self.enter(change))


def test_exact_gradients_are_those_of_the_coupling_at_the_rounded_states(monkeypatch):
    model = model_of(8, exact=True).double()
    batch = batch_of()
    got = gradients_of(model, model(*batch))
    monkeypatch.setattr(ReversibleStack, "arithmetic", StraightThrough(torch.float64))
    assert_same_gradients(got, gradients_of(model, stored_loss(model, *batch)), 1e-10)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_exact_streams_return_to_the_same_bits_after_64_layers(dtype):
    model = model_of(64, exact=True).to(dtype)
    x, rope = norm(model.embed(batch_of()[0])).detach(), model.rope(0, 17)
    with torch.no_grad():
        pair, _ = model.stack.run(x, rope)
    start = model.stack.arithmetic.enter(x)
    assert not torch.equal(pair[0], start)
    assert all(torch.equal(stream, start) for stream in model.stack.retreat(pair, rope))
    model(*batch_of()).backward()
    assert model.stack.inversion_error == 0


def test_exact_streams_return_to_the_same_bits_under_autocast():
    model = model_of(16, exact=True)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(*batch_of())
    loss.backward()
    assert model.stack.inversion_error == 0


def test_bfloat16_streams_that_are_not_exact_do_not_return():
    model = model_of(64).to(torch.bfloat16)
    model(*batch_of()).backward()
    assert model.stack.inversion_error > 0.1


def test_floating_streams_return_up_to_rounding():
    model = model_of(64)
    model(*batch_of()).backward()
    assert 0 < model.stack.inversion_error < 1e-2
    model.double()(*batch_of()).backward()
    assert model.stack.inversion_error < 1e-11


@given(st.integers(1, 5), st.integers(1, 9), st.floats(-1e6, 1e6), st.integers(0, 2**31))
def test_fixed_point_addition_is_undone_to_the_bit(rows, columns, scale, seed):
    generator = torch.Generator().manual_seed(seed)
    arithmetic = FixedPoint(torch.bfloat16)
    stream = arithmetic.enter(torch.randn(rows, columns, generator=generator))
    change = (scale * torch.randn(rows, columns, generator=generator)).bfloat16()
    assert torch.equal(arithmetic.shift(arithmetic.shift(stream, change, 1), change, -1), stream)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e30])
def test_exact_streams_do_not_hide_what_integers_cannot_hold(bad):
    model = model_of(2, exact=True)
    with torch.no_grad():
        model.stack.blocks[0].mlp.down.weight[0, 0] = bad
    assert model(*batch_of()).isnan()


def test_coupling_preserves_volume():
    stack, width = model_of(1, width=4).double().stack, 4
    block = stack.blocks[0]

    def pair(flat: Tensor) -> Tensor:
        first, second = flat.view(2, 1, 3, width)
        first = first + block.mixer(norm(second), None)
        return torch.stack((first, second + block.mlp(norm(first)))).flatten()

    point = torch.randn(24, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(pair, point)
    assert (jacobian - torch.eye(24)).abs().max() > 0.1
    assert jacobian.slogdet().logabsdet.abs() < 1e-10
    assert abs(jacobian.det() - 1) < 1e-10


class Noisy(nn.Module):
    """A mixer that draws random numbers: what it returns on a second call depends on the generator."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor, rope: object, cache: object | None = None) -> Tensor:
        return nn.functional.dropout(self.inner(x, rope, cache), 0.5)


def noisy_model() -> GPT:
    model = model_of(4).double()
    for block in model.stack.blocks:
        block.mixer = Noisy(block.mixer)
    return model


def test_random_numbers_in_the_mixer_are_drawn_again():
    model, (idx, targets) = noisy_model(), batch_of()
    torch.manual_seed(3)
    loss = model(idx, targets)
    torch.randn(100)  # whatever happens between the passes
    got = gradients_of(model, loss)
    assert model.stack.inversion_error < 1e-12
    torch.manual_seed(3)
    x = norm(model.embed(idx))
    _, hidden = model.stack.run(x, model.rope(0, idx.shape[1]), None, Replay(x.device))
    stored = nn.functional.cross_entropy(model.logits(norm(hidden)).flatten(0, 1), targets.flatten())
    assert_same_gradients(got, gradients_of(model, stored), 1e-10)


def test_layers_and_steps_draw_different_numbers():
    model, batch = noisy_model(), batch_of()
    torch.manual_seed(3)
    assert model(*batch) != model(*batch)
    replay = Replay(torch.device("cpu"))
    with replay.conditions():
        draws = []
        for half in range(6):
            replay.rewind(half)
            draws.append(torch.rand(()).item())
    assert len(set(draws)) == 6


def test_without_replay_the_rebuilt_activations_are_wrong(monkeypatch):
    model = noisy_model()
    monkeypatch.setattr(reversible, "rewind", lambda replay, half: None)
    monkeypatch.setattr(Replay, "rewind", lambda self, half: None)
    model(*batch_of()).backward()
    assert model.stack.inversion_error > 0.1


def test_the_generator_of_the_caller_is_left_where_one_draw_puts_it():
    model, batch = model_of(2), batch_of()
    torch.manual_seed(0)
    torch.randint(2**62, ())
    expected = torch.rand(())
    torch.manual_seed(0)
    model(*batch).backward()
    assert torch.rand(()) == expected


@pytest.mark.parametrize("inside", [False, True])
def test_autocast_of_the_forward_pass_is_restored(inside):
    model, batch = model_of(4), batch_of()
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(*batch)
        if inside:
            got = gradients_of(model, loss)
    if not inside:
        got = gradients_of(model, loss)
    assert model.stack.inversion_error < 0.01
    with torch.autocast("cpu", torch.bfloat16):
        stored = stored_loss(model, *batch)
    assert_same_gradients(got, gradients_of(model, stored), 0.05)


def test_hooks_on_parameters_fire_once():
    model, fired = model_of(2), []
    for name, parameter in model.named_parameters():
        parameter.register_hook(lambda _, name=name: fired.append(name))
    model(*batch_of()).backward()
    assert sorted(fired) == sorted(name for name, _ in model.named_parameters())


def test_gradients_can_be_asked_for_and_frozen_weights_get_none():
    model, batch = model_of(2), batch_of()
    whole = gradients_of(model, model(*batch))
    name = "stack.blocks.0.mlp.up.weight"
    wanted = model.get_parameter(name)
    model.requires_grad_(False)
    wanted.requires_grad_(True)
    (alone,) = torch.autograd.grad(model(*batch), (wanted,))
    assert torch.equal(alone, whole[name])


def test_weights_changed_between_the_passes_are_refused():
    model = model_of(2)
    loss = model(*batch_of())
    with torch.no_grad():
        model.stack.blocks[1].mlp.up.weight.mul_(2)
    with pytest.raises(RuntimeError, match="weights changed between forward and backward"):
        loss.backward()


def test_second_derivatives_are_refused():
    model = model_of(2)
    weight = model.stack.blocks[0].mlp.up.weight
    (gradient,) = torch.autograd.grad(model(*batch_of()), weight, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_data_parallel_hooks_see_the_gradients(tmp_path):
    model, batch = model_of(2), batch_of()
    expected = gradients_of(model, model(*batch))
    model.zero_grad()
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        parallel, seen = nn.parallel.DistributedDataParallel(model), []

        def reduce(_, bucket):
            seen.extend(bucket.parameters())
            done = torch.futures.Future()
            done.set_result(bucket.buffer())
            return done

        parallel.register_comm_hook(None, reduce)
        parallel(*batch).backward()
    finally:
        torch.distributed.destroy_process_group()
    assert {id(parameter) for parameter in seen} == {id(parameter) for parameter in model.parameters()}
    assert_same_gradients({name: p.grad for name, p in model.named_parameters()}, expected, 1e-6)
