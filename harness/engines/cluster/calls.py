"""Calls to Ray that signals may end, and whose errors are this program's."""

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

SLICE = 0.5  # seconds after which a wait that was given up ends
LOOK_FOR = 10.0  # seconds that the cluster's address has to answer


class ActorLostError(Exception):
    """An actor, or its node, is gone."""


def wait_for(refs: Sequence[Any], count: int = 1, timeout: float | None = None) -> list[Any]:
    """Those of `refs` that are done, when `count` are, or fewer after `timeout` seconds.

    In a thread of its own: in the main one Ray makes an end of the process of its own out of the
    exception by which a signal stops the program.
    """
    import ray

    found: Future[list[Any]] = Future()
    given_up = threading.Event()
    until = None if timeout is None else time.monotonic() + timeout

    def wait() -> None:
        try:
            done: list[Any] = []
            while len(done) < count and not given_up.is_set():
                done, _ = ray.wait(list(refs), num_returns=count, timeout=SLICE)
                if until is not None and time.monotonic() > until:
                    break
            found.set_result(done)
        except BaseException as error:
            found.set_exception(error)

    if not refs:
        return []
    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()
    try:
        return found.result()
    finally:
        given_up.set()
        waiting.join()


def get(ref: Any) -> Any:
    """What an actor gave.

    Raises:
        ActorLostError: it is gone; anything else is what it raised.
    """
    import ray
    from ray.exceptions import ActorUnavailableError, RayActorError, RayError, RayTaskError

    try:
        return ray.get(ref)
    except RayTaskError as error:
        # Of Ray's own making is an exception that has its traceback for a message.
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
    """See that somebody listens at host:port: Ray itself waits for minutes.

    Raises:
        OSError: nobody does.
        ValueError: it is no address.
    """
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS", address)
    if address not in (None, "auto"):
        host, _, port = str(address).rpartition(":")
        socket.create_connection((host, int(port)), timeout=LOOK_FOR).close()


@contextlib.contextmanager
def own_signals() -> Iterator[None]:
    """Ray takes SIGTERM for itself; it is this program's to handle."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
