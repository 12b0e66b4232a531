"""Several processes as one run: what ``torchrun`` sets up. Nothing else in the package knows of ranks.

Every process takes its rows of the same global batch and the gradients are averaged, so N processes take the same steps
as one process with the same global batch, up to rounding.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nanochat.config import ConfigError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True, slots=True)
class World:
    """The processes of this run and the place of this one among them.

    Args:
        rank: 0 to size - 1; rank 0 writes.
        size: processes.
        local_rank: place among those of this machine, which chooses the GPU.
        wrapped: models whose gradients are averaged; :func:`group` lets go of them when it ends.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    wrapped: list[DistributedDataParallel] = field(default_factory=list, compare=False, repr=False)

    @property
    def writes(self) -> bool:
        return self.rank == 0

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model with gradients averaged over processes; the model itself for one process."""
        if self.size == 1:
            return model
        from torch.nn.parallel import DistributedDataParallel

        self.wrapped.append(DistributedDataParallel(model))
        return self.wrapped[-1]

    def mean(self, values: Tensor) -> Tensor:
        """Mean over processes."""
        return values if self.size == 1 else self.sum(values) / self.size

    def sum(self, values: Tensor) -> Tensor:
        """Sum over processes."""
        if self.size > 1:
            import torch.distributed as dist

            values = values.clone()
            dist.all_reduce(values)
        return values

    def share(self, value: Any) -> Any:
        """What rank 0 has, for all."""
        if self.size == 1:
            return value
        import torch.distributed as dist

        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]


def world() -> World:
    """The place that ``torchrun`` gave this process; one process of one without it."""
    return World(
        rank=int(os.environ.get("RANK", "0")),
        size=int(os.environ.get("WORLD_SIZE", "1")),
        local_rank=int(os.environ.get("LOCAL_RANK", "0")),
    )


def check_batch(batch_size: int, size: int) -> None:
    """Raise :class:`ConfigError` where the global batch cannot be dealt out evenly."""
    if batch_size % size:
        raise ConfigError([f"--batch-size: got {batch_size} over {size} processes, need a multiple of {size}"])


@contextmanager
def group(place: World, device: torch.device) -> Iterator[None]:
    """The process group for the duration of a run: nccl on GPUs, gloo elsewhere.

    Its threads have ended when it has. One that is left and lets go of a tensor while the interpreter shuts down aborts
    the process ("terminate called without an active exception"), and threads end with the last reference to the group:
    wrapped models hold one, and so does ``torch._dynamo`` where the first wrapped model imports it inside of the group.
    """
    if place.size == 1:
        yield
        return
    import torch._dynamo  # noqa: F401 - before the group, see above
    import torch.distributed as dist

    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        while place.wrapped:
            _release(place.wrapped.pop())
        dist.destroy_process_group()


def _release(model: DistributedDataParallel) -> None:
    """Take the process group from a model that others may still refer to."""
    del model.reducer, model.logger, model.process_group
