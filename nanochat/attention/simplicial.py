"""2-simplicial attention: a token attends to pairs of tokens, by one weight for each triangle (i, j, l).

The weight sees three tokens at once. Two rounds of pairwise attention (two-hop diffusion) give a path i, j, l the
product of two pairwise weights instead; that is another function, and not called simplicial here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nanochat.attention._head_operations import (
    head_backward,
    head_operations,
    head_shapes,
    kv_width,
    norm_backward,
    norm_forward,
)
from nanochat.attention.registry import MIXERS
from nanochat.config import ConfigError, common_faults, option
from nanochat.kernels.simplicial import cost
from nanochat.registry import Limit, Mechanism, Operations, Requirement

if TYPE_CHECKING:
    from nanochat.config import GPTConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class SimplicialKnobs:
    """Options of ``simplicial``."""

    window: str = option(
        "32,8", "how many of the latest keys and second keys a token pairs up, as W1,W2", unit="tokens"
    )
    form: str = option(
        "trilinear", "how a query meets two keys: triple product, or 3x3 determinants (invariant under rotations)",
        choices=cost.FORMS,
    )  # fmt: skip

    def __post_init__(self) -> None:
        faults = common_faults(self)
        if not re.fullmatch(r"[1-9][0-9]{0,8},[1-9][0-9]{0,8}", str(self.window)):
            faults.append(f"--simplicial-window: got {self.window!r}, need two positive whole numbers, as in 32,8")
        if faults:
            raise ConfigError(faults)

    @property
    def windows(self) -> tuple[int, int]:
        """(w1, w2)."""
        first, second = self.window.split(",")
        return int(first), int(second)


def knobs_of(config: GPTConfig) -> SimplicialKnobs:
    """The options in a configuration, or the defaults."""
    return config.knobs.get("simplicial", SimplicialKnobs())


def slopes(config: GPTConfig) -> list[float]:
    """Distance penalty of each head, 2^(-8 (h+1) / H): trilinear scores under ``--position rope``, else none.

    Source: the geometric sequence of arXiv:2108.12409.
    """
    if config.position != "rope" or knobs_of(config).form != "trilinear":
        return []
    return [2.0 ** (-8.0 * (head + 1) / config.n_head) for head in range(config.n_head)]


def _rotated(config: GPTConfig) -> int:
    """Channels of a token that are rotated: two of every three, of queries and both keys, in the determinant form."""
    if config.position != "rope" or knobs_of(config).form != "determinant":
        return 0
    return (config.n_head + 2 * config.kv_heads) * 2 * (config.head_dim // 3)


def _kernel(config: GPTConfig, queries: int, keys: tuple[int, int]) -> tuple[int, int, int, tuple[int, int], str, bool]:
    knobs = knobs_of(config)
    counts = cost.triples(queries, keys[0], knobs.windows[0], keys[1], knobs.windows[1])
    return config.n_head, queries, config.head_dim, counts, knobs.form, bool(slopes(config))


def _around(config: GPTConfig) -> Operations:
    """Forward per token, outside the kernel: what heads share, two more projections, one more norm, rotations."""
    total = head_operations(config, rotary=False) + Operations(
        matmul=4 * config.n_embd * kv_width(config), elementwise=3 * _rotated(config)
    )
    return total + norm_forward(config.head_dim, config.kv_heads) if config.qk_norm else total


def operations(config: GPTConfig, length: int) -> Operations:
    """Forward, per token of a sequence of ``length``."""
    kernel = cost.forward(*_kernel(config, length, (length, length)))
    return _around(config) + (1 / length) * kernel


def backward(config: GPTConfig, length: int) -> Operations:
    """Backward, per token."""
    kernel = cost.backward(*_kernel(config, length, (length, length)))
    more = Operations(
        matmul=8 * config.n_embd * kv_width(config), elementwise=2 * config.n_embd + 3.5 * _rotated(config)
    )
    if config.qk_norm:
        more += norm_backward(config.head_dim, config.kv_heads)
    return head_backward(config, rotary=False) + more + (1 / length) * kernel


def kept(config: GPTConfig, length: int) -> tuple[int, int]:
    """Rows that decoding keeps of ``length`` tokens: the windows without the token that is new."""
    first, second = knobs_of(config).windows
    return min(length, first - 1), min(length, second - 1)


def decode(config: GPTConfig, length: int) -> Operations:
    """Forward of one token when ``length`` are cached, of which the windows are kept."""
    first, second = kept(config, length)
    return _around(config) + cost.forward(*_kernel(config, 1, (first + 1, second + 1)))


MIXERS.register(
    Mechanism(
        name="simplicial",
        title="2-simplicial attention: a softmax over pairs of tokens",
        source="arXiv:2507.02754",
        cls="Simplicial",
        knobs=SimplicialKnobs,
        operations=operations,
        backward=backward,
        decode=decode,
        state=lambda config, batch, length: 2 * batch * kv_width(config) * sum(kept(config, length)) * 4,
        hessian=lambda config, length: "its kernel has a backward pass but no second one",
        shapes=lambda config: [*head_shapes(config), *[(kv_width(config), config.n_embd)] * 2],
        requires=(
            Requirement(
                lambda config: config.head_dim >= 3 or knobs_of(config).form != "determinant",
                "--simplicial-form determinant: got {config.head_dim} channels per head, need at least 3 (best a "
                "multiple: those left over enter by their product)",
            ),
            Requirement(
                lambda config: config.logit_scaling == "none" or max(knobs_of(config).windows) > config.sequence_len,
                "--logit-scaling {config.logit_scaling}: got a --simplicial-window within --sequence-len "
                "{config.sequence_len}, which sees no more pairs in a longer sequence, need a longer window or none",
            ),
        ),
        reduces_to=Limit(
            statement="with k' = v' = 1 and w1 = T, causal softmax attention, whatever w2 is",
            check="softmax_limit",
            tolerance=1e-12,
        ),
        length_aware=True,
        page="simplicial.md",
        twin="demos.simplicial.maths.simplicial_attention",
    ),
    __name__,
)

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from nanochat.attention.heads import HeadMixer, Rope
from nanochat.initialise import Draw
from nanochat.kernels.simplicial import operators


def rotate_triples(x: Float[Tensor, "B H T D"], rope: Rope) -> Float[Tensor, "B H T D"]:
    """Rotate each vector (c, c + D//3, c + 2 (D//3)) about its third axis by the angle of its position.

    A determinant does not change when all three of its vectors turn together, so that scores see i - j and i - l only.
    """
    third = x.shape[-1] // 3
    cos, sin = (table[:, :third].to(x.dtype) for table in rope)
    first, second, rest = x.split([third, third, x.shape[-1] - 2 * third], dim=-1)
    return torch.cat((first * cos - second * sin, first * sin + second * cos, rest), dim=-1)


class WindowCache:
    """The latest keys and values of one layer, as many as the windows reach back.

    Args:
        batch: sequences.
        length: tokens of the longest of them.
    """

    def __init__(self, config: GPTConfig, batch: int, length: int, device: torch.device, dtype: torch.dtype):
        first, second = kept(config, length)
        shapes = [(batch, config.kv_heads, rows, config.head_dim) for rows in (first, first, second, second)]
        self.kept = [torch.zeros(shape, device=device, dtype=dtype) for shape in shapes]
        self.position = 0

    def append(self, new: tuple[Tensor, ...]) -> list[Tensor]:
        """Add the new tokens' k, v, k', v'; returns each with what its window still holds, (B, K, held + N, D)."""
        found = []
        for rows, fresh in zip(self.kept, new, strict=True):
            size = rows.shape[2]
            held = rows[:, :, size - min(size, self.position) :]
            joined = torch.cat((held.to(fresh.dtype), fresh), 2)
            latest = joined[:, :, max(0, joined.shape[2] - size) :]
            rows[:, :, size - latest.shape[2] :] = latest
            found.append(joined)
        self.position += new[0].shape[2]
        return found


class Simplicial(HeadMixer):
    r"""2-simplicial attention over heads: :math:`y_i = \sum_{jl} p_{ijl}\, v_j \circ v'_l`.

    Positions (``--position rope``): the determinant form rotates 3-vectors; the trilinear one has no rotations that
    leave it alone, so its scores get a penalty linear in both distances instead.
    """

    def __init__(self, config: GPTConfig, layer: int):
        super().__init__(config, layer)
        knobs = knobs_of(config)
        self.window, self.form, self.slopes = knobs.windows, knobs.form, slopes(config)
        self.windows = self.window
        width = kv_width(config)
        maps = {name: nn.Linear(config.n_embd, width, bias=False) for name in ("key", "value")}
        self.second = nn.ModuleDict(maps)

    def init_weights(self, draw: Draw) -> None:
        super().init_weights(draw)
        for name, layer in self.second.items():
            assert isinstance(layer, nn.Linear)
            draw.linear(f"second.{name}", layer)

    def init_cache(self, batch: int, length: int, device: torch.device, dtype: torch.dtype) -> Any:
        return WindowCache(self.config, batch, length, device, dtype)

    def forward(self, x: Float[Tensor, "B N C"], rope: Rope | None = None, cache: Any = None) -> Float[Tensor, "B N C"]:
        """``cache``: the :class:`WindowCache` of :meth:`init_cache`."""
        q, k, v = self.project(x, None)
        dim = self.config.head_dim
        second_k, second_v = (
            self.second[name](x).view(*x.shape[:2], -1, dim).transpose(1, 2) for name in ("key", "value")
        )
        if self.config.qk_norm:
            second_k = F.rms_norm(second_k, (dim,))
        if rope is not None and self.form == "determinant":
            q, k, second_k = (rotate_triples(each, rope) for each in (q, k, second_k))
        q = self.sharpen(q, 0 if cache is None else cache.position)
        if cache is not None:
            k, v, second_k, second_v = cache.append((k, v, second_k, second_v))
        y = operators.attention(q, k, v, second_k, second_v, self.window, self.form, self.slopes)
        return self.out(y.transpose(1, 2).reshape(x.shape))


def softmax_limit() -> float:
    """Largest difference from causal softmax attention with k' = v' = 1, a whole first window and any second."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 2, 17, 8, generator=generator, dtype=torch.float64) for _ in range(3))
    known = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    one = torch.ones_like(k)
    found = (operators.attention(q, k, v, one, one, (17, second)) for second in (1, 3, 40))
    return max((y - known).abs().max().item() for y in found)
