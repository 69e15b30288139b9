"""Runs of other versions of this program: read where that can be, else refused with the way out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from harness.core.errors import UserError
from harness.core.files import read_json
from harness.evals.scoring import code_version
from rlrf.run import IDENTITY


@contextlib.contextmanager
def told_of(run: Path) -> Iterator[None]:
    """Where a file of `run` cannot be read, say whether another version wrote it.

    Raises:
        UserError: one cannot.
    """
    try:
        yield
    except UserError as error:
        version = written_by(run)
        if version in (None, code_version()):
            raise
        raise UserError(
            f"{run} is a run of version {version} of this program, this is {code_version()}, and "
            f"not all of it can be read ({error}) Its board and its evaluations can. For the rest "
            f"install that version, pip install 'rlrf-harness=={version}', or start the run over "
            "with --fresh, which deletes it."
        ) from error


def written_by(run: Path) -> str | None:
    """The version that started the run in `run`; None where that is not said."""
    try:
        found = read_json(run / IDENTITY)
    except UserError:
        return None
    version = found.get("code") if isinstance(found, dict) else None
    return version if isinstance(version, str) else None
