"""Memory that does not suffice: recognised, and said with what to lower."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator

from harness.core.errors import UserError

# What PyTorch says on a GPU, on a CPU, and through cuBLAS; and the loader of libraries.
SAID = (
    *("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED"),
    "failed to map segment",
)


class OutOfMemoryError(UserError):
    """Something does not fit in memory."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory did not suffice; PyTorch has an exception of its own for GPUs alone."""
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return True
    known = isinstance(error, RuntimeError | OSError | ImportError)
    return known and any(said in str(error) for said in SAID)


@contextlib.contextmanager
def told(sentence: str) -> Iterator[None]:
    """Say `sentence`, which tells what to lower, where memory does not suffice.

    Raises:
        OutOfMemoryError: it did not.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        # Without the cause, whose frames hold on to the memory.
        raise OutOfMemoryError(sentence) from None
