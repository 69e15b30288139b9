"""Define the errors that users read, and turn those of libraries and the system into them."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

from harness.core.text import shorten

# Messages of PyTorch on a GPU, on a CPU and through cuBLAS; and of the loader of libraries.
OUT_OF_MEMORY_MESSAGES = (
    *("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED"),
    "failed to map segment",
)
# Error numbers of the file system, and messages of libraries that are not written in Python.
FULL_DISK_ERRNOS = {errno.ENOSPC, errno.EDQUOT}
FULL_DISK_MESSAGES = ("No space left on device", "Disk quota exceeded")


class UserError(Exception):
    """Report bad input in a sentence that tells the reader what to do.

    The command line prints the sentence without a traceback and exits 3.
    """


class OutOfMemoryError(UserError):
    """Report that something does not fit in memory."""


def first_line(error: Exception) -> str:
    """Shorten a library's error to its first 300 characters on one line, or to its type."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def summarize(error: BaseException) -> str:
    """Name a library's error and its message, on one line and without the last full stop."""
    message = shorten(str(error).strip(), 300)
    return f"{type(error).__name__}: {message}".rstrip(": .")


def is_out_of_memory(error: BaseException) -> bool:
    """Detect out-of-memory errors; PyTorch has an exception type for GPUs only."""
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return True
    known = isinstance(error, RuntimeError | OSError | ImportError)
    return known and any(message in str(error) for message in OUT_OF_MEMORY_MESSAGES)


@contextlib.contextmanager
def explain_out_of_memory(advice: str) -> Iterator[None]:
    """Replace out-of-memory errors in the block by `advice`, which names the setting to lower.

    Raises:
        OutOfMemoryError: memory ran out.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        # Without the cause, whose frames hold on to the memory.
        raise OutOfMemoryError(advice) from None


@contextlib.contextmanager
def explain_full_disk(folder: Path) -> Iterator[None]:
    """Replace "disk full" errors in the block by a sentence that names `folder`.

    Raises:
        UserError: the disk is full.
    """
    try:
        yield
    except Exception as error:
        is_full = isinstance(error, OSError) and error.errno in FULL_DISK_ERRNOS
        if isinstance(error, UserError) or not (
            is_full or any(message in str(error) for message in FULL_DISK_MESSAGES)
        ):
            raise
        raise UserError(
            f"No space left in {folder}: free some, and run the same command again. "
            "What is finished is kept."
        ) from error
