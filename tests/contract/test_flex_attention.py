"""FlexAttention computes what SDPA computes, with and without a window, and says where it cannot be trained."""

from __future__ import annotations

import pytest
import torch

from nanochat.attention.standard import StandardKnobs, causal_mask, flex_softmax_attention, naive, softmax_attention
from nanochat.gpt import GPT, GPTConfig

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")

SHAPES = [(33, 33, 4), (33, 33, 2), (1, 20, 1), (5, 20, 2), (130, 130, 4)]


def heads(queries: int, keys: int, kv_heads: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(2, count, length, 16, generator=generator)
        for count, length in ((4, queries), (kv_heads, keys), (kv_heads, keys))
    ]


@pytest.mark.parametrize("window", [0, 1, 5, 1000])
@pytest.mark.parametrize(("queries", "keys", "kv_heads"), SHAPES)
def test_sdpa_agrees_with_the_definition(window, queries, keys, kv_heads):
    q, k, v = heads(queries, keys, kv_heads)
    assert (softmax_attention(q, k, v, window) - naive(q, k, v, window)).abs().max() < 2e-6


@pytest.mark.parametrize(("queries", "keys", "window"), [(33, 33, 0), (33, 33, 5), (5, 20, 5)])
def test_flex_attention_agrees_with_the_definition(queries, keys, window):
    q, k, v = heads(queries, keys, 2)
    assert (flex_softmax_attention(q, k, v, window) - naive(q, k, v, window)).abs().max() < 2e-6


def test_a_window_of_one_copies_the_own_value():
    q, k, v = heads(7, 7, 4)
    assert torch.allclose(naive(q, k, v, 1), v)
    assert causal_mask(2, 5, 3, q.device).tolist() == [[0, 1, 1, 1, 0], [0, 0, 1, 1, 1]]


def model_of(**knobs) -> GPT:
    config = GPTConfig(n_layer=2, n_embd=32, vocab_size=50, sequence_len=33, knobs={"standard": StandardKnobs(**knobs)})
    model = GPT(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * parameter.shape[-1] ** -0.5)
    return model


IDX = torch.randint(50, (2, 33), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("window", [0, 5])
def test_models_agree_with_and_without_it(window):
    plain, flex = model_of(window=window), model_of(window=window, use_flex_attention=True)
    with torch.no_grad():
        whole = flex(IDX)
        assert (whole - plain(IDX)).abs().max() < 1e-5
        cache = flex.init_cache(2, 33)
        parts = torch.cat([flex(part, cache=cache) for part in IDX.split([20, 1, 12], 1)], 1)
    assert (parts - whole).abs().max() < 1e-5


def test_a_window_hides_what_is_older():
    """Two layers of window 5 see 4 + 4 tokens back."""
    model, changed = model_of(window=5).double(), IDX.clone()
    changed[:, 10] = (changed[:, 10] + 1) % 50
    with torch.no_grad():
        gap = (model(IDX) - model(changed)).abs().amax((0, 2))
    assert gap[:10].max() == 0 and gap[10:19].min() > 0 and gap[19:].max() == 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="the refusal is the CPU's")
def test_training_on_the_cpu_is_refused_with_the_reason():
    with pytest.raises(NotImplementedError, match="does not support backward on CPU; need --device cuda"):
        model_of(use_flex_attention=True)(IDX, IDX)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gradients_agree_on_a_device_that_has_them():
    losses, gradients = [], []
    for knobs in ({"window": 5}, {"window": 5, "use_flex_attention": True}):
        model = model_of(**knobs).cuda()
        loss = model(IDX.cuda(), IDX.cuda())
        loss.backward()
        losses.append(loss.item())
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert torch.cosine_similarity(*gradients, dim=0) > 0.999
