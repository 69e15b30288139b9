"""What a user says about a server: where it is, what it serves, how fast it may be asked."""

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
    model: Name = Field(min_length=1, description="as the server calls it")
    revision: str | None = Field(
        default=None, description="of the weights; a server's is taken on trust, as part of the id"
    )
    api_key_env: str | None = Field(
        default=None, description="the name of the environment variable that holds the key"
    )
    max_concurrency: int = Field(default=16, ge=1, le=1024, description="calls at a time")
    requests_per_minute: float | None = Field(default=None, gt=0)
    tokens_per_minute: float | None = Field(
        default=None, gt=0, description="read and written together"
    )
    timeout: float = Field(default=300.0, gt=0, description="seconds that one try may take in all")
    max_attempts: int = Field(
        default=5, ge=1, le=20, description="tries a call, the first included"
    )
    backoff: float = Field(
        default=1.0, gt=0, description="seconds before the second try, doubled with every try"
    )

    @property
    def address(self) -> str:
        """The `base_url` in one spelling, so that two of them are equal for one server."""
        url = urlsplit(self.base_url or "")
        usual = {"http": 80, "https": 443}.get(url.scheme)
        port = "" if url.port in (None, usual) else f":{url.port}"
        path = url.path.rstrip("/")
        for door in ("/chat/completions", "/completions"):
            path = path.removesuffix(door)
        return f"{url.scheme}://{url.hostname or ''}{port}{path}"

    # The checks are on the whole, so that no error shows a secret that stands in a wrong place.
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
        """The key in the environment variable that is named; None if none is.

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
                f"What the environment variable {self.api_key_env} holds is no key: it has odd "
                "characters."
            )
        return key
