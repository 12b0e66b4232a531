"""Heads of gauge attention."""

from __future__ import annotations

from nanochat.observe.registry import PROBES, Measure, Probe

PROBES.register(
    Probe(
        name="gauge",
        title="softmax weights between transported tokens, and how far the transport turns",
        source="arXiv:2505.16381",
        cls="look",
        measures=(
            Measure("holonomy", "rad", "largest angle of the transport from the first token of a window to the last"),
            Measure("turn", "rad", "the same of one token's step"),
        ),
    ),
    __name__,
)

import torch
from jaxtyping import Float
from torch import Tensor

from nanochat.attention.gauge import Gauge, blocks, frames, knobs_of
from nanochat.attention.heads import Rope
from nanochat.kernels.scan import operators
from nanochat.observe._seen import Seen, per_query_head, softmax_weights


def matrices(frame: Tensor, group: str, size: int, lanes: int) -> Float[Tensor, "B K T n size size"]:
    """The rotations that frames stand for, read off what they make of basis vectors; channel a n + b of block b."""
    basis = torch.eye(size, dtype=frame.dtype).repeat_interleave(lanes, 1)
    shape = (*frame.shape[:3], size * lanes)
    columns = [
        operators.turn(frame, row.expand(shape).contiguous(), group).unflatten(-1, (size, lanes)) for row in basis
    ]
    return torch.stack(columns, -1).movedim(-2, -3)


def angles(rotation: Float[Tensor, "... n n"]) -> Float[Tensor, ...]:
    """The largest angle by which a rotation turns a plane: of its eigenvalues, 0 to pi."""
    return torch.linalg.eigvals(rotation.double()).angle().abs().amax(-1)


def look(mixer: Gauge, x: Tensor, rope: Rope | None) -> Seen:
    """Weights of turned queries and keys; angles of the transport, the mean over a head's blocks."""
    q, k, _ = mixer.project(x, None)
    q, k = mixer.neutral_positions(q, rope), mixer.neutral_positions(k, rope)
    frame, _ = frames(mixer.connection(x), mixer.group, None, mixer.block)
    q, k = (operators.turn(frame, part, mixer.group) for part in (q, k))
    turned = matrices(frame, mixer.group, knobs_of(mixer.config).size, blocks(mixer.config))
    first, last = turned[:, :, 0], turned[:, :, -1]
    steps = angles(turned[:, :, :-1].mT @ turned[:, :, 1:]).mean((0, 2, 3))
    around = angles(first.mT @ last).mean((0, 2))
    own = {name: per_query_head(each[None], q.shape[1])[0] for name, each in (("holonomy", around), ("turn", steps))}
    return Seen(softmax_weights(q, k), own)
