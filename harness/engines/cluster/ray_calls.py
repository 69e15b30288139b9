"""Call Ray so that signals can end a call, and its errors are this program's."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from typing import Any

from harness.core.errors import UserError

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
