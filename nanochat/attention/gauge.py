"""Gauge attention: every token turns the frame of those after it, and attention compares what is transported.

A token emits rotations g_t; their ordered product carries its head's channels into one common frame and back, so that
stock softmax attention runs unchanged between two turns and sees what happened between two tokens, in order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nanochat.attention._head_operations import (
    causal_keys,
    head_backward,
    head_operations,
    head_shapes,
    norm_backward,
    norm_forward,
)
from nanochat.attention.registry import MIXERS
from nanochat.config import ConfigError, common_faults, option
from nanochat.kernels.scan.cost import (
    COMPONENTS,
    GROUPS,
    SIZE,
    generators,
    matrix_prefix_backward,
    matrix_prefix_forward,
    prefix_backward,
    prefix_forward,
    turn_backward,
    turn_forward,
)
from nanochat.registry import Limit, Mechanism, Operations, Requirement

if TYPE_CHECKING:
    from nanochat.config import GPTConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class GaugeKnobs:
    """Options of ``gauge``."""

    group: str = option(
        "so3",
        "rotations of 3-vectors, of planes (they commute), of 4-vectors, or of --gauge-block channels",
        choices=GROUPS,
    )
    block: int = option(8, "channels that one rotation of --gauge-group so turns", unit="channels")
    transported: float = option(
        0.5, "share of each head's channels that is transported in blocks; the rest is neutral", unit="share"
    )

    def __post_init__(self) -> None:
        faults = common_faults(self)
        if not 0 < self.transported <= 1:
            faults.append(f"--gauge-transported: got {self.transported:g}, need more than 0, at most 1")
        if self.block < 2:
            faults.append(f"--gauge-block: got {self.block}, need at least 2")
        if faults:
            raise ConfigError(faults)

    @property
    def size(self) -> int:
        """Channels of one transported block."""
        return SIZE.get(self.group, self.block)

    @property
    def components(self) -> int:
        """Numbers of one frame."""
        return COMPONENTS.get(self.group, self.block**2)

    @property
    def emitted(self) -> int:
        """Numbers by which a token names one rotation: one angle, 4 or 8 of quaternions, n (n - 1) / 2 of a matrix."""
        return {"u1": 1, "so": generators(self.block)}.get(self.group, self.components)


def knobs_of(config: GPTConfig) -> GaugeKnobs:
    """The options in a configuration, or the defaults."""
    return config.knobs.get("gauge", GaugeKnobs())


def blocks(config: GPTConfig) -> int:
    """Transported blocks n of one head: as many as the share holds, at least one."""
    knobs = knobs_of(config)
    return max(1, int(knobs.transported * config.head_dim / knobs.size))


def rotary_width(config: GPTConfig) -> int:
    """Neutral channels of one head that rotary positions turn, in pairs; a last odd one keeps still."""
    neutral = config.head_dim - blocks(config) * knobs_of(config).size
    return neutral // 2 * 2 if config.position == "rope" else 0


def emitted(config: GPTConfig) -> int:
    """Numbers by which a token names its rotations, over all key/value heads."""
    return config.kv_heads * blocks(config) * knobs_of(config).emitted


def kept(config: GPTConfig) -> int:
    """Numbers of the last frame, over all key/value heads; of planes only their angle is kept."""
    knobs = knobs_of(config)
    return config.kv_heads * blocks(config) * (1 if knobs.group == "u1" else knobs.components)


def _transport(config: GPTConfig) -> tuple[Operations, Operations]:
    """Forward and backward per token: the connection, its prefix, four turns, rotary pairs, the norm of the output."""
    knobs, lanes, heads = knobs_of(config), blocks(config), config.n_head + config.kv_heads
    group, matrices = knobs.group, config.kv_heads * lanes
    numbers, pairs = emitted(config), heads * rotary_width(config)
    turned = 2 * heads * lanes
    frame = matrices * knobs.components
    if group == "u1":
        # prefix sum, remainder, cosine, sine; their gradients are products with sine and cosine, a sum, its suffix sum
        made, unmade = 4 * numbers, 7 * numbers
    elif group == "so":
        made, unmade = matrix_prefix_forward(matrices, knobs.block), matrix_prefix_backward(matrices, knobs.block)
    else:
        made, unmade = prefix_forward(numbers / 4), prefix_backward(numbers / 4)
    ahead = made + turn_forward(turned, group, knobs.size) + 3 * pairs
    back = unmade + turn_backward(turned, group, knobs.size) + 3.5 * pairs + 3 * frame
    matmul = 2.0 * config.n_embd * numbers
    return (
        Operations(matmul=matmul, elementwise=ahead) + norm_forward(config.head_dim, config.n_head),
        Operations(matmul=2 * matmul, elementwise=back + config.n_embd) + norm_backward(config.head_dim, config.n_head),
    )


def _attention(config: GPTConfig, keys: float) -> Operations:
    seen = config.n_head * keys
    return Operations(matmul=4 * config.head_dim * seen, elementwise=5 * seen + config.n_embd)


def operations(config: GPTConfig, length: int) -> Operations:
    """Forward, per token: softmax attention, and the transport around it."""
    return head_operations(config, rotary=False) + _transport(config)[0] + _attention(config, causal_keys(length))


def backward(config: GPTConfig, length: int) -> Operations:
    """Backward, per token."""
    seen = config.n_head * causal_keys(length)
    core = Operations(matmul=10 * config.head_dim * seen, elementwise=6 * seen + 2 * config.n_embd)
    return head_backward(config, rotary=False) + _transport(config)[1] + core


def decode(config: GPTConfig, length: int) -> Operations:
    """Forward of one token when ``length`` are cached: one rotation is multiplied onto the frame."""
    return head_operations(config, rotary=False) + _transport(config)[0] + _attention(config, length + 1)


def state(config: GPTConfig, batch: int, length: int) -> int:
    """Bytes: keys and values in the common frame, and one group element per block."""
    return 4 * batch * (2 * config.kv_heads * length * config.head_dim + kept(config))


MIXERS.register(
    Mechanism(
        name="gauge",
        title="softmax attention with parallel transport",
        source="arXiv:2505.16381",
        cls="Gauge",
        knobs=GaugeKnobs,
        operations=operations,
        backward=backward,
        decode=decode,
        state=state,
        hessian=lambda config, length: "its transport kernels have first derivatives only",
        shapes=lambda config: [*head_shapes(config), (emitted(config), config.n_embd)],
        requires=(
            Requirement(
                lambda config: config.head_dim >= knobs_of(config).size,
                "gauge: got {config.head_dim} channels per head, need at least one block (3 for so3, 2 u1, 4 so4, "
                "--gauge-block for so)",
            ),
        ),
        reduces_to=Limit(
            statement="with identity transports, causal softmax attention", check="flat_limit", tolerance=1e-12
        ),
        length_aware=True,
        page="gauge.md",
        twin="demos.matrix_gauge.maths.gauge_attention",
    ),
    __name__,
)

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from nanochat.attention.heads import HeadMixer, KeyValueCache, Rope, rotate_neutral, softmax_attention
from nanochat.initialise import Draw
from nanochat.kernels.scan import operators
from nanochat.kernels.scan.naive import identity, matrix_identity


def _accumulator(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


class GaugeCache(KeyValueCache):
    """Keys and values in the common frame, and where that frame stands: O(1) beside them.

    Attributes:
        frame: the last frame, (B, K, 4, L) quaternions, (B, K, n) angles in [0, 2 pi) or (B, K, m^2, n) matrices; fp32
            or wider.
    """

    def __init__(self, config: GPTConfig, batch: int, length: int, device: torch.device, dtype: torch.dtype):
        super().__init__(config, batch, length, device, dtype)
        exact = torch.float64 if dtype == torch.float64 else torch.float32
        knobs, numbers = knobs_of(config), kept(config) // config.kv_heads
        rows = {"u1": 1, "so": knobs.components}.get(knobs.group, 4)
        frame = torch.zeros((batch, config.kv_heads, rows, numbers // rows), device=device, dtype=exact)
        if knobs.group == "u1":
            self.frame = frame[:, :, 0]
        else:
            self.frame = matrix_identity(frame) if knobs.group == "so" else identity(frame)


def frames(
    raw: Float[Tensor, "B K T numbers"], group: str, start: Tensor | None = None, block: int = 8
) -> tuple[Float[Tensor, "B K T c L"], Tensor]:
    r"""Frames :math:`P_t = g_1 \cdots g_t` from what each token emits, and the last one in the form of ``start``.

    Args:
        raw: angles (``u1``), quaternions that are normalised here, or what names skew matrices; number before lane.
        group: ``so3``, ``u1``, ``so4`` or ``so``.
        start: frame before the first token, as :class:`GaugeCache` keeps it.
        block: channels that a rotation of ``so`` turns.
    """
    if group == "u1":
        angles = operators.angle_prefix(raw, start)
        return torch.stack((angles.cos(), angles.sin()), 3), angles[:, :, -1].detach()
    if group == "so":
        found = operators.matrix_prefix(raw.unflatten(-1, (generators(block), -1)), block, start)
        return found, found[:, :, -1].detach()
    found = operators.quaternion_prefix(raw.unflatten(-1, (4, -1)), start)
    return found, found[:, :, -1].detach()


def gauge_attention(
    q: Float[Tensor, "B H T D"],
    k: Float[Tensor, "B K T D"],
    v: Float[Tensor, "B K T D"],
    frame: Float[Tensor, "B K T c L"],
    group: str,
) -> Float[Tensor, "B H T D"]:
    r"""Softmax attention between transported tokens, in the frame of the query.

    .. math:: y_i = P_i^{-1} \sum_{j \le i} \mathrm{softmax}_j\!\bigl(\langle P_i q_i, P_j k_j\rangle / \sqrt D\bigr)\,
        P_j v_j, \qquad P_i^{-1} P_j = (g_{j+1} \cdots g_i)^{-1}

    so that only the rotations between two tokens matter, in their order. Channels outside the blocks are not moved.

    Args:
        q: queries; k, v: keys and values, each of the K heads shared by H / K query heads.
        frame: P_t, see :func:`nanochat.kernels.scan.naive.turn`.
        group: ``so3``, ``u1``, ``so4`` or ``so``.

    Example:
        >>> q = k = v = torch.randn(1, 1, 5, 3)
        >>> gauge_attention(q, k, v, frames(torch.randn(1, 1, 5, 4), "so3")[0], "so3").shape
        torch.Size([1, 1, 5, 3])
    """
    q, k, v = (operators.turn(frame, x, group) for x in (q, k, v))
    return operators.turn(frame, softmax_attention(q, k, v), group, inverse=True)


class Gauge(HeadMixer):
    """Softmax attention between two turns; each key/value head has its own connection.

    Rotary positions turn neutral channels only: in a block they would not commute with the transport, and the laws of
    the gauge would fall. The head output is RMS-normalised, which turns do not change.
    """

    def __init__(self, config: GPTConfig, layer: int):
        super().__init__(config, layer)
        self.group, self.block = knobs_of(config).group, knobs_of(config).block
        self.transport = nn.Linear(config.n_embd, emitted(config), bias=False)

    def init_weights(self, draw: Draw) -> None:
        super().init_weights(draw)
        draw.linear("transport", self.transport)

    def init_cache(self, batch: int, length: int, device: torch.device, dtype: torch.dtype) -> GaugeCache:
        return GaugeCache(self.config, batch, length, device, dtype)

    def connection(self, x: Float[Tensor, "B N C"]) -> Float[Tensor, "B K N numbers"]:
        """What each token emits to turn those after it."""
        raw = self.transport(x).unflatten(-1, (self.config.kv_heads, -1)).transpose(1, 2)
        return raw.to(_accumulator(raw))

    def neutral_positions(self, x: Float[Tensor, "B H N D"], rope: Rope | None) -> Float[Tensor, "B H N D"]:
        """Rotary pairs among the neutral channels, their frequencies spread as evenly as over a whole head."""
        if rope is None:
            return x
        first = blocks(self.config) * knobs_of(self.config).size
        return rotate_neutral(x, rope, first, rotary_width(self.config))

    def forward(
        self, x: Float[Tensor, "B N C"], rope: Rope | None = None, cache: KeyValueCache | None = None
    ) -> Float[Tensor, "B N C"]:
        assert cache is None or isinstance(cache, GaugeCache), "a cache of another mixer"
        q, k, v = self.project(x, None)
        q, k = self.neutral_positions(q, rope), self.neutral_positions(k, rope)
        q = self.sharpen(q, 0 if cache is None else cache.position)
        frame, last = frames(self.connection(x), self.group, None if cache is None else cache.frame, self.block)
        q, k, v = (operators.turn(frame, each, self.group) for each in (q, k, v))
        if cache is not None:
            k, v = cache.append(k, v)
            cache.frame = last.clone()
        y = operators.turn(frame, softmax_attention(q, k, v), self.group, inverse=True)
        y = F.rms_norm(y, (self.config.head_dim,))
        return self.out(y.transpose(1, 2).reshape(x.shape))


def flat_limit() -> float:
    """Largest difference between attention with identity transports and softmax attention, over the groups, float64."""
    from nanochat.attention.standard import naive

    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 2, 17, 8, generator=generator, dtype=torch.float64) for _ in range(3))
    worst = 0.0
    for group in GROUPS:
        raw = torch.zeros(1, 2, 17, 2 * GaugeKnobs(group=group, block=4).emitted, dtype=torch.float64)
        flat = gauge_attention(q, k, v, frames(raw, group, None, 4)[0], group)
        worst = max(worst, (flat - naive(q, k, v)).abs().max().item())
    return worst
