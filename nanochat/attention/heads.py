"""What head-shaped mixers share: projections, rotary positions, QK norm, grouped queries, the key/value cache."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from nanochat.config import GPTConfig
from nanochat.initialise import Draw, Mixer

Rope = tuple[Tensor, Tensor]


def rotary_table(length: int, head_dim: int, base: float = 10000.0, device: torch.device | str = "cpu") -> Rope:
    """Cosines and sines of the rotary angles t * base^(-2i/D), each (length, D/2), in fp32.

    Source: arXiv:2104.09864.
    """
    frequencies = base ** (-torch.arange(0, head_dim, 2, dtype=torch.float64, device=device) / head_dim)
    angles = torch.arange(length, dtype=torch.float64, device=device)[:, None] * frequencies
    return angles.cos().float(), angles.sin().float()


def rotate(x: Float[Tensor, "B H T D"], rope: Rope) -> Float[Tensor, "B H T D"]:
    """Rotate the channel pairs (i, i + D/2) of each head by the angles of their position."""
    cos, sin = (table.to(x.dtype) for table in rope)
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, first * sin + second * cos), dim=-1)


def sharpness(
    start: int, queries: int, trained: int, like: Tensor, windows: tuple[int, ...] = ()
) -> Float[Tensor, "N 1"]:
    r"""Factor of the scores of N queries from position ``start``: :math:`\max(1, \log n_t / \log n_{T_{train}})`.

    :math:`n_t = t` is the number of tokens that a query sees, itself included; with windows w, the number of tuples
    :math:`\prod_w \min(t, w)`. A softmax over more of them than in training spreads out; scores that grow with their
    logarithm hold its sharpness. Source: arXiv:2202.12172.
    """
    wide = torch.float64 if like.dtype == torch.float64 else torch.float32
    tokens = torch.arange(start + 1, start + queries + 1, device=like.device, dtype=wide)
    if not windows:
        return (tokens.log() / math.log(trained)).clamp_min(1)[:, None]
    seen = torch.stack([tokens.clamp_max(window).log() for window in windows]).sum(0)
    return (seen / sum(math.log(min(trained, window)) for window in windows)).clamp_min(1)[:, None]


def sharpened(q: Float[Tensor, "B H N D"], factor: Float[Tensor, "N 1"] | None) -> Float[Tensor, "B H N D"]:
    """Queries times their factor, in their own type; themselves where there is none."""
    return q if factor is None else (q * factor).to(q.dtype)


def repeat_heads(x: Float[Tensor, "B K T D"], groups: int) -> Float[Tensor, "B H T D"]:
    """Give each of the K key/value heads to ``groups`` query heads (views, no copy)."""
    if groups == 1:
        return x
    batch, heads, length, dim = x.shape
    return x[:, :, None].expand(batch, heads, groups, length, dim).reshape(batch, heads * groups, length, dim)


def causal_mask(queries: int, keys: int, window: int, device: torch.device) -> Tensor:
    """(N, S) booleans: the N queries are the last N of S positions; each sees itself and ``window`` - 1 before it."""
    query = torch.arange(keys - queries, keys, device=device)[:, None]
    key = torch.arange(keys, device=device)[None, :]
    mask = key <= query
    return mask & (key > query - window) if window else mask


def softmax_attention(q: Tensor, k: Tensor, v: Tensor, window: int = 0) -> Tensor:
    """Causal softmax attention through ``scaled_dot_product_attention``, the N queries being the last of S positions.

    The mask is implicit wherever the kernel allows it. ``window``: see :func:`causal_mask`.
    """
    queries, keys = q.shape[2], k.shape[2]
    grouped = q.shape[1] != k.shape[1]
    if window == 0 and queries == keys:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)
    mask = None if queries == 1 and (window == 0 or window >= keys) else causal_mask(queries, keys, window, q.device)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=grouped)


def rotate_neutral(x: Float[Tensor, "B H T D"], rope: Rope, first: int, width: int) -> Float[Tensor, "B H T D"]:
    """Rotary pairs among the ``width`` channels behind the ``first`` ones of each head; the others stay.

    Their frequencies are spread over the range of a whole head as evenly as they can be.
    """
    dim = x.shape[-1]
    if not width:
        return x
    every = [pair * dim // width for pair in range(width // 2)]
    cos, sin = (table[:, every] for table in rope)
    before, neutral, after = x.split((first, width, dim - first - width), -1)
    return torch.cat((before, rotate(neutral, (cos, sin)), after), -1)


class KeyValueCache:
    """Keys and values of one layer, in buffers allocated once and filled by slice.

    Args:
        batch: sequences.
        length: tokens it can hold; see :meth:`reserve`.
    """

    per_token: tuple[str, ...] = ("keys", "values")
    """Names of the buffers that have one row per token, (B, K, length, ...)."""

    def __init__(self, config: GPTConfig, batch: int, length: int, device: torch.device, dtype: torch.dtype):
        shape = (batch, config.kv_heads, length, config.head_dim)
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)
        self.position = 0

    @property
    def length(self) -> int:
        """Tokens it has room for."""
        return self.keys.shape[2]

    def claim(self, tokens: int) -> int:
        """Check that the new tokens fit; returns where they end."""
        end = self.position + tokens
        if end > self.length:
            raise ValueError(f"cache: got {self.position} + {tokens} tokens, need at most {self.length}")
        return end

    def reserve(self, length: int) -> None:
        """Make room for ``length`` tokens in all; what it holds stays."""
        for name in self.per_token:
            old = getattr(self, name)
            wide = old.new_zeros(*old.shape[:2], length, *old.shape[3:])
            wide[:, :, : self.position] = old[:, :, : self.position]
            setattr(self, name, wide)

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add the new tokens' keys and values; returns all so far, (B, K, S, D) each."""
        end = self.claim(keys.shape[2])
        self.keys[:, :, self.position : end] = keys
        self.values[:, :, self.position : end] = values
        self.position = end
        return self.keys[:, :, :end], self.values[:, :, :end]


def key_value_bytes(config: GPTConfig, batch: int, length: int) -> int:
    """Bytes that :class:`KeyValueCache` keeps in fp32 for one layer."""
    return 2 * batch * config.kv_heads * length * config.head_dim * 4


class HeadMixer(Mixer):
    """Projects to heads, lets :meth:`attend` mix them, projects back.

    ``attend(q: (B, H, N, D), k: (B, K, S, D), v: (B, K, S, D)) -> (B, H, N, D)`` where the N queries are the
    last N of the S positions: N = S in training, N < S when a cache continues a sequence.

    Attributes:
        windows: how far back each token of what it attends to may lie; none if all the way.
    """

    windows: tuple[int, ...] = ()

    def __init__(self, config: GPTConfig, layer: int):
        super().__init__()
        self.config = config
        self.layer = layer
        width, kv_width = config.n_embd, config.kv_heads * config.head_dim
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, kv_width, bias=False)
        self.value = nn.Linear(width, kv_width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def init_weights(self, draw: Draw) -> None:
        draw.linear("query", self.query)
        draw.linear("key", self.key)
        draw.linear("value", self.value)
        draw.linear("out", self.out, zero=True)

    def init_cache(self, batch: int, length: int, device: torch.device, dtype: torch.dtype) -> KeyValueCache:
        return KeyValueCache(self.config, batch, length, device, dtype)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} defines no attend")

    def project(self, x: Float[Tensor, "B N C"], rope: Rope | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, H, N, D), keys and values (B, K, N, D), normalised and rotated as the configuration says."""
        batch, length, _ = x.shape
        dim = self.config.head_dim
        q = self.query(x).view(batch, length, -1, dim).transpose(1, 2)
        k = self.key(x).view(batch, length, -1, dim).transpose(1, 2)
        v = self.value(x).view(batch, length, -1, dim).transpose(1, 2)
        if self.config.qk_norm:
            q, k = F.rms_norm(q, (dim,)), F.rms_norm(k, (dim,))
        if rope is not None:
            q, k = rotate(q, rope), rotate(k, rope)
        return q, k, v

    def score_factor(self, q: Float[Tensor, "B H N D"], start: int) -> Float[Tensor, "N 1"] | None:
        """What ``--logit-scaling`` multiplies scores of queries from ``start`` on by, if it does."""
        trained = self.config.sequence_len
        if self.config.logit_scaling == "none" or start + q.shape[2] <= trained:
            return None
        return sharpness(start, q.shape[2], trained, q, self.windows)

    def sharpen(self, q: Float[Tensor, "B H N D"], start: int) -> Float[Tensor, "B H N D"]:
        """Queries from position ``start`` on as ``--logit-scaling`` has them; unchanged within the trained length."""
        return sharpened(q, self.score_factor(q, start))

    def forward(
        self, x: Float[Tensor, "B N C"], rope: Rope | None = None, cache: KeyValueCache | None = None
    ) -> Float[Tensor, "B N C"]:
        q, k, v = self.project(x, rope)
        q = self.sharpen(q, 0 if cache is None else cache.position)
        if cache is not None:
            k, v = cache.append(k, v)
        y = self.attend(q, k, v)
        return self.out(y.transpose(1, 2).reshape(x.shape))
