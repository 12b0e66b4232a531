"""What mixers keep while decoding, as one layer of a transformers cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import CacheLayerMixin

from nanochat.attention.heads import KeyValueCache
from nanochat.huggingface.demands import groups_of
from nanochat.initialise import Mixer

ROOM = 64
"""Tokens that keys and values of a new cache have room for; they grow by doubling."""


@dataclass
class Group:
    """Sequences with the same padding, and the state that a mixer keeps of them.

    Attributes:
        rows: their places in the batch.
        start: their first token after the padding.
        state: made when that token is seen.
    """

    rows: Any
    start: int
    state: Any = None


class MixerLayer(CacheLayerMixin):
    """One layer of a cache that holds what a mixer keeps, whatever that is.

    Args:
        longest: tokens that a state which cannot grow is made for.

    Attributes:
        position: tokens seen, padding included.
        groups: the sequences of the batch by their padding.
    """

    is_sliding = False

    def __init__(self, longest: int):
        super().__init__()
        self.longest = longest
        self.reset()

    def reset(self) -> None:
        self.position, self.batch, self.is_initialized = 0, 0, False
        self.groups: list[Group] = []

    def advance(self, starts: Tensor | None, batch: int, tokens: int) -> list[Group]:
        """Take note of new tokens; returns the groups that they belong to."""
        if not self.groups:
            self.batch, self.is_initialized = batch, True
            self.groups = [Group(rows, start) for rows, start in groups_of(starts)]
        known = torch.zeros(self.batch, dtype=torch.long)
        for group in self.groups:
            known[group.rows] = group.start
        if batch != self.batch or not torch.equal(known, torch.zeros_like(known) if starts is None else starts):
            raise ValueError("cache: got another batch or padding than it began with, need the same continued")
        self.position += tokens
        return self.groups

    def state_of(self, group: Group, mixer: Mixer, x: Tensor) -> Any:
        """The state of a group, with room for its newest tokens ``x``, which :meth:`advance` has counted."""
        end = self.position - group.start
        if group.state is None:
            group.state = mixer.init_cache(x.shape[0], max(ROOM, end), x.device, x.dtype)
            if not isinstance(group.state, KeyValueCache):
                group.state = mixer.init_cache(x.shape[0], self.longest, x.device, x.dtype)
        if isinstance(group.state, KeyValueCache):
            if group.state.length < end:
                group.state.reserve(2 * end)
        elif end > self.longest:
            raise ValueError(f"cache: got {end} tokens, need at most max_position_embeddings {self.longest}")
        return group.state

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        raise NotImplementedError("MixerLayer: the mixer makes its own state")

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        raise NotImplementedError("MixerLayer: the mixer writes its own state")

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.position + query_length, 0

    def get_seq_length(self) -> int:
        return self.position

    def get_max_length(self) -> int:
        return -1

    def offload(self) -> None:
        raise ValueError("cache: got offloading, need the default (dynamic) cache")

    def crop(self, tokens_to_remove: int) -> None:
        raise ValueError("cache: got crop, as in assisted generation; need none, a mixer's state cannot be taken back")

    def reorder_cache(self, beam_idx: Tensor) -> None:
        self.batch_select_indices(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        self.batch_select_indices(torch.arange(self.batch).repeat_interleave(repeats))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Make a batch of the chosen sequences, in their order; one may be chosen several times."""
        wanted, kept = indices.cpu(), []
        for group in self.groups:
            members = torch.arange(self.batch)[group.rows]
            place = torch.full((self.batch,), -1).scatter(0, members, torch.arange(len(members)))[wanted]
            rows = (place >= 0).nonzero()[:, 0]
            if len(rows):
                if group.state is not None:
                    select(group.state, len(members), place[rows])
                kept.append(Group(rows, group.start, group.state))
        self.groups, self.batch = kept, len(wanted)


def select(state: Any, batch: int, rows: Tensor) -> None:
    """Keep the given sequences of a mixer's state, whose tensors have the batch first, alone or times heads."""
    for name, value in vars(state).items():
        if isinstance(value, Tensor):
            setattr(state, name, _select(value, batch, rows))
        elif isinstance(value, list):
            setattr(state, name, [_select(each, batch, rows) for each in value])


def _select(value: Tensor, batch: int, rows: Tensor) -> Tensor:
    return value.unflatten(0, (batch, -1))[rows.to(value.device)].flatten(0, 1)
