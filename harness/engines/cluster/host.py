"""What runs on a node of the cluster: an actor with an engine of its own."""

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
from harness.engines import Completion, Engine, Sampling

Pair = tuple[list[int], list[int]]  # context and continuation, as token ids


class Loader(Protocol):
    """What opens an actor's engines, one at a time; it is sent to each of them."""

    def load(self, what: Any, /) -> Engine: ...
    def release(self) -> None: ...
    def close(self) -> None: ...


class Model(Record):
    """What an actor says of the model that it has loaded."""

    name: str
    model_id: str
    model_digest: str | None
    context: int


class Host:
    """The actor: it lives on a node of the cluster, in a process of its own."""

    def __init__(self, loader: Loader, version: str) -> None:
        # As of the command line: to be set before torch is loaded.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        self._loader = loader
        self._version = version

    def place(self) -> str:
        """The name of the node.

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

    def load(self, what: Any, folders: Sequence[Path]) -> tuple[Model, list[str]]:
        """Load `what`, which lies in `folders`; what was said meanwhile comes with it."""
        for folder in folders:
            if not folder.is_dir():
                raise UserError(
                    f"The node {socket.gethostname()} has no folder {folder}: models and runs of a "
                    "cluster lie on a file system that all its nodes see, under the same path."
                )
        with _said() as lines:
            engine: Any = self._loader.load(what)
        model = Model(
            name=engine.name,
            model_id=engine.model_id,
            model_digest=engine.model_digest,
            context=engine.context,
        )
        return model, lines()

    def generate(
        self, what: Any, prompts: Sequence[str], sampling: Sampling
    ) -> tuple[list[list[Completion]], list[str]]:
        """As `Engine.generate` of `what`; what was said meanwhile comes with it."""
        with _said() as lines:
            answers = self._loader.load(what).generate(prompts, sampling)
        return answers, lines()

    def loglikelihood(
        self, what: Any, pairs: Sequence[Pair]
    ) -> tuple[list[tuple[float, bool]], list[str]]:
        """As `HFEngine.loglikelihood` of `what`; what was said meanwhile comes with it."""
        with _said() as lines:
            engine: Any = self._loader.load(what)
            scored = engine.loglikelihood(pairs)
        return scored, lines()

    def release(self) -> None:
        self._loader.release()

    def close(self) -> None:
        self._loader.close()


@contextlib.contextmanager
def _said() -> Iterator[Callable[[], list[str]]]:
    """What `say` writes while the block runs."""
    told = io.StringIO()
    with contextlib.redirect_stderr(told):
        yield lambda: told.getvalue().splitlines()


def own_version() -> str:
    return importlib.metadata.version("rlrf-harness")
