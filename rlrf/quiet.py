"""Silence the progress bars and notices of training libraries."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hide progress bars and notices of libraries while the block runs.

    Every setting that is changed is restored when the block ends, however it ends.
    """
    import datasets
    from transformers.utils import logging

    from harness.engines.loading import without_bars

    with contextlib.ExitStack() as changed, warnings.catch_warnings():
        changed.callback(_set_environment, "TQDM_DISABLE", os.environ.get("TQDM_DISABLE"))
        os.environ["TQDM_DISABLE"] = "1"
        if not datasets.utils.are_progress_bars_disabled():
            changed.callback(datasets.enable_progress_bars)
            datasets.disable_progress_bars()
        changed.enter_context(without_bars())
        changed.callback(logging.set_verbosity, logging.get_verbosity())
        logging.set_verbosity_error()
        warnings.simplefilter("ignore")
        yield


def _set_environment(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value
