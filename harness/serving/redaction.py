"""Remove a key from what a server says: whole, encoded, or in part."""

from __future__ import annotations

import base64
import json
import re
import urllib.parse
from collections.abc import Callable, Iterator

MIN_KEY_CHARS = 8  # a shorter key is a placeholder, and may be a word of a reply
MIN_PART_CHARS = 8  # a shorter part of a key is not secret, and may be a word
MAX_WORD_CHARS = 12  # a longer run of letters is random, not a word
SHOWN = "[key]"


def redaction(key: str | None) -> Callable[[str], str]:
    """Return a function that replaces `key` in a text by "[key]", also where it is encoded.

    The encodings are base64 at any of its three alignments, hexadecimal, percent- and
    JSON-encoding. Every run of eight or more characters of any of these is replaced.
    """
    if key is None or len(key) < MIN_KEY_CHARS:
        return lambda text: text
    forms = list(dict.fromkeys(form for form in _forms(key) if len(form) >= MIN_PART_CHARS))
    parts = {
        form[start : start + MIN_PART_CHARS]
        for form in forms
        for start in range(len(form) - MIN_PART_CHARS + 1)
    }
    # A word in a made-up key ("anything-goes") would be replaced in every honest reply.
    words = [word for word in re.findall("[A-Za-z]+", key) if word != key and _is_word(word)]
    parts = {part for part in parts if not any(part in word for word in words)}

    def redact(text: str) -> str:
        hidden = [False] * len(text)
        for start in range(len(text) - MIN_PART_CHARS + 1):
            if text[start : start + MIN_PART_CHARS] in parts:
                hidden[start : start + MIN_PART_CHARS] = [True] * MIN_PART_CHARS
        return _replace(text, hidden) if any(hidden) else text

    return redact


def _is_word(letters: str) -> bool:
    return len(letters) <= MAX_WORD_CHARS and letters[1:].islower()


def _forms(key: str) -> Iterator[str]:
    """Yield the encodings of `key`."""
    for quoted in (key, urllib.parse.quote(key, safe=""), urllib.parse.quote_plus(key)):
        yield quoted
        yield re.sub("%[0-9A-F]{2}", lambda found: found.group().lower(), quoted)
    yield json.dumps(key)[1:-1]
    yield key.replace("/", "\\/")
    yield key.encode().hex()
    yield key.encode().hex().upper()
    for before in range(3):
        # Base64 differs by the alignment of a byte among three. The ends, which depend on the
        # neighbouring bytes, are left out.
        whole = b"\0" * before + key.encode()
        coded = base64.b64encode(whole).decode()
        inner = coded[-(-before * 8 // 6) : len(whole) * 8 // 6]
        yield inner
        yield inner.replace("+", "-").replace("/", "_")


def _replace(text: str, hidden: list[bool]) -> str:
    """Replace each run of `hidden` characters."""
    shown = []
    for place, char in enumerate(text):
        if not hidden[place]:
            shown.append(char)
        elif place == 0 or not hidden[place - 1]:
            shown.append(SHOWN)
    return "".join(shown)
