"""Run on a node of the cluster: an actor with its own engine."""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from harness.core.errors import UserError
from harness.core.schema import Record
from harness.engines import LocalEngine


class Loader(Protocol):
    """Open an actor's engines, one at a time; each actor gets a copy."""

    def load(self, what: Any, /) -> LocalEngine: ...
    def release(self) -> None: ...
    def close(self) -> None: ...


class LoadedModel(Record):
    """The model that an actor has loaded, as it is shown to the run."""

    name: str
    model_id: str
    model_digest: str | None
    context: int


class Actor:
    """A process on a node of the cluster. Methods also return the lines that were logged."""

    def __init__(self, loader: Loader, version: str) -> None:
        # Set before torch is loaded, as the command line does.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        self._loader = loader
        self._version = version

    def place(self) -> str:
        """Return the name of the node.

        Raises:
            UserError: another version of this program is installed there.
        """
        node, version = socket.gethostname(), own_version()
        if version != self._version:
            raise UserError(
                f"The node {node} has version {version} of this program, and the run is of "
                f"{self._version}: install the same one on all nodes."
            )
        return node

    def load(self, what: Any, folders: Sequence[Path]) -> tuple[LoadedModel, list[str]]:
        """Load `what`, which lies in `folders`."""
        for folder in folders:
            if not folder.is_dir():
                raise UserError(
                    f"The node {socket.gethostname()} has no folder {folder}: put models and runs "
                    "of a cluster on a file system that all its nodes see, under the same path."
                )
        with _logged() as lines:
            engine = self._loader.load(what)
        model = LoadedModel(
            name=engine.name,
            model_id=engine.model_id,
            model_digest=engine.model_digest,
            context=engine.context,
        )
        return model, lines()

    def call(
        self, what: Any, method: str, part: Sequence[Any], options: Sequence[Any]
    ) -> tuple[list[Any], list[str]]:
        """Call `method` of the engine of `what` on a part of the prompts or pairs."""
        with _logged() as lines:
            made = getattr(self._loader.load(what), method)(part, *options)
        return made, lines()

    def release(self) -> None:
        self._loader.release()

    def close(self) -> None:
        self._loader.close()


@contextlib.contextmanager
def _logged() -> Iterator[Callable[[], list[str]]]:
    """Collect what `say` writes while the block runs."""
    told = io.StringIO()
    with contextlib.redirect_stderr(told):
        yield lambda: told.getvalue().splitlines()


def own_version() -> str:
    return importlib.metadata.version("rlrf-harness")
