"""A key that a server says back is hidden in any dress, and nothing else is."""

from __future__ import annotations

import base64
import json
import urllib.parse
from collections.abc import Callable

import pytest

from harness.serving.wire import redaction

KEYS = (
    "sk-proj-Zebra/42+Quagga==",
    "hf_KudupQmZrTsWyLxVbNcJhGfDs",
    "9f8e7d6c5b4a39281706f5e4d3c2b1a0ffee1234",
    "qwertyuiopasdfghjklzxcvb",
)
DISGUISES: dict[str, Callable[[str], str]] = {
    "as it is": lambda key: key,
    "bearer": lambda key: f"Bearer {key}",
    "base64": lambda key: base64.b64encode(key.encode()).decode(),
    "urlsafe base64": lambda key: base64.urlsafe_b64encode(key.encode()).decode(),
    "basic": lambda key: base64.b64encode(f"user:{key}".encode()).decode(),
    "basic, another place": lambda key: base64.b64encode(f"u:{key}:x".encode()).decode(),
    "bearer in base64": lambda key: base64.b64encode(f"Bearer {key}".encode()).decode(),
    "quoted": lambda key: urllib.parse.quote(key, safe=""),
    "quoted in small letters": lambda key: (
        urllib.parse.quote(key, safe="").lower()
        if "%" in urllib.parse.quote(key, safe="") and key.islower()
        else urllib.parse.quote(key, safe="")
    ),
    "JSON": lambda key: json.dumps(key).replace("/", "\\/"),
    "hexadecimal": lambda key: key.encode().hex(),
    "the beginning": lambda key: f"{key[:8]}...",
    "a longer beginning": lambda key: f"{key[:14]}***",
    "the end": lambda key: f"...{key[-9:]}",
    "the middle": lambda key: f"*{key[5:15]}*",
}


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("dress", DISGUISES)
def test_a_key_is_hidden_in_any_dress(key: str, dress: str) -> None:
    shown = DISGUISES[dress](key)
    said = redaction(key)(f"The key {shown} is not known, is it?")
    assert "[key]" in said and said.startswith("The key ") and said.endswith(" known, is it?")
    for start in range(len(shown) - 7):
        part = shown[start : start + 8]
        core = part.removeprefix("Bearer ").strip("*. ")
        assert len(core) < 8 or core not in said or dress in ("basic", "bearer in base64")
    assert key not in said and base64.b64encode(key.encode()).decode()[4:-4] not in said


@pytest.mark.parametrize(
    "key", ["EMPTY", "none", "anything-goes-here", "placeholder key 1", "password"]
)
def test_words_of_honest_replies_stay(key: str) -> None:
    said = "Not one of them is EMPTY: anything goes, none has a placeholder. The rest is fine."
    assert redaction(key)(said) == said


def test_without_a_key_a_text_is_as_it_is() -> None:
    assert redaction(None)("Bearer x") == "Bearer x"
