"""Braid attention: tokens cross strands, and what a query sees of the past depends on the braid between the two.

``transport``: each token chooses a generator of the braid group B_3; the unitary Burau matrix of the word so far
carries queries, keys and values. ``crossing``: the strand of a query passes every token before it and crosses some.
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
from nanochat.kernels.scan.cost import prefix_backward, prefix_forward, turn_backward, turn_forward
from nanochat.registry import Limit, Mechanism, Operations, Requirement

if TYPE_CHECKING:
    from nanochat.config import GPTConfig

SIZE = 4
"""Channels of one block: two complex strand coordinates, the reduced Burau representation of three strands."""

ORDERS = (2, 3, 4, 5)
"""Order of a generator in each lane at the start, in turn: the braids are then 6, 24, 96, 600 matrices."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BraidKnobs:
    """Options of ``braid``."""

    form: str = option(
        "transport",
        "braids carry queries, keys and values, or the strand of a query crosses tokens and adds them up",
        choices=("transport", "crossing"),
    )
    mode: str = option("soft", "crossings by degrees, or whole ones with a soft gradient", choices=("soft", "discrete"))
    tau: float = option(0.0, "score that a crossing must exceed")
    crossing_law: str = option(
        "ybe",
        "what a crossing does: as Yang and Baxter demand, or within its two strands",
        choices=("ybe", "restricted"),
    )
    record_schedule: bool = option(False, "record the executed braid word beside each evaluation")
    verify: bool = option(False, "execute the word again beside each evaluation; stop if a law is broken")

    def __post_init__(self) -> None:
        if faults := common_faults(self):
            raise ConfigError(faults)


def knobs_of(config: GPTConfig) -> BraidKnobs:
    """The options in a configuration, or the defaults."""
    return config.knobs.get("braid", BraidKnobs())


def transports(config: GPTConfig) -> bool:
    """Whether it is the ``transport`` form."""
    return knobs_of(config).form == "transport"


def lanes(config: GPTConfig) -> int:
    """Braids n of one key/value head: half of its channels lie in blocks, at least one block."""
    return max(1, config.head_dim // (2 * SIZE))


def braids(config: GPTConfig) -> int:
    """Braids of all key/value heads; each token emits four scores for each."""
    return config.kv_heads * lanes(config)


def rotary_width(config: GPTConfig) -> int:
    """Neutral channels of one head that rotary positions turn, in pairs."""
    neutral = config.head_dim - lanes(config) * SIZE
    return neutral // 2 * 2 if config.position == "rope" else 0


def _transport(config: GPTConfig) -> tuple[Operations, Operations]:
    """Forward and backward per token: choices, generators, both prefixes, four turns, rotary pairs, the output norm."""
    heads, each = config.n_head + config.kv_heads, braids(config)
    pairs = heads * rotary_width(config)
    turned = 2 * heads * lanes(config)
    straight = 15 if knobs_of(config).mode == "discrete" else 0
    # Softmax over five; exponents 2, real part 2, imaginary parts 6; phase 3, its remainder, cosine, sine and sign 4.
    ahead = each * (25 + straight + 10 + 7) + prefix_forward(each) + turn_forward(turned, "so4") + 3 * pairs
    # Softmax 20; their products and sums, those of the table over tokens included, 53.
    back = each * (20 + 53) + prefix_backward(each) + turn_backward(turned, "so4") + 3.5 * pairs
    matmul = 8.0 * config.n_embd * each
    return (
        Operations(matmul=matmul, elementwise=ahead) + norm_forward(config.head_dim, config.n_head),
        Operations(matmul=2 * matmul, elementwise=back + config.n_embd) + norm_backward(config.head_dim, config.n_head),
    )


def _crossing(config: GPTConfig, pairs: float) -> tuple[Operations, Operations]:
    """Forward and backward per token: all pairs, dense. Threshold, sigmoid, whole crossings; then the law."""
    knobs = knobs_of(config)
    ahead = 1 + 3 + (3 if knobs.mode == "discrete" else 0) + (7 if knobs.crossing_law == "ybe" else 1)
    back = 3 + (14 if knobs.crossing_law == "ybe" else 1)
    shared = 2 * config.n_embd if config.kv_heads < config.n_head else 0
    matmul = 4 * config.head_dim * pairs
    return (
        Operations(matmul=matmul, elementwise=ahead * pairs + config.n_embd),
        Operations(matmul=2 * matmul, elementwise=back * pairs + config.n_embd + shared),
    )


def operations(config: GPTConfig, length: int) -> Operations:
    """Forward, per token."""
    if not transports(config):
        return head_operations(config) + _crossing(config, config.n_head * length)[0]
    seen = config.n_head * causal_keys(length)
    core = Operations(matmul=4 * config.head_dim * seen, elementwise=5 * seen + config.n_embd)
    return head_operations(config, rotary=False) + _transport(config)[0] + core


def backward(config: GPTConfig, length: int) -> Operations:
    """Backward, per token."""
    if not transports(config):
        return head_backward(config) + _crossing(config, config.n_head * length)[1]
    seen = config.n_head * causal_keys(length)
    core = Operations(matmul=10 * config.head_dim * seen, elementwise=6 * seen + 2 * config.n_embd)
    return head_backward(config, rotary=False) + _transport(config)[1] + core


def decode(config: GPTConfig, length: int) -> Operations:
    """Forward of one token when ``length`` are cached: one letter is appended to each word."""
    pairs = config.n_head * (length + 1)
    if not transports(config):
        return head_operations(config) + _crossing(config, pairs)[0]
    core = Operations(matmul=4 * config.head_dim * pairs, elementwise=5 * pairs + config.n_embd)
    return head_operations(config, rotary=False) + _transport(config)[0] + core


def state(config: GPTConfig, batch: int, length: int) -> int:
    """Bytes: keys and values, and for ``transport`` one unitary matrix per braid, a quaternion and an angle."""
    carried = 5 * braids(config) if transports(config) else 0
    return 4 * batch * (2 * config.kv_heads * length * config.head_dim + carried)


def shapes(config: GPTConfig) -> list[tuple[int, ...]]:
    """Parameters: head projections; scores and angles of the braids, or t of each head under the ``ybe`` law."""
    if transports(config):
        return [*head_shapes(config), (4 * braids(config), config.n_embd), (braids(config),)]
    return [*head_shapes(config), *([(config.kv_heads,)] if knobs_of(config).crossing_law == "ybe" else [])]


MIXERS.register(
    Mechanism(
        name="braid",
        title="softmax attention carried by the unitary Burau matrices of braids",
        source="arXiv:math/0409205",
        cls="Braid",
        knobs=BraidKnobs,
        operations=operations,
        backward=backward,
        decode=decode,
        state=state,
        hessian=lambda config, length: (
            "its transport kernels have first derivatives only"
            if transports(config)
            else "what second derivatives cost in crossing form is not known"
        ),
        shapes=shapes,
        length_aware=True,
        requires=(
            Requirement(
                lambda config: not transports(config) or config.head_dim >= SIZE,
                "braid: got {config.head_dim} channels per head, need at least 4 for --braid-form transport",
            ),
        ),
        reduces_to=Limit(
            statement="where no strand crosses, causal softmax attention", check="still_limit", tolerance=1e-12
        ),
        page="braid.md",
        twin="demos.knot_braid.maths.braid_attention",
    ),
    __name__,
)

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from nanochat.attention import _braid_schedule as schedule
from nanochat.attention.heads import (
    HeadMixer,
    KeyValueCache,
    Rope,
    repeat_heads,
    rotate_neutral,
    softmax_attention,
)
from nanochat.config import LawBroken
from nanochat.initialise import Draw
from nanochat.kernels.scan import operators

KEEP = 2.0
"""Logit of t at the start: a strand keeps 0.88 of itself at a crossing."""

Table = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def choose(scores: Float[Tensor, "B K T 4 n"], tau: float = 0.0, mode: str = "soft") -> Float[Tensor, "B K T 5 n"]:
    r"""Weights of the five choices of a token: stay, or :math:`\sigma_1, \sigma_2, \sigma_1^{-1}, \sigma_2^{-1}`.

    A softmax over tau and the four scores. ``discrete`` puts all weight on the largest (staying wins ties) and keeps
    the gradient of the softmax.
    """
    logits = F.pad(scores, (0, 0, 1, 0), value=tau)
    soft = logits.softmax(-2)
    if mode == "soft":
        return soft
    hard = torch.zeros_like(soft).scatter(-2, logits.argmax(-2, keepdim=True), 1.0)
    return hard + (soft - soft.detach())


def generators(angle: Float[Tensor, "K n"], law: str = "ybe") -> Table:
    r"""Real part c, phase :math:`\arccos c`, and the i and j parts of :math:`\sigma_1` and :math:`\sigma_2`.

    ``ybe``: :math:`\sigma_{1,2} = e^{i \arccos c}\,(c + \tfrac12 i \pm w j)` with :math:`(c, w) = \tfrac{\sqrt3}2
    (\cos\gamma, \sin\gamma)`: for every angle :math:`\gamma` the reduced Burau representation of B_3 at
    :math:`t = -e^{2 i \arccos c}`, in a unitary basis. ``restricted``: turns by as much, about axes at
    right angles, each within the plane of its two strands.
    """
    half = 3**0.5 / 2
    real = half * angle.cos()
    phase = real.acos()
    if law == "ybe":
        along, across = torch.full_like(real, 0.5), half * angle.sin()
        return real, phase, along, across, along, -across
    own, none = (1 - real.square()).sqrt(), torch.zeros_like(real)
    return real, phase, own, none, none, own


def frames(
    choice: Float[Tensor, "B K T 5 n"], table: Table, start: tuple[Tensor, Tensor] | None = None
) -> tuple[Float[Tensor, "B K T 4 m"], tuple[Tensor, Tensor]]:
    r"""Unitary matrices :math:`P_t = g_1 \cdots g_t` of the words so far, and the last one in the form of ``start``.

    A mixture of choices is projected to the nearest element of the group: for quaternions, divided by its length. Its
    phase is that of its mean exponent. Weights of a generator and its inverse exchanged give the inverse element.

    Args:
        choice: of each token, see :func:`choose`.
        table: see :func:`generators`, one row per head.
        start: quaternions (B, K, 4, n) and angles (B, K, n) before the first token.

    Returns:
        Frames for ``so4`` turns: left quaternions in the first n lanes, unit complex numbers in the last n.
    """
    real, phase, *parts = (each.unsqueeze(1) for each in table)
    stay, forth, back = choice.split((1, 2, 2), -2)
    (one, two), stay = (forth - back).unbind(-2), stay.squeeze(-2)
    raw = torch.stack(
        (
            real + stay * (1 - real),
            one * parts[0] + two * parts[2],
            one * parts[1] + two * parts[3],
            torch.zeros_like(one),
        ),
        -2,
    )
    quaternions, angles = (None, None) if start is None else start
    left = operators.quaternion_prefix(raw, quaternions)
    turned = operators.angle_prefix((one + two) * phase, angles)
    flat = torch.zeros_like(turned)
    right = torch.stack((turned.cos(), -turned.sin(), flat, flat), -2)
    return torch.cat((left, right), -1), (left[:, :, -1].detach(), turned[:, :, -1].detach())


def braid_attention(
    q: Float[Tensor, "B H T D"],
    k: Float[Tensor, "B K T D"],
    v: Float[Tensor, "B K T D"],
    frame: Float[Tensor, "B K T 4 m"],
) -> Float[Tensor, "B H T D"]:
    r"""Softmax attention between what braids carry, seen from the strands of the query.

    .. math:: y_i = P_i^{-1} \sum_{j \le i} \mathrm{softmax}_j\!\bigl(\langle P_i q_i, P_j k_j\rangle / \sqrt D\bigr)\,
        P_j v_j

    Only the braid :math:`g_{j+1} \cdots g_i` between two tokens matters. Component a of block b is channel a n + b.

    Example:
        >>> q = k = v = torch.randn(1, 1, 5, 8)
        >>> choice, table = choose(torch.randn(1, 1, 5, 4, 1)), generators(torch.ones(1, 1))
        >>> braid_attention(q, k, v, frames(choice, table)[0]).shape
        torch.Size([1, 1, 5, 8])
    """
    q, k, v = (operators.turn(frame, x, "so4") for x in (q, k, v))
    return operators.turn(frame, softmax_attention(q, k, v), "so4", inverse=True)


def gates(
    q: Float[Tensor, "B H N D"], k: Float[Tensor, "B H S D"], tau: float = 0.0, mode: str = "soft"
) -> Float[Tensor, "B H N S"]:
    r"""How much the strand of each query crosses each token: :math:`\sigma(q_i \cdot k_j / \sqrt D - \tau)`, j <= i.

    No token takes from another. ``discrete``: 1 where the score exceeds tau, else 0, with the gradient of the sigmoid.
    """
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    above = (scores if scores.dtype == torch.float64 else scores.float()) - tau
    soft = above.sigmoid()
    if mode == "discrete":
        soft = (above > 0).to(soft.dtype) + (soft - soft.detach())
    return soft.tril(k.shape[2] - q.shape[2])


def crossing_weights(crossed: Float[Tensor, "B H N S"], keep: Float[Tensor, " H"] | None) -> Float[Tensor, "B H N S"]:
    r"""Weights of the values on the strand of each query after it passed all tokens so far, the first one first.

    The strand a starts at 0 and crosses token j by the gate :math:`c_j`. ``ybe``: :math:`a \leftarrow a + c_j (1-t)
    (v_j - a)`, so :math:`w_j = c_j (1-t) \prod_{l > j} (1 - c_l (1-t))`. ``restricted`` (no t): :math:`a \leftarrow a +
    c_j v_j`, over the number of tokens passed.
    """
    if keep is None:
        keys = crossed.shape[-1]
        passed = torch.arange(keys - crossed.shape[-2] + 1, keys + 1, device=crossed.device, dtype=crossed.dtype)
        return crossed / passed[:, None]
    taken = crossed * (1 - keep).to(crossed.dtype)[:, None, None]
    kept = torch.log1p(-taken).cumsum(-1)
    return taken * (kept[..., -1:] - kept).exp()


class BraidCache(KeyValueCache):
    """Keys and values as they were carried, and where the strands stand: O(1) beside them.

    Attributes:
        quaternions: of the strands after the last token, (B, K, 4, n); fp32 or wider.
        angles: their phases, (B, K, n).
    """

    def __init__(self, config: GPTConfig, batch: int, length: int, device: torch.device, dtype: torch.dtype):
        super().__init__(config, batch, length, device, dtype)
        exact = torch.float64 if dtype == torch.float64 else torch.float32
        self.quaternions = torch.zeros((batch, config.kv_heads, 4, lanes(config)), device=device, dtype=exact)
        self.quaternions[:, :, 0] = 1
        self.angles = torch.zeros_like(self.quaternions[:, :, 0])


class Braid(HeadMixer):
    """Both forms. Each key/value head has its own braids, or its own t.

    ``transport``: rotary positions turn neutral channels only, and the head output is RMS-normalised.
    """

    rest: Tensor

    def __init__(self, config: GPTConfig, layer: int):
        super().__init__(config, layer)
        self.knobs = knobs_of(config)
        self.transports = transports(config)
        if self.transports:
            self.crossing = nn.Linear(config.n_embd, 4 * braids(config), bias=False)
            self.bend = nn.Parameter(torch.empty(braids(config)))
            cosines = torch.tensor([torch.pi / ORDERS[lane % len(ORDERS)] for lane in range(lanes(config))]).cos()
            self.register_buffer("rest", (cosines * 2 / 3**0.5).acos(), persistent=False)
        elif self.knobs.crossing_law == "ybe":
            self.keep = nn.Parameter(torch.empty(config.kv_heads))
        self._done: schedule.Transport | schedule.Crossing | None = None

    def init_weights(self, draw: Draw) -> None:
        super().init_weights(draw)
        if self.transports:
            draw.linear("crossing", self.crossing)
            draw.constant("bend", self.bend, 0.0)
        elif self.knobs.crossing_law == "ybe":
            draw.constant("keep", self.keep, KEEP)

    def init_cache(self, batch: int, length: int, device: torch.device, dtype: torch.dtype) -> KeyValueCache:
        kind = BraidCache if self.transports else KeyValueCache
        return kind(self.config, batch, length, device, dtype)

    def choice(self, x: Float[Tensor, "B N C"]) -> Float[Tensor, "B K N 5 n"]:
        """What each token chooses for every braid."""
        scores = self.crossing(x).unflatten(-1, (self.config.kv_heads, 4, -1)).transpose(1, 2)
        wide = scores if scores.dtype == torch.float64 else scores.float()
        return choose(wide, self.knobs.tau, self.knobs.mode)

    def table(self) -> Table:
        """The generators of every braid."""
        angle = self.rest + self.bend.unflatten(0, (self.config.kv_heads, -1))
        return generators(angle, self.knobs.crossing_law)

    @property
    def watched(self) -> bool:
        """Whether this pass is to be recorded: held-out passes only."""
        return not self.training and (self.knobs.record_schedule or self.knobs.verify)

    def forward(
        self, x: Float[Tensor, "B N C"], rope: Rope | None = None, cache: KeyValueCache | None = None
    ) -> Float[Tensor, "B N C"]:
        q, k, v = self.project(x, None if self.transports else rope)
        q = self.sharpen(q, 0 if cache is None else cache.position)
        y = self.carried(x, q, k, v, rope, cache) if self.transports else self.crossed(q, k, v, cache)
        return self.out(y.transpose(1, 2).reshape(x.shape))

    def carried(
        self, x: Tensor, q: Tensor, k: Tensor, v: Tensor, rope: Rope | None, cache: KeyValueCache | None
    ) -> Float[Tensor, "B H N D"]:
        """The ``transport`` form."""
        assert cache is None or isinstance(cache, BraidCache), "a cache of another mixer"
        if rope is not None:
            first, width = lanes(self.config) * SIZE, rotary_width(self.config)
            q, k = rotate_neutral(q, rope, first, width), rotate_neutral(k, rope, first, width)
        choice, table = self.choice(x), self.table()
        start = None if cache is None else (cache.quaternions, cache.angles)
        frame, last = frames(choice, table, start)
        if self.watched:
            self._watch(choice, table, start, last, cache is not None and cache.position > 0)
        q, k, v = (operators.turn(frame, each, "so4") for each in (q, k, v))
        if cache is not None:
            k, v = cache.append(k, v)
            cache.quaternions, cache.angles = (each.clone() for each in last)
        y = operators.turn(frame, softmax_attention(q, k, v), "so4", inverse=True)
        return F.rms_norm(y, (self.config.head_dim,))

    def crossed(self, q: Tensor, k: Tensor, v: Tensor, cache: KeyValueCache | None) -> Float[Tensor, "B H N D"]:
        """The ``crossing`` form."""
        if cache is not None:
            k, v = cache.append(k, v)
        groups = q.shape[1] // k.shape[1]
        k, v = repeat_heads(k, groups), repeat_heads(v, groups)
        keep = self.keep.sigmoid().repeat_interleave(groups) if self.knobs.crossing_law == "ybe" else None
        gate = gates(q, k, self.knobs.tau, self.knobs.mode)
        y = crossing_weights(gate, keep).to(v.dtype) @ v
        if self.watched:
            parts = gate[0, :, -1], v[0], gate.new_empty(0) if keep is None else keep, y[0, :, -1]
            self._done = schedule.Crossing(*(part.detach() for part in parts))
        return y

    def _watch(
        self, choice: Tensor, table: Table, start: tuple[Tensor, Tensor] | None, last: tuple[Tensor, Tensor], on: bool
    ) -> None:
        """Keep the first sequence of this pass; where decoding goes on, behind what was kept."""
        if start is None:
            still = torch.zeros_like(last[0])
            still[:, :, 0] = 1
            start = still, torch.zeros_like(last[1])
        done = schedule.Transport(
            choice[0].detach(),
            tuple(each.detach() for each in table),
            (start[0][0], start[1][0]),
            (last[0][0], last[1][0]),
        )
        self._done = self._done.then(done) if on and isinstance(self._done, schedule.Transport) else done

    def diagnose(self) -> dict[str, float | str]:
        """What ``--braid-record-schedule`` and ``--braid-verify`` ask for, of the last held-out sequence.

        Raises:
            LawBroken: a law does not hold of what was executed.
        """
        done, self._done = self._done, None
        if done is None:
            return {}
        found: dict[str, float | str] = {}
        if self.knobs.record_schedule:
            found |= done.recorded()
        if self.knobs.verify:
            found |= self.verified(done)
        return found

    def verified(self, done: schedule.Transport | schedule.Crossing) -> dict[str, float]:
        """Residuals of the laws, checked; the ``restricted`` law makes no claim on ``yang_baxter``."""
        residuals = done.residuals(self.knobs.mode == "discrete")
        unclaimed = {"word_distance", *(["yang_baxter"] if self.knobs.crossing_law == "restricted" else [])}
        claimed = [name for name in residuals if name not in unclaimed]
        broken = [f"{name} is off by {residuals[name]:.2g}" for name in claimed if not residuals[name] <= done.limit]
        if broken:
            raise LawBroken(f"--braid-verify: layer {self.layer}: {', '.join(broken)}, need at most {done.limit:.2g}")
        return residuals


def still_limit() -> float:
    """Largest difference from softmax attention where every token stays, under both laws and modes, float64."""
    from nanochat.attention.standard import naive

    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 2, 17, 9, generator=generator, dtype=torch.float64) for _ in range(3))
    scores, angle = (
        torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((1, 2, 17, 4, 2), (2, 2))
    )
    worst = 0.0
    for law in ("ybe", "restricted"):
        for mode in ("soft", "discrete"):
            frame, _ = frames(choose(scores, 1e4, mode), generators(angle, law))
            worst = max(worst, (braid_attention(q, k, v, frame) - naive(q, k, v)).abs().max().item())
    return worst
