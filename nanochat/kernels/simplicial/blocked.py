r"""2-simplicial attention by matrix products: the second key is folded into the query, blocks of queries share keys.

.. math:: \langle q_i, k_j, k'_l \rangle = \langle g_{il}, k_j \rangle, \qquad g_{il} = q_i \circ k'_l
    \text{ or } k'_l \times q_i

so that for a block of n queries all :math:`n w_2` folded rows meet the same :math:`m \approx n + w_1` keys in one
product, and the softmax runs over :math:`w_2 m` contiguous scores. The backward pass computes them again. Temporaries
are bounded by :data:`TILE`: nothing grows with T but inputs, outputs and one normaliser per query and head.

Functions here are plain (no autograd of their own). Axes inside: b batch, K key/value heads, e blocks, n queries of a
block, G query heads per key/value head, w second keys, m keys of a block, D channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 16
"""Queries per block: more waste less of a product's set-up, fewer waste less on keys outside the window."""
TILE = 1 << 18
"""Scalars of the largest temporary: 1 MB in fp32, which a core's cache still serves."""


def times(a: Tensor, b: Tensor) -> Tensor:
    """Product, laid out in the order of its axes: those of a view of overlapping windows may say otherwise."""
    shape = torch.broadcast_shapes(a.shape, b.shape)
    return torch.mul(a, b, out=a.new_empty(shape))


def cross(a: Tensor, b: Tensor) -> Tensor:
    """Cross product of the triples of channels (c, c + D//3, c + 2 (D//3)); plain product of the channels left over."""
    third = a.shape[-1] // 3
    sizes = [third, third, third, a.shape[-1] - 3 * third]
    out = a.new_empty(torch.broadcast_shapes(a.shape, b.shape))
    left, right, parts = a.split(sizes, -1), b.split(sizes, -1), out.split(sizes, -1)
    for axis in range(3):
        one, other = (axis + 1) % 3, (axis + 2) % 3
        torch.mul(left[one], right[other], out=parts[axis])
        parts[axis].addcmul_(left[other], right[one], value=-1)
    torch.mul(left[3], right[3], out=parts[3])
    return out


def fold(q: Tensor, second: Tensor, form: str) -> Tensor:
    """g with <g, k> = <q, k, k'>."""
    return times(q, second) if form == "trilinear" else cross(second, q)


def fold_backward(gradient: Tensor, q: Tensor, second: Tensor, form: str) -> tuple[Tensor, Tensor]:
    """Gradients of q and k' from that of g: the same form with another argument free."""
    if form == "trilinear":
        return times(gradient, second), times(gradient, q)
    return cross(gradient, second), cross(q, gradient)


@dataclass(frozen=True)
class Layout:
    """Sizes of one call; see the axes in the module's docstring."""

    batch: int
    kv_heads: int
    groups: int
    queries: int
    dim: int
    window: tuple[int, int]
    block: int
    lead: int
    second_lead: int

    @classmethod
    def of(cls, q: Tensor, k: Tensor, second: Tensor, window: tuple[int, int]) -> Layout:
        batch, heads, queries, dim = q.shape
        block = min(BLOCK, queries)
        reach = -(-(window[0] - 1) // block) * block
        lead, second_lead = reach - (k.shape[2] - queries), window[1] - 1 - (second.shape[2] - queries)
        return cls(batch, k.shape[1], heads // k.shape[1], queries, dim, window, block, lead, second_lead)

    @property
    def blocks(self) -> int:
        return -(-self.queries // self.block)

    @property
    def before(self) -> int:
        """Blocks of keys before the queries' own."""
        return -(-(self.window[0] - 1) // self.block)

    @property
    def span(self) -> int:
        """Keys that a block of queries meets, m."""
        return (self.before + 1) * self.block

    def tiles(self) -> Iterator[tuple[slice, slice]]:
        """Slices of the batch and of the blocks whose temporaries stay below :data:`TILE`."""
        rows = self.kv_heads * self.block * self.groups * self.window[1]
        room = max(1, TILE // (rows * max(self.span, self.dim)))
        blocks = min(self.blocks, room)
        batch = max(1, room // blocks)
        for low in range(0, self.batch, batch):
            for start in range(0, self.blocks, blocks):
                yield slice(low, min(low + batch, self.batch)), slice(start, min(start + blocks, self.blocks))

    def split_queries(self, x: Tensor) -> Tensor:
        """(B, H, N, ...) to (B, K, e, n, G, ...), zeros behind the last."""
        x = x.unflatten(1, (self.kv_heads, self.groups)).transpose(2, 3).contiguous()
        missing = self.blocks * self.block - self.queries
        if missing:
            x = F.pad(x, (0, 0) * (x.ndim - 3) + (0, missing))
        return x.unflatten(2, (self.blocks, self.block))

    def join_queries(self, x: Tensor) -> Tensor:
        """The way back."""
        return x.flatten(2, 3)[:, :, : self.queries].transpose(2, 3).flatten(1, 2)

    def pad_keys(self, x: Tensor) -> Tensor:
        """(B, K, S, D) to (B, K, (before + e) n, D): what block e meets begins at row e n."""
        return F.pad(x, (0, 0, self.lead, self.blocks * self.block - self.queries))

    def pad_second(self, x: Tensor) -> Tensor:
        """(B, K, R, D) to (B, K, e n + w - 1, D): what query i meets begins at row i."""
        return F.pad(x, (0, 0, self.second_lead, self.blocks * self.block - self.queries))

    def unpad(self, x: Tensor, lead: int, rows: int) -> Tensor:
        """Gradient of padding (or of leaving out rows that no query sees, where ``lead`` is negative)."""
        return F.pad(x, (0, 0, -lead, rows + lead - x.shape[2])).contiguous()

    def keys_of(self, padded: Tensor, tile: tuple[slice, slice]) -> Tensor:
        """Keys of the tile's blocks, (b K e, m, D)."""
        view = padded[tile[0]].unfold(2, self.span, self.block)[:, :, tile[1]]
        return view.transpose(-1, -2).reshape(-1, self.span, self.dim)

    def second_of(self, padded: Tensor, tile: tuple[slice, slice]) -> Tensor:
        """Second keys of the tile's queries, farthest first, (b, K, e, n, 1, w, D), a view."""
        view = padded[tile[0]].unfold(2, self.window[1], 1).transpose(-1, -2)
        return view.unflatten(2, (self.blocks, self.block))[:, :, tile[1]].unsqueeze(4)

    def bias(self, slopes: Sequence[float], like: Tensor) -> Tensor:
        """(1 or K, 1, n, 1 or G, w, m): minus infinity outside the first window, minus slope times both distances."""
        query = torch.arange(self.block, device=like.device)[:, None]
        distance = query + self.before * self.block - torch.arange(self.span, device=like.device)
        hidden = (distance < 0) | (distance >= self.window[0])
        both = distance[:, None] + torch.arange(self.window[1] - 1, -1, -1, device=like.device)[:, None]
        slope = torch.tensor(slopes or [0.0], dtype=like.dtype, device=like.device)
        slope = slope.view(self.kv_heads, 1, 1, self.groups, 1, 1) if slopes else slope.view(1, 1, 1, 1, 1, 1)
        penalty = -slope * both[:, None].to(like.dtype)
        return penalty.masked_fill(hidden[:, None, None], float("-inf"))

    def missing(self, device: torch.device) -> Tensor:
        """(blocks at the start, n, 1, w, m) booleans: pairs of which one key lies before the sequence."""
        early = min(self.blocks, -(-max(self.lead, self.second_lead, 0) // self.block))
        row = torch.arange(early * self.block, device=device).view(early, self.block, 1, 1, 1)
        first = row[:, :1] + torch.arange(self.span, device=device) < self.lead
        second = row + torch.arange(self.window[1], device=device)[:, None] < self.second_lead
        return first | second


class Scores:
    """Scores of one tile after another, from inputs padded once."""

    def __init__(self, layout: Layout, q: Tensor, k: Tensor, second: Tensor, form: str, slopes: Sequence[float]):
        self.layout = layout
        self.form = form
        self.q = layout.split_queries(q * layout.dim**-0.5)
        self.k, self.second = layout.pad_keys(k), layout.pad_second(second)
        self.bias, self.missing = layout.bias(slopes, q), layout.missing(q.device)

    def of(self, tile: tuple[slice, slice]) -> tuple[Tensor, Tensor, Tensor]:
        """Scores (b, K, e, n, G, w m), the folded rows (b K e, n G w, D) and the keys (b K e, m, D)."""
        layout = self.layout
        q = self.q[tile[0], :, tile[1]].unsqueeze(-2)
        folded = fold(q, layout.second_of(self.second, tile), self.form)
        shape = folded.shape[:-1]
        rows, keys = folded.view(-1, layout.block * shape[4] * shape[5], layout.dim), layout.keys_of(self.k, tile)
        s = torch.bmm(rows, keys.transpose(1, 2)).view(*shape, layout.span)
        s += self.bias
        start = tile[1].start
        if start < len(self.missing):
            early = self.missing[start : tile[1].stop]
            s[:, :, : len(early)].masked_fill_(early, float("-inf"))
        return s.flatten(-2), rows, keys


def forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    second_k: Tensor,
    second_v: Tensor,
    window: tuple[int, int],
    form: str,
    slopes: Sequence[float],
) -> tuple[Tensor, Tensor]:
    """Outputs (B, H, N, D) and log-normalisers (B, H, N); see ``naive.attention``."""
    layout = Layout.of(q, k, second_k, window)
    scores = Scores(layout, q, k, second_k, form, slopes)
    values, second_values = layout.pad_keys(v), layout.pad_second(second_v)
    out, normaliser = torch.empty_like(scores.q), torch.empty_like(scores.q[..., :1])
    for tile in layout.tiles():
        s, _, _ = scores.of(tile)
        top = s.amax(-1, keepdim=True)
        p = s.sub_(top).exp_()
        total = p.sum(-1, keepdim=True)
        mixed = torch.bmm(
            p.view(-1, layout.block * layout.groups * window[1], layout.span), layout.keys_of(values, tile)
        )
        mixed = mixed.view(*p.shape[:-1], window[1], layout.dim)
        out[tile[0], :, tile[1]] = mixed.mul_(layout.second_of(second_values, tile)).sum(-2).div_(total)
        normaliser[tile[0], :, tile[1]] = total.log_().add_(top)
    return layout.join_queries(out).contiguous(), layout.join_queries(normaliser).squeeze(-1).contiguous()


class Sums:
    """Gradients of keys and second keys, added up where windows overlap."""

    def __init__(self, layout: Layout, keys: Tensor, second: Tensor):
        self.layout = layout
        self.keys, self.second = torch.zeros_like(keys), torch.zeros_like(second)

    def add_keys(self, tile: tuple[slice, slice], gradient: Tensor) -> None:
        """``gradient``: (b K e, m, D)."""
        layout = self.layout
        blocks = self.keys.unflatten(2, (-1, layout.block))[tile[0]]
        count = tile[1].stop - tile[1].start
        parts = gradient.view(blocks.shape[0], layout.kv_heads, count, layout.before + 1, layout.block, layout.dim)
        for shift in range(layout.before + 1):
            blocks[:, :, tile[1].start + shift : tile[1].stop + shift] += parts[:, :, :, shift]

    def add_second(self, tile: tuple[slice, slice], gradient: Tensor) -> None:
        """``gradient``: (b, K, e, n, G, w, D)."""
        layout = self.layout
        summed = (gradient.sum(4) if layout.groups > 1 else gradient.squeeze(4)).flatten(2, 3)
        target, start = self.second[tile[0]], tile[1].start * layout.block
        for shift in range(layout.window[1]):
            target[:, :, start + shift : start + shift + summed.shape[2]] += summed[:, :, :, shift]


def backward(
    gradient: Tensor,
    inputs: tuple[Tensor, Tensor, Tensor, Tensor, Tensor],
    out: Tensor,
    normaliser: Tensor,
    window: tuple[int, int],
    form: str,
    slopes: Sequence[float],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k, v, k', v'. The gradient of a score is p (<dy o v'_l, v_j> - <dy, y>)."""
    q, k, v, second_k, second_v = inputs
    layout = Layout.of(q, k, second_k, window)
    scores = Scores(layout, q, k, second_k, form, slopes)
    values, second_values = layout.pad_keys(v), layout.pad_second(second_v)
    for_keys, for_values = (Sums(layout, *pair) for pair in ((scores.k, scores.second), (values, second_values)))
    incoming = layout.split_queries(gradient)
    level = layout.split_queries((gradient * out).sum(-1, keepdim=True))
    log_total = layout.split_queries(normaliser.unsqueeze(-1))
    dq = torch.empty_like(scores.q)
    for tile in layout.tiles():
        at = (tile[0], slice(None), tile[1])
        s, rows, keys = scores.of(tile)
        p = s.sub_(log_total[at]).exp_()
        flat = p.view(-1, rows.shape[1], layout.span)
        dy, here = incoming[at].unsqueeze(-2), layout.keys_of(values, tile)
        second = layout.second_of(second_values, tile)
        mixed = torch.bmm(flat, here).view(*dy.shape[:-2], window[1], layout.dim)
        for_values.add_second(tile, mixed.mul_(dy))
        weighted = times(dy, second).view(rows.shape)
        for_values.add_keys(tile, torch.bmm(flat.transpose(1, 2), weighted))
        ds = torch.bmm(weighted, here.transpose(1, 2)).view(p.shape).sub_(level[at]).mul_(p).view(flat.shape)
        for_keys.add_keys(tile, torch.bmm(ds.transpose(1, 2), rows))
        folded = torch.bmm(ds, keys).view(mixed.shape)
        second = layout.second_of(scores.second, tile)
        to_query, to_second = fold_backward(folded, scores.q[at].unsqueeze(-2), second, form)
        dq[at] = to_query.sum(-2)
        for_keys.add_second(tile, to_second)
    leads = (layout.lead, layout.second_lead)
    dk, dsecond_k = _unpad(layout, for_keys, leads, k, second_k)
    dv, dsecond_v = _unpad(layout, for_values, leads, v, second_v)
    return layout.join_queries(dq) * layout.dim**-0.5, dk, dv, dsecond_k, dsecond_v


def _unpad(layout: Layout, sums: Sums, leads: tuple[int, int], first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    return layout.unpad(sums.keys, leads[0], first.shape[2]), layout.unpad(sums.second, leads[1], second.shape[2])
