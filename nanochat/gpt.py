"""The trunk: embedding, block stack, norm, head. It names no mechanism.

Example:
    >>> model = GPT(GPTConfig(n_layer=2, n_head=4, n_embd=64, attention_type="standard"))
    >>> idx = torch.randint(model.config.vocab_size, (2, 16))
    >>> model(idx).shape, model(idx, idx).ndim
    (torch.Size([2, 16, 1024]), 0)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from nanochat.architecture import check, plan
from nanochat.attention.heads import Rope, rotary_table
from nanochat.cellular import mix_automaton
from nanochat.config import GPTConfig
from nanochat.initialise import Draw
from nanochat.trunk import norm

if TYPE_CHECKING:
    from nanochat.flops import Ledger

__all__ = ["GPT", "Cache", "GPTConfig"]

IGNORE = -1
"""Target value that is not scored."""


class Cache:
    """What the layers keep of a sequence so far; made by :meth:`GPT.init_cache`.

    Attributes:
        layers: one state object per layer, owned by its mixer.
        position: tokens seen.
        length: tokens it has room for.
        batch: sequences.
    """

    def __init__(self, layers: list[Any], batch: int, length: int):
        self.layers = layers
        self.batch = batch
        self.length = length
        self.position = 0

    def claim(self, batch: int, tokens: int) -> int:
        """Check that the new tokens fit; returns the position of the first."""
        if batch != self.batch:
            raise ValueError(f"cache: got a batch of {batch}, need {self.batch} as in init_cache")
        if self.position + tokens > self.length:
            raise ValueError(
                f"cache: got {self.position} + {tokens} tokens, need at most {self.length} as in init_cache"
            )
        return self.position


class GPT(nn.Module):
    """A decoder-only transformer whose mixer, block stack, optimizer and schedule are chosen by name.

    Args:
        config: sizes, mechanism and its knobs.
        seed: keys the initial weights, see :mod:`nanochat.initialise`.

    Raises:
        ConfigError: the mechanism cannot be built at these sizes; all reasons together.
    """

    def __init__(self, config: GPTConfig, seed: int = 0):
        super().__init__()
        check(config)
        self.config = config
        self.embed = nn.Embedding(config.vocab_size, config.n_embd)
        self.stack = plan(config).block.load()(config)
        self.head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        if config.tie_embeddings:
            self.head.weight = self.embed.weight
        self._rope: Rope | None = None
        self.init_weights(seed)

    def init_weights(self, seed: int) -> None:
        """(Re)draw every parameter; the loss of the result is ln V (a tied head comes close to it)."""
        draw = Draw(seed)
        tied = self.config.tie_embeddings
        draw.normal("embed.weight", self.embed.weight, 0.02 if tied else 1.0)
        if not tied:
            draw.linear("head", self.head, zero=True)
        self.stack.init_weights(draw.child("stack"))
        missed = {name for name, _ in self.named_parameters()} - draw.drawn
        assert not missed, f"parameters without initial values: {sorted(missed)}"
        if self.config.ca_init_rule is not None:
            mix_automaton(self, self.config.ca_init_rule, self.config.ca_init_alpha, self.config.ca_init_seed)

    @property
    def device(self) -> torch.device:
        return self.embed.weight.device

    def rope(self, start: int, length: int) -> Rope | None:
        """Rotary tables of ``length`` positions from ``start``; the table grows when a sequence outgrows it."""
        if self.config.position == "none":
            return None
        end = start + length
        if self._rope is None or self._rope[0].shape[0] < end or self._rope[0].device != self.device:
            rows = max(end, self.config.sequence_len)
            self._rope = rotary_table(rows, self.config.head_dim, self.config.rope_base, self.device)
        return self._rope[0][start:end], self._rope[1][start:end]

    def init_cache(self, batch: int, length: int, dtype: torch.dtype | None = None) -> Cache:
        """Room for ``length`` tokens of ``batch`` sequences; pass it as ``model(idx, cache=cache)``."""
        if batch < 1 or length < 1:
            raise ValueError(f"init_cache: got batch {batch} and length {length}, need both at least 1")
        layers = self.stack.init_cache(batch, length, self.device, dtype or self.embed.weight.dtype)
        return Cache(layers, batch, length)

    def hidden(self, idx: Int[Tensor, "B T"], cache: Cache | None = None) -> Float[Tensor, "B T C"]:
        """The normalised stream that the head reads."""
        batch, length = idx.shape
        start = 0 if cache is None else cache.claim(batch, length)
        x = norm(self.embed(idx))
        x = self.stack(x, self.rope(start, length), None if cache is None else cache.layers)
        if cache is not None:
            cache.position += length
        return norm(x)

    def logits(self, hidden: Float[Tensor, "... C"]) -> Float[Tensor, "... V"]:
        """The head, capped smoothly at ``logit_softcap`` where that is set."""
        scores = self.head(hidden)
        cap = self.config.logit_softcap
        return cap * torch.tanh(scores / cap) if cap else scores

    def forward(
        self,
        idx: Int[Tensor, "B T"],
        targets: Int[Tensor, "B T"] | None = None,
        cache: Cache | None = None,
        reduction: str = "mean",
    ) -> Tensor:
        """Logits, or the loss in nats.

        Args:
            idx: token ids (B, T).
            targets: next-token ids (B, T); -1 is not scored.
            cache: continue the sequences whose past it holds.
            reduction: ``mean`` over scored tokens, or ``none`` for (B, T) with 0 where not scored.

        Returns:
            (B, T, V) logits without targets, else the cross-entropy in fp32 (fp64 in a model of that type).
        """
        scores = self.logits(self.hidden(idx, cache))
        if targets is None:
            return scores
        exact = scores if scores.dtype == torch.float64 else scores.float()
        loss = F.cross_entropy(
            exact.reshape(-1, scores.shape[-1]), targets.reshape(-1), ignore_index=IGNORE, reduction=reduction
        )
        return loss if reduction == "mean" else loss.view(targets.shape)

    def flops(self, length: int | None = None) -> Ledger:
        """The operation ledger of this model at sequences of ``length`` (default: the configured one)."""
        from nanochat.flops import ledger

        return ledger(self.config, length)
