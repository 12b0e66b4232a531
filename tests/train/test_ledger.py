"""The ledger against the counter, the counter against counts made by hand, and both against what they must refuse."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nanochat import flops
from nanochat.architecture import attention_types, faults
from nanochat.attention.standard import Standard, StandardKnobs, naive
from nanochat.bench.books import LENGTHS, SHAPES, books, exponents, knobs, label, variants
from nanochat.config import ConfigError, GPTConfig, OptimConfig
from nanochat.counter import RULES, Counter, UnknownOperation, attention_cost, count, register
from nanochat.curvature import Curvature
from nanochat.flops import ledger
from nanochat.gpt import GPT
from nanochat.kernels.maxplus import cost
from nanochat.kernels.maxplus import naive as maxplus_naive
from nanochat.optim import OPTIMIZERS, build
from nanochat.optim.hoss import HossKnobs
from nanochat.registry import Operations

BATCH = 2
VARIANTS = {
    "gelu": {"mlp": "gelu"},
    "tied": {"tie_embeddings": True},
    "no position, no norm": {"position": "none", "qk_norm": False},
    "one key/value head": {"n_kv_head": 1},
    "window by a mask": {"knobs": {"standard": StandardKnobs(window=16)}},
}


def config_of(attention: str, optimizer: str, length: int, **sizes) -> GPTConfig:
    base = {"n_layer": 1, "n_embd": 32, "n_head": 4, "vocab_size": 256}
    return GPTConfig(**{**base, **sizes}, sequence_len=length, attention_type=attention, optimizer_type=optimizer)


def is_refused(config: GPTConfig) -> bool:
    """Whether the configuration asks for second derivatives that its mechanism has not; its ledger says so too."""
    if not faults(config):
        return False
    assert OPTIMIZERS.get(config.optimizer_type).curvature is not None
    with pytest.raises(ConfigError, match="second derivatives of "):
        ledger(config)
    return True


def assert_agree(config: GPTConfig, batch: int = BATCH) -> None:
    found = books(config, batch)
    assert not found.faults
    stated, executed = found.totals
    assert ledger(config).step_flops(batch) == pytest.approx(stated)
    assert stated == pytest.approx(executed, rel=0.005)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS.names())
@pytest.mark.parametrize("attention", attention_types())
def test_ledger_equals_counter(attention, optimizer, shape, length):
    config = config_of(attention, optimizer, length, **SHAPES[shape])
    if not is_refused(config):
        assert_agree(config)


@pytest.mark.slow
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS.names())
@pytest.mark.parametrize("variant", [each for each in variants() if each[1]], ids=lambda each: label(*each))
def test_ledger_equals_counter_for_every_option(variant, optimizer, shape, length):
    config = config_of(variant[0], optimizer, length, **SHAPES[shape], knobs=knobs(*variant))
    if not is_refused(config):
        assert_agree(config)


@pytest.mark.parametrize("size", ["sequence_len", "n_embd"])
@pytest.mark.parametrize("attention", attention_types())
def test_cost_executed_grows_as_the_formula_says(attention, size):
    config = config_of(attention, "adamw", 64)
    sizes = [getattr(config, size) * factor for factor in (1, 2, 4)]
    stated, executed = exponents({each: books(replace(config, **{size: each})) for each in sizes})
    assert stated == pytest.approx(executed, abs=0.01)
    assert 1.0 < stated < 2.0


class TestAudit:
    """Negative controls: what the comparison of both books has to see."""

    CONFIG = config_of("standard", "adamw", 32)

    @pytest.mark.parametrize(("kind", "factor"), [("matmul", 1.1), ("matmul", 0.0), ("elementwise", 1.5)])
    def test_a_formula_that_is_off_is_a_fault(self, monkeypatch, kind, factor):
        def wrong(config):
            book = flops.ledger(config)
            part = book.parts["mixer"]
            changed = replace(part, **{kind: factor * getattr(part, kind)})
            return replace(book, parts={**book.parts, "mixer": changed})

        assert not books(self.CONFIG).faults
        monkeypatch.setattr("nanochat.bench.books.ledger", wrong)
        (fault,) = books(self.CONFIG).faults
        assert fault.startswith(f"{kind} off by ")

    def test_operations_that_are_stated_and_not_executed_are_a_fault(self, monkeypatch):
        def wrong(config):
            book = flops.ledger(config)
            return replace(book, optimizer=book.optimizer + Operations(semiring=1.0))

        monkeypatch.setattr("nanochat.bench.books.ledger", wrong)
        assert books(self.CONFIG).faults == ["semiring off by inf%"]

    def test_an_extra_product_is_a_fault(self, monkeypatch):
        honest = Standard.attend
        monkeypatch.setattr(Standard, "attend", lambda self, q, k, v: honest(self, q, k, v) + 0 * (q @ k.mT)[..., :1])
        assert "matmul" in books(self.CONFIG).faults[0]

    def test_an_operator_that_the_counter_does_not_know_ends_the_audit(self, monkeypatch):
        honest = Standard.attend

        def exotic(self, q, k, v):
            return honest(self, q, k, v) * torch.linalg.det(torch.eye(2))

        monkeypatch.setattr(Standard, "attend", exotic)
        with pytest.raises(UnknownOperation, match=r"aten\._linalg_det"):
            books(self.CONFIG)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("attention", attention_types())
def test_ledger_equals_counter_for_every_knob_of_the_trunk(attention, variant):
    assert_agree(config_of(attention, "adamw", 64, **VARIANTS[variant]), batch=4)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("attention", attention_types())
def test_hessian_products_are_charged_for_every_knob_of_the_trunk(attention, variant):
    config = config_of(attention, "hoss", 64, **VARIANTS[variant])
    if not is_refused(config):
        assert_agree(config, batch=4)


@pytest.mark.parametrize("knobs", [{"krylov": 1}, {"krylov": 5, "refresh": 7}, {"krylov": 3, "spaces": "groups"}])
def test_products_follow_the_options(knobs):
    """A look costs its graph and one product more for each dimension of each space; a step its share of a look."""
    config, optim = config_of("standard", "hoss", 32), OptimConfig(knobs={"hoss": HossKnobs(**knobs)})
    model = GPT(config)
    for (
        parameter
    ) in model.parameters():  # where the head is zero, the block of the embedding is: its space is exhausted
        nn.init.normal_(parameter, std=0.1)
    optimizer = build(model, optim)
    idx = torch.zeros(BATCH, 32, dtype=torch.long)
    model(idx, idx).backward()
    counted = count(optimizer.step, lambda: Curvature(lambda: model(idx, idx), optimizer.parameters))
    declared = ledger(config, optim=optim)
    stated = declared.looking(BATCH) + declared.optimizer
    assert stated.matmul == pytest.approx(counted.matmul, rel=0.01)
    assert stated.elementwise == pytest.approx(counted.elementwise, rel=0.05)
    every = knobs.get("refresh", 1)
    assert declared.every == every
    assert declared.run_flops(BATCH, every) == pytest.approx(every * declared.step_flops(BATCH))
    assert declared.run_flops(BATCH, every + 1, 2) == declared.run_flops(BATCH, every + 1)


@pytest.mark.parametrize("attention", attention_types())
@pytest.mark.parametrize("tied", [False, True])
def test_parameters_are_the_models(attention, tied):
    config = config_of(attention, "adamw", 16, n_kv_head=2, tie_embeddings=tied)
    assert ledger(config).parameters == sum(parameter.numel() for parameter in GPT(config).parameters())


@pytest.mark.parametrize("attention", attention_types())
def test_decode_equals_counter(attention):
    config = config_of(attention, "adamw", 64, n_layer=2, n_kv_head=2)
    model = GPT(config).eval()
    with torch.no_grad():
        cache = model.init_cache(1, 64)
        model(torch.zeros(1, 63, dtype=torch.long), cache=cache)
        executed = count(model, torch.zeros(1, 1, dtype=torch.long), cache=cache)
    declared = ledger(config, 63).decode
    assert declared.matmul == pytest.approx(executed.matmul, rel=0.01)
    assert declared.semiring == pytest.approx(executed.semiring, rel=0.05)


@pytest.mark.parametrize("attention", attention_types())
def test_cost_grows_with_length_as_the_formula_says(attention):
    """A whole sequence grows by tokens and pairs: its growth over equal steps in T grows equally, by 0 in a window."""
    lengths = (64, 128, 192, 256)
    totals = [length * ledger(config_of(attention, "adamw", length)).forward.total for length in lengths]
    growth = [after - before for before, after in pairwise(totals)]
    assert growth[2] - growth[1] == pytest.approx(growth[1] - growth[0], rel=0.02, abs=1e-9 * totals[0])
    assert totals[1] / lengths[1] > totals[0] / lengths[0]


def test_the_ledger_prints_itself():
    text = str(GPT(config_of("standard", "muon", 16)).flops())
    assert "mixer" in text
    assert "optimizer, per step" in text
    assert "parameters" in text


def test_the_ledger_refuses_unknown_names_and_lengths():
    with pytest.raises(ConfigError, match="did you mean 'standard'"):
        ledger(config_of("standrad", "adamw", 16))
    with pytest.raises(ValueError, match="unknown optimizer 'sgd'"):
        ledger(config_of("standard", "sgd", 16))
    with pytest.raises(ValueError, match="got length 0"):
        ledger(config_of("standard", "adamw", 16), 0)


def test_step_is_tokens_times_training_and_one_update():
    declared = ledger(config_of("standard", "muon", 16))
    assert declared.step_flops(3) == pytest.approx(48 * declared.training.total + declared.optimizer.total)
    assert declared.training.total == pytest.approx(declared.forward.total + declared.backward.total)


class TestCounter:
    def test_products_by_hand(self):
        a, b, bias = torch.ones(3, 5), torch.ones(5, 7), torch.ones(7)
        assert count(torch.mm, a, b) == Operations(matmul=2 * 3 * 5 * 7)
        assert count(torch.addmm, bias, a, b) == Operations(matmul=2 * 3 * 5 * 7, elementwise=3 * 7)
        assert count(torch.bmm, a.expand(4, 3, 5), b.expand(4, 5, 7)) == Operations(matmul=4 * 2 * 3 * 5 * 7)
        images = torch.ones(1, 2, 6, 6), torch.ones(3, 2, 3, 3)
        assert count(F.conv2d, *images) == Operations(matmul=2 * (3 * 4 * 4) * (2 * 3 * 3))

    def test_pointwise_reductions_and_free_by_hand(self):
        x = torch.ones(4, 6)
        assert count(lambda: x + x[0]) == Operations(elementwise=24)
        assert count(lambda: x.sum(-1)) == Operations(elementwise=24)
        assert count(lambda: x.add_(1)) == Operations(elementwise=24)
        assert count(lambda: x.lerp_(x, 0.5)) == Operations(elementwise=72)
        assert count(torch.sort, torch.ones(3, 8)) == Operations(elementwise=24 * 3)
        assert count(lambda: F.softmax(x, -1)) == Operations(elementwise=5 * 24)
        assert count(lambda: torch.cat([x.T.clone(), x.view(6, 4)]).to(torch.bfloat16)[1:]) == Operations()

    def test_backward_is_counted_and_products_double(self):
        x, w = torch.ones(3, 5, requires_grad=True), torch.ones(5, 7, requires_grad=True)
        y = x @ w
        assert count(y.backward, torch.ones(3, 7)).matmul == 2 * (2 * 3 * 5 * 7)

    def test_an_unknown_operator_is_refused_by_name(self):
        with pytest.raises(UnknownOperation, match=r"aten\.linalg_eig"):
            count(torch.linalg.eig, torch.eye(3))

    def test_an_unregistered_kernel_is_refused_and_a_registered_one_counted(self):
        @torch.library.custom_op("mgr_test::twice", mutates_args=())
        def twice(x: torch.Tensor) -> torch.Tensor:
            return 2 * x

        with pytest.raises(UnknownOperation, match="mgr_test"):
            count(twice, torch.ones(3))
        register("mgr_test::twice", lambda args, kwargs, result: Operations(semiring=7))
        try:
            assert count(twice, torch.ones(3)) == Operations(semiring=7)
            with pytest.raises(ValueError, match="has a rule already"):
                register("mgr_test::twice", lambda args, kwargs, result: Operations())
        finally:
            del RULES["mgr_test::twice"]

    def test_sums_by_operator(self):
        with Counter() as counter:
            torch.ones(2, 3) @ torch.ones(3, 4)
            torch.ones(5).exp()
        assert counter.operations.total == sum(each.total for each in counter.by_operator.values()) == 48 + 5

    @pytest.mark.parametrize("heads", [1, 4])
    def test_fused_attention_is_charged_as_the_naive_form_computes_it(self, heads):
        """The naive form computes all pairs in products; the fused one is charged the causal share of them."""
        q, k, v = (torch.randn(2, heads, 32, 8, requires_grad=True) for _ in range(3))
        fused = count(F.scaled_dot_product_attention, q, k, v, is_causal=True)
        whole = count(naive, q, k, v)
        assert fused.matmul == whole.matmul * 33 / 64
        masked = torch.ones(32, 32, dtype=torch.bool).tril()
        assert count(F.scaled_dot_product_attention, q, k, v, attn_mask=masked).matmul == whole.matmul
        backward = count(naive(q, k, v).sum().backward).matmul
        fused_backward = count(F.scaled_dot_product_attention(q, k, v, is_causal=True).sum().backward).matmul
        assert fused_backward == (backward + whole.matmul / 2) * 33 / 64  # it computes the scores again

    @pytest.mark.parametrize("score", cost.SCORES)
    def test_tropical_kernel_is_charged_as_the_naive_form_computes_it(self, score):
        """Additions, maxima and minima of the definition over all pairs, against the kernel's formula per pair."""
        q, k, v = (torch.randn(1, 2, 48, 16) for _ in range(3))

        def definition() -> torch.Tensor:
            rows, columns = q[:, :, :, None], k[:, :, None]
            if score == "hilbert":
                difference = rows - columns
                scores = difference.amin(-1) - difference.amax(-1)
            else:
                scores = (rows + columns).amax(-1)
            return (scores[..., None] + v[:, :, None]).amax(3)

        last = maxplus_naive.attention(q, k, v, score)[:, :, -1]
        assert torch.equal(definition()[:, :, -1], last)  # the last query sees every key: the same function
        per_pair = count(definition).elementwise / (2 * 48 * 48)
        assert cost.attention_forward(2, 48, 48, 16, score) == per_pair * 2 * cost.causal_pairs(48, 48)

    def test_attention_pairs(self):
        assert attention_cost(1, 4, 4, 8, True, False).matmul == 4 * 8 * 10
        assert attention_cost(1, 4, 6, 8, False, False).matmul == 4 * 8 * 24
