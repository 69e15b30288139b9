"""Text of unknown origin, made fit to be read: nothing in it is invisible, nothing reorders it."""

from __future__ import annotations

import re

# Controls (but tab and newline), direction marks and overrides (CVE-2021-42574), zero-width
# characters that join nothing, line separators, the invisible "tag" alphabet, and halves of
# surrogate pairs. Joiners (U+200C, U+200D) are spelling in many scripts, and stay.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    "\ufff9-\ufffb\U000e0000-\U000e007f\ud800-\udfff]"
)


def visible(text: str) -> str:
    """`text` with every character that cannot be seen, or moves others, spelled as its number."""
    return _UNSEEN.sub(lambda found: f"⟨U+{ord(found[0]):04X}⟩", text.replace("\r\n", "\n"))


def cut(text: str, limit: int) -> tuple[str, str]:
    """The first `limit` characters of `text`, and a note on what is left out; "" for nothing."""
    if len(text) <= limit:
        return text, ""
    return text[:limit], f"the first {limit:,} of {len(text):,} characters"
