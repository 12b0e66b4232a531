"""What every mechanism must do, whoever wrote it: a file in ``attention`` or ``block`` is held to this by existing."""

from __future__ import annotations

import ast
import io
import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nanochat.architecture import faults, hessian, plan
from nanochat.attention import MIXERS
from nanochat.bench.books import knobs, label, variants
from nanochat.block import BLOCKS
from nanochat.config import ConfigError, GPTConfig, OptimConfig
from nanochat.counter import Counter
from nanochat.curvature import Curvature
from nanochat.gpt import GPT
from nanochat.optim import OPTIMIZERS, build
from nanochat.registry import Hessian

V, T, CHUNKS = 50, 33, [5, 1, 20, 7]
ROOT = Path(__file__).resolve().parents[2]
RECORDS = [*MIXERS, *BLOCKS]


@dataclass(frozen=True)
class Case:
    """A mechanism with one set of options."""

    name: str
    options: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        return label(self.name, self.options)

    def config(self, **others: Any) -> GPTConfig:
        sizes = {"n_layer": 2, "n_head": 4, "n_kv_head": 2, "n_embd": 32, "vocab_size": V, "sequence_len": T}
        return GPTConfig(attention_type=self.name, knobs=knobs(self.name, self.options), **{**sizes, **others})


CASES = [Case(*variant) for variant in variants()]
every_case = pytest.mark.parametrize("case", CASES, ids=str)
every_record = pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.name)


def awake(model: GPT, seed: int = 0) -> GPT:
    """The model with random values in the matrices that start at zero, so that no branch is silent."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * parameter.shape[-1] ** -0.5)
    return model


def tokens(length: int = T, batch: int = 2, seed: int = 1) -> Tensor:
    return torch.randint(V, (batch, length), generator=torch.Generator().manual_seed(seed))


def pair(length: int = T) -> tuple[Tensor, Tensor]:
    drawn = tokens(length + 1)
    return drawn[:, :-1], drawn[:, 1:]


@every_case
def test_loss_at_the_start_is_ln_v(case):
    assert GPT(case.config())(*pair()).item() == pytest.approx(math.log(V), abs=1e-6)


def twice_differentiable(config: GPTConfig) -> bool:
    built = plan(config)
    return all(isinstance(hessian(config, record, T), Hessian) for record in (built.block, *built.mixers))


@every_case
@pytest.mark.parametrize("optimizer", OPTIMIZERS.names())
def test_three_steps_reach_every_parameter(case, optimizer):
    curved = OPTIMIZERS.get(optimizer).curvature is not None
    config = case.config(optimizer_type=optimizer)
    if curved and not twice_differentiable(config):
        with pytest.raises(ConfigError, match=f"--optimizer-type {optimizer} needs second derivatives: got "):
            GPT(config)
        return
    model = GPT(config)
    stepper = build(model, OptimConfig())
    parameters = [parameter for group in stepper.param_groups for parameter in group["params"]]

    def look() -> Curvature:
        return Curvature(lambda: model(*pair()), parameters)

    start = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    reached = set()
    for _ in range(3):
        stepper.zero_grad()
        loss = model(*pair())
        loss.backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name
            reached |= {name} if parameter.grad.any() else set()
        stepper.step(look if curved else None)
    assert reached == start.keys()
    still = [name for name, parameter in model.named_parameters() if torch.equal(parameter, start[name])]
    assert not still, f"gradient but no movement: {still}"
    assert model(*pair()) < math.log(V)


@every_case
def test_second_derivatives_are_the_differences_of_first_ones(case):
    """Where they are declared: a product with the Hessian, against central differences of the gradient in float64."""
    config = case.config()
    if not twice_differentiable(config):
        assert any("needs second derivatives" in fault for fault in faults(case.config(optimizer_type="hoss")))
        return
    model = awake(GPT(config)).double()
    parameters = list(model.parameters())
    generator = torch.Generator().manual_seed(3)
    along = [torch.randn(each.shape, generator=generator, dtype=torch.float64) for each in parameters]
    product = Curvature(lambda: model(*pair()), parameters)(torch.cat([each.flatten() for each in along]))

    def gradient(step: float) -> Tensor:
        moved = [(each + step * direction).detach() for each, direction in zip(parameters, along, strict=True)]
        names = [name for name, _ in model.named_parameters()]
        given = {name: each.requires_grad_() for name, each in zip(names, moved, strict=True)}
        loss = torch.func.functional_call(model, given, pair())
        return torch.cat([each.flatten() for each in torch.autograd.grad(loss, list(given.values()))])

    differences = (gradient(1e-7) - gradient(-1e-7)) / 2e-7
    assert (product - differences).norm() < 1e-5 * differences.norm()


@every_case
def test_every_gradient_is_there_at_once_where_no_branch_is_silent(case):
    model = awake(GPT(case.config()))
    model(*pair()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all() and parameter.grad.any(), name


def assert_causal(model: GPT) -> None:
    """Changing token t leaves the logits before t as they are, to the bit, and changes those at t."""
    idx = tokens()
    with torch.no_grad():
        before = model(idx)
        for place in (1, 16, T - 1):
            changed = idx.clone()
            changed[:, place] = (changed[:, place] + 1) % V
            after = model(changed)
            assert torch.equal(after[:, :place], before[:, :place]), f"token {place} is seen before it"
            assert not torch.equal(after[:, place], before[:, place])


@every_case
def test_the_future_is_not_seen(case):
    assert_causal(awake(GPT(case.config())))


def test_a_mixer_that_sees_the_future_is_caught(monkeypatch):
    model = awake(GPT(Case("standard").config()))
    assert_causal(model)
    leaking = model.stack.blocks[1].mixer
    monkeypatch.setattr(leaking, "attend", lambda q, k, v: (q @ k.mean(1, True).mT).softmax(-1) @ v.mean(1, True))
    with pytest.raises(AssertionError, match="is seen before it"):
        assert_causal(model)


def decoded(model: GPT, idx: Tensor, chunks: list[int]) -> Tensor:
    cache = model.init_cache(idx.shape[0], idx.shape[1])
    with torch.no_grad():
        return torch.cat([model(part, cache=cache) for part in idx.split(chunks, dim=1)], 1)


@every_case
@pytest.mark.parametrize("chunks", [[1] * T, CHUNKS, [T]], ids=["token", "chunks", "whole"])
def test_cached_decoding_equals_the_full_pass(case, chunks):
    model = awake(GPT(case.config())).double()
    with torch.no_grad():
        whole = model(tokens())
    assert (decoded(model, tokens(), chunks) - whole).abs().max() < 1e-10


@every_case
@pytest.mark.parametrize("kv_heads", [1, 2])
def test_grouped_queries_are_whole_heads_with_shared_keys(case, kv_heads):
    small = awake(GPT(case.config(n_kv_head=kv_heads, position="none"))).double()
    large = GPT(case.config(n_kv_head=4, position="none")).double()
    weights, wanted = small.state_dict(), large.state_dict()
    for name, weight in weights.items():
        if weight.shape != wanted[name].shape:  # what belongs to key/value heads, head by head
            weights[name] = weight.unflatten(0, (kv_heads, -1)).repeat_interleave(4 // kv_heads, 0).flatten(0, 1)
    large.load_state_dict(weights)
    with torch.no_grad():
        assert (small(tokens()) - large(tokens())).abs().max() < 1e-10
    assert mixer_state(small.float(), 1, 8) * (4 // kv_heads) == mixer_state(large.float(), 1, 8)


@every_case
@pytest.mark.parametrize("length", [1, 7, 2 * T + 1])
def test_odd_lengths_agree_with_a_longer_sequence(case, length):
    model = awake(GPT(case.config())).double()
    idx = tokens(3 * T)
    with torch.no_grad():
        assert (model(idx[:, :length]) - model(idx)[:, :length]).abs().max() < 1e-10
    model(idx[:, :length], idx[:, :length]).backward()
    assert model.embed.weight.grad.isfinite().all()


@every_case
def test_bfloat16_agrees_with_float32(case):
    """Autocast moves the loss by at most 2 % and turns the whole gradient by at most acos 0.95."""
    model = awake(GPT(case.config()))
    gradients, losses = [], []
    for enabled in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = model(*pair())
        loss.backward()
        losses.append(loss.item())
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    assert torch.cosine_similarity(gradients[0], gradients[1], dim=0) > 0.95


def assert_compiled_agrees(case: Case, backend: str) -> None:
    model, (idx, targets) = awake(GPT(case.config())), pair()
    expected = model(idx, targets)
    wanted = torch.autograd.grad(expected, list(model.parameters()))
    torch._dynamo.reset()
    compiled = torch.compile(model, backend=backend)
    got = compiled(idx, targets)
    assert got.item() == pytest.approx(expected.item(), rel=1e-5)
    for one, other in zip(torch.autograd.grad(got, list(model.parameters())), wanted, strict=True):
        assert (one - other).abs().max() <= 1e-4 * other.abs().max()


breaks_graph = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
"""Dynamo looks at .grad where an opaque function breaks its graph, and warns itself."""


@breaks_graph
@every_case
def test_traced_model_agrees_with_eager(case):
    assert_compiled_agrees(case, "aot_eager")


@pytest.mark.slow
@breaks_graph
@pytest.mark.filterwarnings("ignore:`torch.jit")  # inductor imports what PyTorch itself has deprecated
@every_case
def test_compiled_model_agrees_with_eager(case):
    assert_compiled_agrees(case, "inductor")


@every_case
@pytest.mark.parametrize("length", [T, 64])
def test_declared_operations_are_those_counted(case, length):
    model = awake(GPT(case.config()))
    ledger, scored = model.flops(length), 2 * length
    with Counter() as forward:
        loss = model(*pair(length))
    with Counter() as backward:
        loss.backward()
    for name, counted, declared in (
        ("forward", forward.operations, ledger.forward * scored),
        ("backward", backward.operations, ledger.backward * scored),
    ):
        assert counted.matmul == pytest.approx(declared.matmul, rel=0.01), name
        assert counted.semiring == pytest.approx(declared.semiring, rel=0.05), name
        assert counted.elementwise == pytest.approx(declared.elementwise, rel=0.05), name


@every_case
def test_declared_products_of_decoding_are_those_counted(case):
    model = GPT(case.config())
    cache = model.init_cache(2, T)
    with torch.no_grad():
        model(tokens(T - 1), cache=cache)
        with Counter() as counter:
            model(tokens(1), cache=cache)
    declared = model.flops(T - 1).decode * 2
    assert counter.operations.matmul == pytest.approx(declared.matmul, rel=0.01)
    assert counter.operations.semiring == pytest.approx(declared.semiring, rel=0.05)


def tensors_of(state: Any) -> list[Tensor]:
    """Every tensor that a cache object of any make holds."""
    if isinstance(state, Tensor):
        return [state]
    if isinstance(state, dict):
        state = list(state.values())
    if isinstance(state, list | tuple):
        return [tensor for item in state for tensor in tensors_of(item)]
    return tensors_of(list(vars(state).values())) if hasattr(state, "__dict__") else []


def mixer_state(model: GPT, batch: int, length: int) -> int:
    """Bytes of the caches after they have been filled, storage that they share counted once."""
    cache = model.init_cache(batch, length, torch.float32)
    with torch.no_grad():
        model(tokens(length, batch), cache=cache)
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage() for tensor in tensors_of(cache.layers)}
    return sum(storage.nbytes() for storage in storages.values())


@every_case
def test_decoding_keeps_the_bytes_that_are_declared(case):
    model = GPT(case.config())
    built = plan(model.config)
    declared = sum(mixer.state(model.config, 3, 17) for mixer in built.mixers)
    declared += model.config.n_layer * built.block.state(model.config, 3, 17)
    assert mixer_state(model, 3, 17) == declared


@every_case
def test_a_checkpoint_brings_the_same_model_back(case):
    model, file = awake(GPT(case.config())), io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other = GPT(case.config(), seed=9)
    with torch.no_grad():
        assert not torch.equal(model(tokens()), other(tokens()))
        other.load_state_dict(torch.load(file, weights_only=True))
        assert torch.equal(model(tokens()), other(tokens()))


@every_case
def test_common_weights_are_those_of_the_baseline(case):
    ours, base = dict(GPT(case.config()).named_parameters()), dict(GPT(Case("standard").config()).named_parameters())
    common = [name for name in ours if name in base and ours[name].shape == base[name].shape]
    assert {"embed.weight", "head.weight", "stack.blocks.1.mlp.up.weight"} <= set(common)
    assert all(torch.equal(ours[name], base[name]) for name in common)


@every_case
def test_the_mechanism_is_more_than_its_name(case):
    if case == Case("standard"):
        pytest.skip("the baseline itself")
    ours, base = awake(GPT(case.config())), awake(GPT(Case("standard").config()))
    with torch.no_grad():
        assert not torch.equal(ours(tokens()), base(tokens()))


@pytest.mark.parametrize("record", [record for record in RECORDS if record.reduces_to], ids=lambda record: record.name)
def test_the_declared_limit_holds(record):
    record.load()
    module = __import__(record.module, fromlist=["limit"])
    assert getattr(module, record.reduces_to.check)() <= record.reduces_to.tolerance


@every_record
def test_the_record_says_where_it_comes_from(record):
    assert record.source.startswith(("arXiv:", "doi:"))
    assert record.title and record.title == record.title.strip()
    assert record.reduces_to or record.name == "residual", "need a limit that ties it to something known"
    assert bool(record.twin) != bool(record.no_twin), "need a JAX twin, or the reason why there is none"


@every_record
def test_page_and_twin_exist(record):
    if record.page:
        page = (ROOT / "markdown_documentation" / record.page).read_text(encoding="utf-8")
        assert record.source.partition(":")[2] in page, "the page does not name the source"
    if record.twin:
        module, _, function = record.twin.rpartition(".")
        tree = ast.parse((ROOT / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8"))
        assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@every_record
def test_every_option_explains_itself(record):
    for field in fields(record.knobs):
        assert field.metadata["help"], f"{record.name}: {field.name} has no help"
    assert record.knobs() == record.knobs()


def test_a_missing_page_and_a_missing_initial_value_are_caught():
    with pytest.raises(FileNotFoundError):
        test_page_and_twin_exist(type("Record", (), {"page": "no-such-page.md", "twin": "", "source": "arXiv:1"})())

    class Forgetful(GPT):
        def __init__(self, config: GPTConfig):
            nn.Module.__init__(self)
            self.config = config
            self.embed = nn.Embedding(V, 32)
            self.head = nn.Linear(32, V, bias=False)
            self.stack = GPT(config).stack
            self.stack.extra = nn.Parameter(torch.zeros(1))
            self.init_weights(0)

    with pytest.raises(AssertionError, match="stack.extra"):
        Forgetful(Case("standard").config())
