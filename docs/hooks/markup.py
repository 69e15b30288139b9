"""Write text from the code as Markdown, and pages as the site generator reads Markdown."""

from __future__ import annotations

import re
from collections.abc import Callable

from markdown_it import MarkdownIt

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


def four_space_lists(text: str) -> str:
    """Indent lists by four spaces and put an empty line before them.

    Python-Markdown, which builds the site, needs both; GitHub and editors need neither.
    """
    lines = text.split("\n")
    indented = list(lines)
    separate: set[int] = set()  # lines that need an empty line before them
    for token in MarkdownIt("gfm-like", {"linkify": False}).parse(text):
        first, end = token.map or (0, 0)
        if token.type.endswith("list_open") and token.level == 0:
            separate.add(first)
        if token.type == "list_item_open":
            depth = (token.level + 1) // 2
            marker = re.match(r" *([-*+]|\d+[.)]) *", lines[first])
            column = marker.end() if marker else 0
            indented[first] = " " * 4 * (depth - 1) + lines[first].lstrip()
            for line in range(first + 1, end):
                inside = max(0, len(lines[line]) - len(lines[line].lstrip()) - column)
                indented[line] = (" " * (4 * depth + inside) + lines[line].lstrip()).rstrip()
            if "" in indented[first:end]:  # several blocks
                separate.add(end)
    return "\n".join(
        "\n" * (number in separate and number > 0 and lines[number - 1] != "") + line
        for number, line in enumerate(indented)
    )
