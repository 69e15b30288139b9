"""Settings of a server: its address, its model, and how fast it may be asked."""

from __future__ import annotations

import os
import re
from typing import Self
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from harness.core.errors import UserError
from harness.core.schema import Name, Record


class ServerSettings(Record):
    """A model behind an OpenAI-compatible server."""

    base_url: str | None = Field(
        default=None, description="of an OpenAI-compatible server, usually ending in /v1"
    )
    model: Name = Field(min_length=1, description="the model's name on the server")
    revision: str | None = Field(
        default=None,
        description="of the weights; a server's is not checked, and is part of the identity",
    )
    api_key_env: str | None = Field(
        default=None, description="the name of the environment variable that holds the key"
    )
    max_concurrency: int = Field(default=16, ge=1, le=1024, description="calls at a time")
    requests_per_minute: float | None = Field(default=None, gt=0)
    tokens_per_minute: float | None = Field(
        default=None, gt=0, description="prompt and reply together"
    )
    timeout: float = Field(default=300.0, gt=0, description="seconds for one attempt in all")
    max_attempts: int = Field(
        default=5, ge=1, le=20, description="attempts per call, the first included"
    )
    backoff: float = Field(
        default=1.0,
        gt=0,
        description="seconds before the second attempt, doubled for every further one",
    )

    @property
    def address(self) -> str:
        """Return the `base_url` in one spelling, so that the same server has the same address."""
        url = urlsplit(self.base_url or "")
        usual = {"http": 80, "https": 443}.get(url.scheme)
        port = "" if url.port in (None, usual) else f":{url.port}"
        path = url.path.rstrip("/")
        for door in ("/chat/completions", "/completions"):
            path = path.removesuffix(door)
        return f"{url.scheme}://{url.hostname or ''}{port}{path}"

    # These check the whole model, so that no error shows a secret that is in the wrong field.
    @model_validator(mode="after")
    def _plain_address(self) -> Self:
        if self.base_url is None:
            return self
        try:
            url = urlsplit(self.base_url)
            has_host = bool(url.hostname) and url.port != 0
        except ValueError:
            raise ValueError("base_url is not an address") from None
        if url.scheme not in ("http", "https") or not has_host:
            raise ValueError("base_url starts with http:// or https:// and names a host")
        if url.username or url.password or url.query or url.fragment:
            raise ValueError(
                "base_url is an address without user, password, query or fragment; "
                "a key belongs in an environment variable, named in api_key_env"
            )
        return self

    @model_validator(mode="after")
    def _no_secret(self) -> Self:
        if self.api_key_env is not None and not re.fullmatch(r"[A-Z_][A-Z0-9_]*", self.api_key_env):
            raise ValueError(
                "api_key_env is the name of an environment variable, in capitals, not the key"
            )
        return self

    def key(self) -> str | None:
        """Return the key in the environment variable `api_key_env`; None if none is named.

        Raises:
            UserError: the variable is empty, or holds no key.
        """
        if self.api_key_env is None:
            return None
        key = os.environ.get(self.api_key_env, "").strip()
        if not key:
            raise UserError(
                f"The environment variable {self.api_key_env} is empty: put the server's key into "
                "it."
            )
        if not (key.isascii() and key.isprintable()) or " " in key:
            raise UserError(
                f"The environment variable {self.api_key_env} does not hold a key: it has "
                "characters that a key cannot have."
            )
        return key
