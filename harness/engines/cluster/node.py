"""Run on a node of the cluster: an actor with its own engine.

Call Ray so that signals can end a call, and its errors are this program's.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
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


WAIT_SECONDS = 0.5  # after which a wait that was given up ends
CONNECT_SECONDS = 10.0  # that the cluster's address has to answer


class ActorLostError(Exception):
    """An actor, or its node, is gone."""


def wait_for(refs: Sequence[Any], count: int = 1, timeout: float | None = None) -> list[Any]:
    """Return those of `refs` that are done, once `count` are, or fewer after `timeout` seconds.

    Waits in another thread: in the main thread, Ray ends the whole process when a signal handler
    raises.
    """
    import ray

    result: Future[list[Any]] = Future()
    given_up = threading.Event()
    until = None if timeout is None else time.monotonic() + timeout

    def wait() -> None:
        try:
            done: list[Any] = []
            while len(done) < count and not given_up.is_set():
                done, _ = ray.wait(list(refs), num_returns=count, timeout=WAIT_SECONDS)
                if until is not None and time.monotonic() > until:
                    break
            result.set_result(done)
        except BaseException as error:
            result.set_exception(error)

    if not refs:
        return []
    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()
    try:
        return result.result()
    finally:
        given_up.set()
        waiting.join()


def get(ref: Any) -> Any:
    """Return an actor's result, or raise what it raised.

    Raises:
        ActorLostError: the actor is gone.
    """
    import ray
    from ray.exceptions import ActorUnavailableError, RayActorError, RayError, RayTaskError

    try:
        return ray.get(ref)
    except RayTaskError as error:
        # The exception that Ray makes of the cause has a traceback as its message.
        if isinstance(error.cause, UserError):
            raise error.cause from None
        raise error.cause from error
    except ActorUnavailableError:
        raise ActorLostError("its node does not answer") from None
    except RayError as error:
        last = str(error).strip().splitlines()[-1]
        if isinstance(error, RayActorError) and error.actor_init_failed:
            raise UserError(
                f"A node of the cluster cannot run this program ({last}): install the same "
                "environment on all nodes."
            ) from None
        raise ActorLostError(last.partition(". ")[0].strip()) from None


def check_reachable(address: str | None) -> None:
    """Check that something listens at host:port, for which Ray itself waits minutes.

    Raises:
        OSError: nothing listens there.
        ValueError: not an address.
    """
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS", address)
    if address not in (None, "auto"):
        host, _, port = str(address).rpartition(":")
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()


@contextlib.contextmanager
def own_signals() -> Iterator[None]:
    """Keep this program's handler of SIGTERM, which Ray replaces by its own."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
