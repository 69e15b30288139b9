"""Several processes train one model: each reads a share of a batch, all see the loss of the whole.

A loss is a mean over the examples or the tokens of a batch, and the mean of the means of its parts
is another number as soon as the parts differ in size. Here every process has the whole batch and
the same log-probabilities of it, of which those of its own share have a gradient. What is trained
is what one process would train, but for the order in which numbers are added up.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import torch

T = TypeVar("T")


def processes() -> int:
    """How many train together."""
    from torch import distributed

    there = distributed.is_available() and distributed.is_initialized()
    return distributed.get_world_size() if there else 1


def rank() -> int:
    """Which of them this one is, from 0."""
    from torch import distributed

    return distributed.get_rank() if processes() > 1 else 0


def is_main() -> bool:
    """Whether this process is the one that writes files."""
    return rank() == 0


def from_main(value: T) -> T:
    """What the main process has as `value`."""
    if processes() == 1:
        return value
    from torch import distributed

    held = [value]
    distributed.broadcast_object_list(held)
    return held[0]


def share(examples: int) -> tuple[torch.Tensor, int]:
    """The examples of a batch that this process reads, and how many of them count.

    All processes read equally many, as they have to take part in every exchange of weights and
    gradients: where there are too few, some are read again and do not count.
    """
    import torch

    size = math.ceil(examples / processes())
    first = rank() * size
    mine = torch.arange(first, first + size) % examples
    return mine, min(max(examples - first, 0), size)


def whole(examples: int, read: Callable[[Any], torch.Tensor]) -> torch.Tensor:
    """`read(all examples)`, shape (examples, ...), of which this process reads its share.

    `read` takes the examples to read (an index of tensors) and gives a tensor with a row for each;
    the other sizes are the same in all processes. Only what was read here has a gradient.
    """
    if processes() == 1:
        return read(slice(None))
    from accelerate.utils import gather  # type: ignore[import-untyped]

    places, _ = share(examples)
    mine = read(places)
    if mine.requires_grad:
        # DDP and FSDP take the mean over the processes of what is a sum over the shares.
        mine.register_hook(lambda gradient: gradient * processes())  # type: ignore[no-untyped-call]
    found: torch.Tensor = gather(mine.detach().contiguous())
    found[rank() * len(places) :][: len(places)] = mine
    return found[:examples]


class WholeBatches:
    """For a trainer of `transformers`: all processes get the same batches, those of one process."""

    def get_train_dataloader(self) -> Any:
        from accelerate.data_loader import BatchSamplerShard  # type: ignore[import-untyped]

        loader = super().get_train_dataloader()  # type: ignore[misc]
        sampler = loader.batch_sampler
        if isinstance(sampler, BatchSamplerShard):
            sampler.num_processes, sampler.process_index = 1, 0
            sampler.even_batches = False  # the last batch may be a smaller one
        return loader
