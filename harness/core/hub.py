"""Ask the Hugging Face hub, without minutes of retries where it cannot be reached."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

PROXIES = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")


@contextlib.contextmanager
def without_vain_retries() -> Iterator[None]:
    """In the block, use only what was downloaded before if the hub has no address here.

    The hub's client asks six times, over half a minute, where there is no network at all.
    """
    import huggingface_hub.constants as settings

    if settings.HF_HUB_OFFLINE or _has_address(settings.ENDPOINT):
        yield
        return
    with contextlib.ExitStack() as changed:
        changed.enter_context(_changed(settings, "HF_HUB_OFFLINE", True))
        with contextlib.suppress(ImportError):
            import datasets.config

            changed.enter_context(_changed(datasets.config, "HF_HUB_OFFLINE", True))
        yield


def _has_address(endpoint: str) -> bool:
    if any(os.environ.get(name) for name in PROXIES):
        return True  # the proxy knows the address
    try:
        return bool(socket.getaddrinfo(urlsplit(endpoint).hostname, None))
    except OSError:
        return False


@contextlib.contextmanager
def _changed(module: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)
