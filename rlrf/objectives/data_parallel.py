"""Train one model in several processes: each reads a share of a batch and sees the whole loss.

A loss is a mean over the examples or tokens of a batch. The mean of the means of its parts differs
from it if the parts differ in size. Here every process has the whole batch and all of its
log-probabilities, but only those of its own share have a gradient. The result is that of one
process, except for the order of floating-point additions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import torch

T = TypeVar("T")


def processes() -> int:
    """Count the processes that train together."""
    from torch import distributed

    there = distributed.is_available() and distributed.is_initialized()
    return distributed.get_world_size() if there else 1


def rank() -> int:
    """Return the number of this process, from 0."""
    from torch import distributed

    return distributed.get_rank() if processes() > 1 else 0


def is_main() -> bool:
    """Whether this process is the one that writes files."""
    return rank() == 0


def from_main(value: T) -> T:
    """Return the main process's `value` in every process."""
    if processes() == 1:
        return value
    from torch import distributed

    held = [value]
    distributed.broadcast_object_list(held)
    return held[0]


def own_share(examples: int) -> tuple[torch.Tensor, int]:
    """Return the indices of the examples that this process reads, and how many of them count.

    All processes read equally many, because each must take part in every exchange of weights and
    gradients. If there are too few examples, some are read twice and count once.
    """
    import torch

    size = math.ceil(examples / processes())
    first = rank() * size
    mine = torch.arange(first, first + size) % examples
    return mine, min(max(examples - first, 0), size)


def read_in_shares(examples: int, read: Callable[[Any], torch.Tensor]) -> torch.Tensor:
    """Compute `read(all examples)`, shape (examples, ...), each process reading its share.

    `read` takes the examples to read (an index into tensors) and returns a tensor with one row per
    example; its other sizes must be equal in all processes. Only rows read here have a gradient.
    """
    if processes() == 1:
        return read(slice(None))
    from accelerate.utils import gather  # type: ignore[import-untyped]

    places, _ = own_share(examples)
    mine = read(places)
    if mine.requires_grad:
        # DDP and FSDP average over the processes, but the gradient is a sum over the shares.
        mine.register_hook(lambda gradient: gradient * processes())  # type: ignore[no-untyped-call]
    gathered: torch.Tensor = gather(mine.detach().contiguous())
    gathered[rank() * len(places) :][: len(places)] = mine
    return gathered[:examples]


class WholeBatches:
    """Mixin for a `transformers` trainer: every process gets the batches that one would get."""

    def get_train_dataloader(self) -> Any:
        from accelerate.data_loader import BatchSamplerShard  # type: ignore[import-untyped]

        loader = super().get_train_dataloader()  # type: ignore[misc]
        sampler = loader.batch_sampler
        if isinstance(sampler, BatchSamplerShard):
            sampler.num_processes, sampler.process_index = 1, 0
            sampler.even_batches = False  # the last batch may be smaller
        return loader
