"""Write text from the code as Markdown."""

from __future__ import annotations

import re
from collections.abc import Callable

_SPECIAL = re.compile(r"([\\*_<>\[\]#|{}])")


def escape(text: str) -> str:
    """Escape what Markdown would read as markup, outside `code`."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else _SPECIAL.sub(r"\\\1", part) for part in parts)


def fenced(text: str, language: str = "text") -> str:
    """Return a code block; the fence is longer than any in the text."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}\n"


def prose_by(change: Callable[[str], str], text: str) -> str:
    """Change the text outside code blocks."""
    parts = re.split(r"(^(```+).*?^\2`*\n)", text, flags=re.MULTILINE | re.DOTALL)
    return "".join(
        change(part) if position % 3 == 0 else part * (position % 3 == 1)
        for position, part in enumerate(parts)
    )
